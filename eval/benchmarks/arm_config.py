"""A bench file of kind `arm` (configs/bench_arm.yaml): what of the control loop is measured, and how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ebt_policy.eval.benchmarks.bench_file import record


@dataclass(frozen=True)
class ArmBench:
    """policy acts on task, the twin's. episodes: in simulated time, of each way of thinking; real_episodes: in real time.
    seed: of the first one. calibration_episodes: to learn from which energy a decision usually begins, on seeds of their own. budgets: evaluations.
    seconds: of each line of the table of punctuality; hz: of that loop. parts: which of parity, thinking, punctuality.
    """

    policy: str = "shipped:aloha_transfer_cube_ebt"
    task: str = "aloha_transfer_cube"
    episodes: int = 50
    real_episodes: int = 20
    seed: int = 100_000
    calibration_episodes: int = 40
    calibration_seed: int = 300_000
    budgets: tuple[int, ...] = (1, 2, 4)
    hz: float = 50.0
    seconds: float = 60.0
    parts: tuple[str, ...] = ("punctuality", "parity", "thinking")


def read_arm_bench(path: Path) -> ArmBench:
    """Raises UserError for options that do not exist."""
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    data.pop("kind")
    return record(ArmBench, data, str(path))

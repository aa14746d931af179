"""Options of a bench file of kind `arm` (configs/bench_arm.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ebt_policy.eval.benchmarks.bench_file import record


@dataclass(frozen=True)
class ArmBench:
    """What to measure.

    policy, task: the policy and the task of the simulated arm. episodes: in simulated time, for each stopping rule.
    real_episodes: in real time. seed: of the first episode. calibration_episodes, calibration_seed: episodes to calibrate the
    energy on. budgets: fixed numbers of evaluations. seconds, hz: duration and rate of each punctuality run. parts: which of
    parity, thinking and punctuality to run.
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
    """Read the file. Raises UserError for unknown options."""
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    data.pop("kind")
    return record(ArmBench, data, str(path))

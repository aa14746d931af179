"""Options of a bench file of kind `monitor`, read from YAML. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_file import record
from ebt_policy.suggestions import did_you_mean


@dataclass(frozen=True)
class MonitorTask:
    """env: without disturbance. policy: see `load_runner`. diffusion: a matched diffusion policy, for its loss.

    disturbances: KIND or KIND:STRENGTH, each on the same seeds. round: episodes of one environment before the next one's turn, and
    in one file. at_most, calibration_episodes: replace the bench's values for this task.
    """

    env: str
    policy: str
    disturbances: tuple[str, ...]
    diffusion: str | None = None
    max_evaluations: int | None = None
    at_most: int | None = None
    calibration_episodes: int | None = None
    round: int = 100


@dataclass(frozen=True)
class DetectorRow:
    """A line of the table: signals that are averaged into one score (see `Statistic`). window=1: the plain maximum."""

    name: str
    signals: tuple[str, ...]
    window: int | None = None


@dataclass(frozen=True)
class MonitorBench:
    """calibration_episodes: undisturbed; a fifth of the successful ones sets the scales. per_cell: test episodes wanted in each
    of success/failure x undisturbed/disturbed. at_most: episodes to run for each half, where one round of it is not more. reference: line to compare with.
    """

    name: str
    tasks: tuple[MonitorTask, ...]
    detectors: tuple[DetectorRow, ...]
    reference: str
    calibration_episodes: int = 300
    calibration_seed: int = 300_000
    per_cell: int = 200
    at_most: int = 3000
    seed: int = 100_000
    alphas: tuple[float, ...] = (0.05, 0.10)


def load_monitor_bench(path: Path) -> MonitorBench:
    """Read and check a file of kind `monitor`. Raises UserError naming a missing or unknown key."""
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    data.pop("kind")
    tasks = tuple(record(MonitorTask, task, f"{path}, tasks") for task in data.pop("tasks", []))
    rows = tuple(record(DetectorRow, row, f"{path}, detectors") for row in data.pop("detectors", []))
    config = record(MonitorBench, data | {"name": path.stem, "tasks": tasks, "detectors": rows}, str(path))
    names = [row.name for row in rows]
    if config.reference not in names:
        raise UserError(
            f"{path}: reference '{config.reference}' is none of the detectors.{did_you_mean(config.reference, names)}"
        )
    if not tasks:
        raise UserError(f"{path}: 'tasks' is missing.")
    return config

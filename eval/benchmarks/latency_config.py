"""Options of a bench file of kind `latency` (configs/bench_latency.yaml). Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_file import record
from ebt_policy.suggestions import did_you_mean

HANDOVERS = ("wait", "switch", "blend", "ensemble", "fix")


@dataclass(frozen=True)
class LatencyTask:
    """env, policy: see `load_runner`. hold: while it waits, the arm repeats its `last` action (positions), or takes the env's own action
    that moves nothing (`env`, for actions that are movements). gripper: indices of actions that are left out of the jerk, since
    a gripper opens in one tick. episodes: replaces the bench's number.
    """

    env: str
    policy: str
    hold: str = "last"
    gripper: tuple[int, ...] = ()
    episodes: int | None = None


@dataclass(frozen=True)
class LatencyRow:
    """How a new chunk takes over. wait: the arm holds while the policy thinks. switch: it follows the old chunk meanwhile, then the
    new one by time. blend: likewise, the new one taking over within blend_s, as `deploy --chunking=blend`. ensemble: the average of
    all chunks for this tick, weights exp(-.01 i), the oldest first, a new chunk as often as the latency allows (ACT). fix:
    real-time chunking, `pull` being the schedule by which what follows the fixed actions is pulled.
    """

    name: str
    handover: str
    pull: str = "zeros"
    blend_s: float = 0.1


@dataclass(frozen=True)
class LatencyBench:
    """latencies_ms: from observation to actions, in simulated time. reference: row and latency that others are compared with."""

    tasks: tuple[LatencyTask, ...]
    rows: tuple[LatencyRow, ...]
    latencies_ms: tuple[int, ...] = (0, 100, 200, 400)
    episodes: int = 100
    seed: int = 100_000


def read_latency_bench(path: Path) -> LatencyBench:
    """Read and check the file. Raises UserError for unknown keys and values."""
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    data.pop("kind")
    tasks = tuple(record(LatencyTask, task, f"{path}, tasks") for task in data.pop("tasks", []))
    rows = tuple(record(LatencyRow, row, f"{path}, rows") for row in data.pop("rows", []))
    for row in rows:
        if row.handover not in HANDOVERS:
            raise UserError(
                f"{path}, row '{row.name}': handover is '{row.handover}'; expected {', '.join(HANDOVERS)}."
                f"{did_you_mean(row.handover, HANDOVERS)}"
            )
    for task in tasks:
        if task.hold not in ("last", "env"):
            raise UserError(f"{path}, task '{task.env}': hold is '{task.hold}'; expected last or env.")
    if not tasks or not rows:
        raise UserError(f"{path}: expected 'tasks' and 'rows'.")
    return record(LatencyBench, data | {"tasks": tasks, "rows": rows}, str(path))

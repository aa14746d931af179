"""The record of one episode, and its storage as a Parquet row with the traces of its decisions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ebt_policy.errors import UserError
from ebt_policy.model.trace import Trace

_METADATA_KEY = b"ebt_policy"


@dataclass(eq=False)  # traces hold arrays
class Episode:
    """One episode. Entry i of `traces` is the decision at tick i * n_action_steps.

    ticks_to_success: None if it never succeeded. inner_steps: mean per decision. final_energy_mean, final_energy_max: over
    decisions; NaN for policies without an energy.
    task: the sentence that the env gives for it; "" where it gives none.
    Not stored: frames, the picture before the first tick and after each tick, uint8 (H, W, 3), if recorded; coverages, the
    coverage after each tick; disturbance, the plan of a disturbed env and `acted`, whether it did; decision_ticks, the tick of each
    decision; watch, the Watch of a WatchedRunner.
    """

    seed: int
    env: str
    success: bool
    max_coverage: float
    final_coverage: float
    ticks: int
    ticks_to_success: int | None
    n_action_steps: int
    decisions: int
    evaluations_per_decision: float
    inner_steps: float
    final_energy_mean: float
    final_energy_max: float
    traces: list[Trace] = field(repr=False)
    task: str = ""
    frames: list[np.ndarray] | None = field(default=None, repr=False)
    coverages: list[float] | None = field(default=None, repr=False)
    disturbance: dict[str, Any] | None = field(default=None, repr=False)
    decision_ticks: list[int] | None = field(default=None, repr=False)
    watch: Any = field(default=None, repr=False)


_UNSTORED = ("frames", "coverages", "disturbance", "decision_ticks", "watch")
_SCALARS = [f.name for f in fields(Episode) if f.name not in ("traces", *_UNSTORED)]
_PER_STEP = {
    "energy": pa.float32(),
    "residual_rms": pa.float32(),
    "step_size": pa.float32(),
}
_SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("env", pa.string()),
        ("task", pa.string()),
        ("success", pa.bool_()),
        ("max_coverage", pa.float64()),
        ("final_coverage", pa.float64()),
        ("ticks", pa.int32()),
        ("ticks_to_success", pa.int32()),
        ("n_action_steps", pa.int32()),
        ("decisions", pa.int32()),
        ("evaluations_per_decision", pa.float64()),
        ("inner_steps", pa.float64()),
        ("final_energy_mean", pa.float64()),
        ("final_energy_max", pa.float64()),
        # A list per decision, each with one entry per inner step.
        *((f"trace_{name}", pa.list_(pa.list_(kind))) for name, kind in _PER_STEP.items()),
        ("trace_evaluations", pa.list_(pa.int64())),
        ("trace_stop_reason", pa.list_(pa.int8())),
        ("trace_seconds", pa.list_(pa.float64())),
    ]
)


def write_parquet(path: Path | str, episodes: Sequence[Episode], metadata: dict[str, Any]) -> None:
    """Write one row per episode, atomically. metadata: JSON values stored in the file (settings, versions, seeds)."""
    schema = _SCHEMA.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()})
    table = pa.Table.from_pylist([_to_row(episode) for episode in episodes], schema=schema)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    pq.write_table(table, partial)
    os.replace(partial, path)


def read_parquet(path: Path | str) -> tuple[list[Episode], dict[str, Any]]:
    """Read episodes and metadata written by `write_parquet`. Raises UserError for any other file."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"Cannot read episodes from {path}: {error}") from error
    metadata = (table.schema.metadata or {}).get(_METADATA_KEY)
    before_tasks = _SCHEMA.remove(_SCHEMA.get_field_index("task"))  # files of an earlier version lack it
    if metadata is None or not any(table.schema.equals(schema) for schema in (_SCHEMA, before_tasks)):
        raise UserError(
            f"{path} does not hold episodes of this version of ebt-policy. Run the evaluation again."
        )
    return [_from_row(row) for row in table.to_pylist()], json.loads(metadata)


def _to_row(episode: Episode) -> dict[str, Any]:
    row = {name: getattr(episode, name) for name in _SCALARS}
    for name in _PER_STEP:
        row[f"trace_{name}"] = [getattr(trace, name)[0] for trace in episode.traces]
    row["trace_evaluations"] = [int(trace.evaluations[0]) for trace in episode.traces]
    row["trace_stop_reason"] = [int(trace.stop_reason[0]) for trace in episode.traces]
    row["trace_seconds"] = [trace.seconds for trace in episode.traces]
    return row


def _from_row(row: dict[str, Any]) -> Episode:
    traces = [
        Trace.from_dict(
            {name: [row[f"trace_{name}"][i]] for name in (*_PER_STEP, "evaluations", "stop_reason")}
            | {"seconds": row["trace_seconds"][i]}
        )
        for i in range(row["decisions"])
    ]
    return Episode(**{name: row[name] for name in _SCALARS if name in row}, traces=traces)

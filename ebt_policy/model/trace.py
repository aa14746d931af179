"""Trace: energies, step sizes, stop reason and cost of one decision.

Legend: B samples decided together, S inner steps recorded (the longest sample; others are padded), H horizon,
A action dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class StopReason(IntEnum):
    """Which rule ended the descent of one sample."""

    NONE = 0  # nothing iterative ran (single-pass and fixed-schedule policies)
    BUDGET = 3  # max_evaluations reached
    DEADLINE = 4  # wall-clock limit reached
    NOT_FINITE = 5  # the energy was NaN or infinite
    SETTLED = 6  # the answer changed by less than its tolerance
    ENERGY = 7  # the energy of the last plan is low enough


READINGS = ("old_plan_energy",)  # a number a sample, or absent


@dataclass(eq=False)  # arrays have no single truth value
class Trace:
    """One decision for B samples.

    Entry s belongs to the s-th point whose energy was evaluated: the last is where the returned chunk was read off.
    Entries after a sample stopped are padding (NaN, False); S is 0 for policies without an energy.
    energy (B, S) float32, residual_rms (B, S) float32, step_size (B, S) float32,
    evaluations (B,) int64: forward passes of the trunk, stop_reason (B,) int8: a StopReason,
    seconds: wall clock of the whole decision, encoding included, shared by the B samples.
    old_plan_energy (B,) float32: energy, under the present observation, of the actions that the last decision planned
    from now on, without added noise; NaN where there was none. None where the policy has no such reading.
    """

    energy: NDArray[np.float32]
    residual_rms: NDArray[np.float32]
    step_size: NDArray[np.float32]
    evaluations: NDArray[np.int64]
    stop_reason: NDArray[np.int8]
    seconds: float = 0.0
    old_plan_energy: NDArray[np.float32] | None = None

    @classmethod
    def from_steps(
        cls, steps: Sequence[tuple[Tensor, Tensor, Tensor]], evaluations: Tensor, stop_reason: Tensor
    ) -> Trace:
        """From one (energy, residual_rms, step_size), each (B,), for every point that was evaluated.

        One copy off the device for all of them, so that a trace is cheap enough to be always on.
        """
        columns = [column.float() for step in steps for column in step]
        columns += [evaluations.float(), stop_reason.float()]
        table = torch.stack(columns, 1).cpu().numpy()  # (B, 3 S + 2)
        recorded = table[:, :-2].reshape(len(table), -1, 3)
        return cls(
            energy=recorded[..., 0],
            residual_rms=recorded[..., 1],
            step_size=recorded[..., 2],
            evaluations=table[:, -2].astype(np.int64),
            stop_reason=table[:, -1].astype(np.int8),
        )

    @classmethod
    def without_steps(cls, batch_size: int, evaluations: int, seconds: float = 0.0) -> Trace:
        """Trace of a policy without an energy: only its cost is known."""
        empty = np.empty((batch_size, 0), np.float32)
        return cls(
            energy=empty,
            residual_rms=empty,
            step_size=empty,
            evaluations=np.full(batch_size, evaluations, np.int64),
            stop_reason=np.full(batch_size, StopReason.NONE, np.int8),
            seconds=seconds,
        )

    @property
    def batch_size(self) -> int:
        return len(self.evaluations)

    @property
    def steps(self) -> int:
        """S, the inner steps recorded for the longest sample."""
        return self.energy.shape[1]

    @property
    def steps_taken(self) -> NDArray[np.int64]:
        """(B,) inner steps recorded for each sample: the entries that are not padding."""
        return (~np.isnan(self.energy)).sum(1)

    @property
    def final_energy(self) -> NDArray[np.float32]:
        """(B,) energy of the last point with a finite one; NaN where there is none."""
        return _pick(self.energy, _last(np.isfinite(self.energy)))

    @property
    def first_energy(self) -> NDArray[np.float32]:
        """(B,) energy of the first point with a finite one; NaN where there is none."""
        return _pick(self.energy, _first(np.isfinite(self.energy)))

    @property
    def energy_drop(self) -> NDArray[np.float32]:
        """(B,) first recorded minus final energy; NaN where none was recorded."""
        return self.first_energy - self.final_energy

    def old_plan(self, index: int) -> float | None:
        """`old_plan_energy` of one sample; None where there is none."""
        value = np.nan if self.old_plan_energy is None else float(self.old_plan_energy[index])
        return value if np.isfinite(value) else None

    def row(self, index: int) -> Trace:
        """The same decision for one sample, its padding cut off: a Trace with B = 1 and S = its own steps."""
        rows = slice(index, index + 1)
        taken = int(self.steps_taken[index])
        return Trace(
            energy=self.energy[rows, :taken],
            residual_rms=self.residual_rms[rows, :taken],
            step_size=self.step_size[rows, :taken],
            evaluations=self.evaluations[rows],
            stop_reason=self.stop_reason[rows],
            seconds=self.seconds,
            **{
                name: value[rows]
                for name, value in ((name, getattr(self, name)) for name in READINGS)
                if value is not None
            },
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for JSON; NaN and infinities become None, since JSON has none of them."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """The inverse of to_dict."""
        size = len(record["evaluations"])

        def steps(name: str, dtype: type[np.generic]) -> NDArray[Any]:
            return np.array(record[name], dtype).reshape(size, -1)  # None becomes NaN in a float array

        return cls(
            energy=steps("energy", np.float32),
            residual_rms=steps("residual_rms", np.float32),
            step_size=steps("step_size", np.float32),
            evaluations=np.array(record["evaluations"], np.int64),
            stop_reason=np.array(record["stop_reason"], np.int8),
            seconds=float(record["seconds"]),
            **{name: np.array(record[name], np.float32) for name in READINGS if record.get(name) is not None},
        )


@dataclass
class Decision:
    """A decision for B samples. chunk (B, H, A) is normalised; chunk[:, 0] is for the current tick. encoded (B, D): the
    observations as the policy's encoder gave them; None for policies of others.
    """

    chunk: Tensor
    trace: Trace
    encoded: Tensor | None = None


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype != np.float32:
        return value.tolist()
    if value.ndim == 1:
        return [x if np.isfinite(x) else None for x in value.tolist()]
    return [[x if np.isfinite(x) else None for x in row] for row in value.tolist()]


def _first(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(B,) index of the first True in each row of (B, S); -1 where there is none."""
    return np.where(mask.any(1), mask.argmax(1), -1) if mask.shape[1] else np.full(len(mask), -1)


def _last(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    first_from_end = _first(mask[:, ::-1])
    return np.where(first_from_end < 0, -1, mask.shape[1] - 1 - first_from_end)


def _pick(values: NDArray[np.float32], index: NDArray[np.int64]) -> NDArray[np.float32]:
    """values[i, index[i]], NaN where index is -1."""
    if not values.shape[1]:
        return np.full(len(values), np.nan, np.float32)
    picked = values[np.arange(len(values)), np.maximum(index, 0)]
    return np.where(index < 0, np.float32(np.nan), picked)

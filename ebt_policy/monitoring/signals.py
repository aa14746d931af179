"""Uncertainty signals that need no extra network call, and the CUSUM score that combines them.

Legend: B samples decided together, H horizon, A action dimension, S proprioceptive state size. Chunks and states are
normalised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebt_policy.errors import UserError
from ebt_policy.model.trace import Trace

Signals = dict[str, NDArray[np.float64]]

# Every signal is positive, and larger is more suspicious.
SIGNALS = {
    "energy": "energy of the last point evaluated",
    "energy_drop": "first minus final energy",
    "residual": "RMS of the update when descent stopped",
    "old_plan": "energy of the last plan's remaining actions under the present observation",
    "evaluations": "function evaluations used",
    "overlap": "RMS difference from the previous chunk, on the ticks that both plan",
    "acceleration": "largest second difference of the actions that are executed",
    "stillness": "inverse of the distance that the robot moved since the last decision",
    "transition": "transition energy of the last chunk and the observation after it; needs a trained network",
    "rnd": "novelty of the observation against the demonstrations; needs a trained network",
}
LEARNED = ("transition", "rnd")  # need a network trained on the demonstrations: see learned_signals.py
# Taken where the chunk still has the noise that the step rule leaves: nearly all of their variance is the draw. For benches.
NOISY = ("energy", "energy_drop", "residual")
DEFAULT_SIGNALS = ("old_plan", "overlap", "acceleration", "stillness")
_FLOOR = 1e-4  # of a signal, before its logarithm
_REST = 1e-3  # RMS movement of a state in [-1, 1] that counts as none


def decision_signals(
    trace: Trace,
    chunk: NDArray[np.float32],
    n_action_steps: int,
    previous: NDArray[np.float32] | None = None,
    moved: NDArray[np.float32] | None = None,
) -> Signals:
    """Signals (B,) of one decision. NaN: the sample does not have this signal; infinity: it has, and it is not finite.

    chunk (B, H, A). previous (B, H, A): the last chunk shifted to the current tick, NaN or None where there is
    none; its last n_action_steps ticks are padding. moved (B, S): change of the proprioceptive state since the last
    decision.
    """
    final = trace.final_energy.astype(np.float64)
    nothing = np.full(len(chunk), np.nan)
    known = chunk.shape[1] - n_action_steps  # ticks that both chunks plan
    has_energy = np.full(len(chunk), trace.steps > 0)
    has_previous = (
        np.full(len(chunk), False)
        if previous is None
        else np.asarray(np.isfinite(previous[:, : max(known, 0)]).all((1, 2)))
    )
    found: Signals = {
        "energy": _finite_or_inf(final, has_energy),
        "energy_drop": _finite_or_inf(np.maximum(trace.first_energy - final, 0), has_energy),
        "residual": _finite_or_inf(_last_finite(trace.residual_rms), has_energy),
        "old_plan": nothing
        if trace.old_plan_energy is None
        else _finite_or_inf(trace.old_plan_energy.astype(np.float64), has_previous),
        "evaluations": trace.evaluations.astype(np.float64),
        "overlap": nothing
        if previous is None or known < 1
        else _finite_or_inf(_rms(chunk[:, :known] - previous[:, :known]), has_previous),
        "acceleration": _finite_or_inf(_acceleration(chunk[:, :n_action_steps]), n_action_steps >= 3),
        "stillness": nothing if moved is None else 1 / (_REST + _rms(moved[:, None])),
    }
    return found


@dataclass(frozen=True)
class Statistic:
    """From signals to a running score: logarithms, standardised on successful episodes, averaged and accumulated.

    The score is Page's cumulative sum (CUSUM; Biometrika 41, 1954) of the average z: c <- max(0, c + z - slack). It
    rises while decisions look worse than usual, and falls when they look better. window: instead, the mean z over this
    many decisions. A decision that lacks a signal (the first one of an episode has no previous chunk) does not change
    the score. location, scale: mean and standard deviation of each signal's logarithm.
    """

    signals: tuple[str, ...]
    location: tuple[float, ...]
    scale: tuple[float, ...]
    slack: float = 0.0
    window: int | None = None

    def standardised(self, values: Mapping[str, float]) -> float | None:
        """Average z of one decision; None where a signal is missing, infinity where one is NaN or infinite."""
        # Without numpy, which takes longer for a single number.
        total = 0.0
        for name, centre, width in zip(self.signals, self.location, self.scale, strict=True):
            if name not in values:
                return None
            value = values[name]
            if not math.isfinite(value):
                return math.inf
            total += (math.log(max(value, _FLOOR)) - centre) / width
        return total / len(self.signals)

    def running(self, values: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
        """(D,) the score after each of an episode's decisions."""
        score = RunningScore(self)
        return np.array([score.update(one) for one in values], np.float64)


class RunningScore:
    """The score of an episode under way."""

    def __init__(self, statistic: Statistic) -> None:
        self.statistic = statistic
        self.value = 0.0
        self._recent: list[float] = []

    def update(self, values: Mapping[str, float]) -> float:
        """The score after one more decision. A signal that is NaN or infinite makes it infinite, until it is reset."""
        z = self.statistic.standardised(values)
        if z is None:
            return self.value
        if self.statistic.window is None:
            self.value = max(0.0, self.value + z - self.statistic.slack)
        else:
            self._recent = [*self._recent, z][-self.statistic.window :]
            self.value = float(np.mean(self._recent))
        return self.value


def fit_statistic(
    episodes: Sequence[Sequence[Mapping[str, float]]],
    signals: Sequence[str] = DEFAULT_SIGNALS,
    slack: float = 0.0,
    window: int | None = None,
) -> Statistic:
    """A Statistic standardised on the decisions of successful episodes, which calibration must not use again.

    Raises UserError for an unknown signal, or one that this policy does not have.
    """
    location, scale = [], []
    for name in signals:
        seen = np.array([one.get(name, np.nan) for episode in episodes for one in episode], np.float64)
        seen = seen[~np.isnan(seen)]
        if not len(seen):
            if name not in SIGNALS:
                raise UserError(f"Unknown signal '{name}'. Signals: {', '.join(SIGNALS)}.")
            raise UserError(
                f"No decision has the signal '{name}' ({SIGNALS[name]}). Leave it out, or use a policy that has it."
            )
        logs = np.log(np.maximum(seen, _FLOOR))
        location.append(float(logs.mean()))
        scale.append(float(max(logs.std(), 1e-6)))
    return Statistic(tuple(signals), tuple(location), tuple(scale), slack, window)


def rows(signals: Signals) -> list[dict[str, float]]:
    """For each of the B samples {signal: value}, without the signals that it does not have (NaN)."""
    size = len(next(iter(signals.values())))
    return [
        {name: float(values[i]) for name, values in signals.items() if not np.isnan(values[i])}
        for i in range(size)
    ]


def _rms(x: NDArray) -> NDArray[np.float64]:
    """(B, ticks, A) -> (B,)."""
    return np.sqrt(np.square(x, dtype=np.float64).mean((1, 2)))


def _finite_or_inf(values: NDArray[np.float64], exists: NDArray[np.bool_] | bool) -> NDArray[np.float64]:
    """values (B,), infinity in place of NaN where the sample has the signal: a broken signal is no missing one."""
    return np.where(np.isnan(values) & exists, np.inf, values)


def _acceleration(actions: NDArray) -> NDArray[np.float64]:
    """(B, n, A) -> (B,); NaN for fewer than three actions."""
    if actions.shape[1] < 3:
        return np.full(len(actions), np.nan)
    return np.abs(np.diff(actions, n=2, axis=1)).max((1, 2)).astype(np.float64)


def _last_finite(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """(B, S) -> (B,) the last entry of each row that is not padding."""
    taken = (~np.isnan(values)).sum(1)
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    picked = values[np.arange(len(values)), np.maximum(taken - 1, 0)]
    return np.where(taken > 0, picked, np.nan).astype(np.float64)

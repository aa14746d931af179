"""Actions by time, never by index, so that late ones are dropped and new plans blend in.

Legend: n actions of a plan, A action dimension. Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_SAME_S = 1e-9  # sums of periods that differ by less are the same time


class Schedule:
    """Action i of a plan from the observation at time t is due at t + i * period; between actions it interpolates linearly.

    A plan that comes late replaces the present one gradually, over as long as it was late, at most `blend_s`; one that took no
    time replaces it at once. The last action is due for one period; after it no action is due.
    """

    def __init__(self, period_s: float, blend_s: float = 0.1, smooth_s: float = 0.0) -> None:
        """smooth_s: of `smoothed`, seconds on either side."""
        self.period_s, self.blend_s, self.smooth_s = period_s, blend_s, smooth_s
        self._past: list[tuple[float, Array]] = []  # times and actions that `smoothed` was asked for
        self._times: Array = np.empty(0)
        self._actions: Array = np.empty((0, 0))
        self.end = -np.inf  # when there is nothing left to do; -inf where there never was

    def merge(self, actions: NDArray, stamp: float, now: float) -> int:
        """Adds a plan (n, A) made from the observation at time `stamp`; returns how many of its actions came too late.

        A plan whose actions are all in the past changes nothing.
        """
        plan = np.asarray(actions, np.float64)
        times: Array = stamp + self.period_s * np.arange(len(plan), dtype=np.float64)
        late = int(np.searchsorted(times, now - _SAME_S))
        end = stamp + self.period_s * len(plan)
        if now >= end - _SAME_S:
            return len(plan)
        blend = min(self.blend_s, max(now - stamp, 0.0))
        before, self.end = self.at(now), end
        if before is None or blend <= _SAME_S:
            self._times, self._actions = times, plan
            return late
        # Knots where the new plan has them, where the old one has them during the change-over, and at both its ends.
        changing = np.concatenate(
            [self._times[(self._times > now) & (self._times < now + blend)], [now, now + blend]]
        )
        knots: Array = np.unique(np.concatenate([times[times > now], changing]))
        knots = knots[knots < end]
        weight = np.clip((knots - now) / blend, 0.0, 1.0)[:, None]
        old = _between(knots, self._times, self._actions)
        new = _between(knots, times, plan)
        self._times, self._actions = knots, (1 - weight) * old + weight * new
        return late

    def at(self, time: float) -> Array | None:
        """The action (A,) due at `time`; None before the first one, and a period after the last."""
        if not len(self._times) or time < self._times[0] - _SAME_S or time >= self.end - _SAME_S:
            return None
        nearest = int(np.abs(self._times - time).argmin())
        if abs(self._times[nearest] - time) <= _SAME_S:
            return self._actions[nearest].copy()
        return _between(np.array([time]), self._times, self._actions)[0]

    def smoothed(self, time: float) -> Array | None:
        """The mean (A,) of the actions due within smooth_s before `time`, as this was asked for them, and as long after it.

        Before and after weigh the same, so a straight line is followed without delay. None where no action is due at `time`.
        """
        due = self.at(time)
        if due is None:
            self._past = []
            return None
        self._past = [(t, a) for t, a in self._past if time - self.smooth_s - _SAME_S <= t < time - _SAME_S]
        around = [due]
        for before, action in self._past:
            later = self.at(2 * time - before)
            around += [action, self._actions[-1] if later is None else later]
        self._past.append((time, due))
        return np.mean(around, axis=0) if len(around) > 1 else due

    def clear(self) -> None:
        """Forgets all plans."""
        self._past = []
        self._times, self._actions, self.end = np.empty(0), np.empty((0, 0)), -np.inf


def _between(times: Array, knots: Array, values: Array) -> Array:
    """values (K, A) at `knots` (K,), at other times (N,) -> (N, A): linear, constant beyond the ends."""
    return np.stack([np.interp(times, knots, column) for column in values.T], 1)

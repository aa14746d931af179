"""Which frames of a recording are the operator's: the column that LeRobot's DAgger strategy and `ebt-policy deploy` write."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INTERVENTION = "intervention"


def runs_of(flags: NDArray, episodes: NDArray) -> list[tuple[int, int]]:
    """First and one past the last frame of each stretch of true flags (F,) within one episode (F,)."""
    found: list[tuple[int, int]] = []
    begin: int | None = None
    for i in range(len(flags) + 1):
        inside = i < len(flags) and bool(flags[i])
        if begin is not None and (not inside or episodes[i] != episodes[begin]):
            found.append((begin, i))
            begin = None
        if inside and begin is None:
            begin = i
    return found


def imitated_parts(flags: NDArray, episodes: NDArray, unfinished: int) -> tuple[NDArray, NDArray]:
    """(part of each frame (F,) int64, whether it starts a sample (F,) bool) of a recording with takeovers.

    Each of the operator's stretches is a part of its own, so that no sample reaches into what the policy did; the policy's
    frames are part -1 and start none. unfinished: nor do so many last frames of a stretch that ends within its episode: the
    operator handed back there, and repeating the last action would teach to stop.
    """
    parts = np.full(len(flags), -1, np.int64)
    starts = np.zeros(len(flags), bool)
    for number, (begin, end) in enumerate(runs_of(flags, episodes)):
        handed_back = end < len(flags) and episodes[end] == episodes[begin]
        parts[begin:end] = number
        starts[begin : max(begin, end - unfinished) if handed_back else end] = True
    return parts, starts

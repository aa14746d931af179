"""When something follows a step: the time at which it has gone a part of its way, from samples before and after.

Legend: n samples, P pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SETTLED = 0.3  # part of the samples at either end that count as "before" and "after"
NOISE_FACTOR = 5.0  # a change counts from so many times the noise at rest on


def crossing(times: Array, progress: Array, share: float) -> float | None:
    """When `progress` (n,), about 0 before and 1 after, last rose through `share`, on a straight line between samples.

    The last time, because noise at rest may touch a low share before. None where it never did.
    """
    below = np.flatnonzero(progress < share)
    if not len(below) or below[-1] + 1 >= len(progress):
        return None
    i = int(below[-1])
    part = (share - progress[i]) / (progress[i + 1] - progress[i])
    return float(times[i] + part * (times[i + 1] - times[i]))


def progress_of(times: Array, values: Array, begin: float, end: float) -> Array | None:
    """values (n,) or (n, P) as 0 before `begin` and 1 after `end`, along the way from one rest to the other.

    Of pictures this is the projection on their whole change: noise averages out over the pixels, and where something moves
    from one place to another, half of it is gone at half the way. None where the change does not stand out from the noise, or
    a rest has fewer than two samples.
    """
    rows = values.reshape(len(values), -1).astype(np.float64)
    still, there = rows[times < begin], rows[times >= end]
    if len(still) < 2 or len(there) < 2:
        return None
    origin = still.mean(0)
    way = there.mean(0) - origin
    length = float(way @ way)
    if length == 0:
        return None
    found: Array = (rows - origin) @ way / length
    # Rests are scattered around their means by noise; of pictures alone, part of the "way" is noise too.
    noise = np.concatenate([found[times < begin], found[times >= end] - 1])
    chance = _by_chance(still, there, length)
    if NOISE_FACTOR * max(float(noise.std()), chance) > 1:
        return None
    return found


def _by_chance(still: Array, there: Array, length: float) -> float:
    """Part of the squared length of the change that noise alone would give, as the means of two rests differ by it."""
    spread = still.var(0, ddof=1).sum() / len(still) + there.var(0, ddof=1).sum() / len(there)
    return float(spread) / length

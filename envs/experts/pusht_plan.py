"""The next push of PushT's T: a beam search over the simulated pushes. Pixels, radians, ticks.

Legend: P pushes, L lengths, W plans kept (beam width), N points where pushes start.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ebt_policy.envs.experts.pusht_physics import OUTLINE, Physics, Vector, distance, left, rotated
from ebt_policy.envs.experts.pusht_pushes import LENGTHS, REACH, Pushes, pushes, starts, ways

GOOD = 1.8  # what is left at most where coverage exceeds 95 %
WIDTH, DEPTH = 40, 3
SMALLEST = 1 / 8  # motion of a push, of what is left: many small pushes look cheap to the estimate of ticks
TRAVEL, PUSH = 11.0, 9.0  # pixels a tick around the T and pushing
STOPS = 7.0  # ticks to stop before and after a push
SHORT = 30  # a push after which the walls stand where they stood, seen from the T
INSIDE = (8.0, 503.0)  # of the T's corners: within the walls


@dataclass(frozen=True)
class Push:
    """A straight push in the plane. start, direction (2,): of the pusher. length: of its way. pose (3,): of the T after it."""

    start: Vector
    direction: Vector
    length: float
    pose: Vector


def plan(pose: Vector, goal: Vector, way: Vector) -> Push | None:
    """The first push of the best plan found, None where no push moves the T. pose, goal (3,); way (N,): pixels from the pusher to each start."""
    known = pushes()
    # Where the T is in a wall already, it may stay as far in it.
    free = max(0.0, float(_outside(pose)) + 1.0)
    anywhere, here = ways(np.array([256.0, 256.0, 0.0])), ways(pose)
    poses, spent, reach = pose[None], np.zeros(1), way[None]
    first: Any = None
    best, chosen = np.inf, None
    for depth in range(DEPTH):
        after = _moved(poses, known)  # (W, P, L, 3)
        rest = left(after, goal)
        ticks = spent[:, None, None] + (_reachable(poses, reach)[:, known.place] / TRAVEL)[..., None]
        ticks = ticks + STOPS + LENGTHS / PUSH
        least = np.maximum(SMALLEST * left(poses, goal), 0.5)[:, None, None]
        ticks = np.where((known.size >= least) & (_outside(after) <= free), ticks, np.inf)
        total = ticks + _ticks_to_go(rest)
        w, p, n = _best(total)
        if not len(w):
            break
        first = np.stack([p, n], 1) if depth == 0 else first[w]
        # Only plans of the full depth are compared, or finished ones: others would live from the optimism of the estimate.
        ended = np.full(len(w), depth == DEPTH - 1) | (rest[w, p, n] < GOOD)
        totals = np.where(ended, total[w, p, n], np.inf)
        if totals.min() < best or chosen is None:
            best, chosen = float(totals.min()), first[int(totals.argmin())]
        short = (LENGTHS[n] < SHORT)[:, None]
        reach = np.where(short, here[known.ends[p, n]], anywhere[known.ends[p, n]])
        poses, spent = after[w, p, n], ticks[w, p, n]
    if chosen is None:
        return _at_the_wall(pose, goal, _reachable(pose[None], way[None])[0], free + 3)
    p, n = chosen
    start = pose[:2] + rotated(pose[2], known.start[p])
    return Push(
        start,
        rotated(pose[2], known.direction[p]),
        float(LENGTHS[n]),
        _moved(pose[None], known)[0, p, n],
    )


def _at_the_wall(pose: Vector, goal: Vector, reach: Vector, free: float) -> Push | None:
    """The reachable push that leaves least, simulated with the walls (half a second). reach (N,): pixels to each start, or inf. free: how far beyond the walls the T may be."""
    known, physics = pushes(), Physics()
    best, chosen = np.inf, None
    for p in np.flatnonzero(np.isfinite(reach[known.place])):
        start, along = pose[:2] + rotated(pose[2], known.start[p]), rotated(pose[2], known.direction[p])
        physics.set(start, pose)
        for length in range(1, SHORT + 1):
            physics.slide(along)
            if length in LENGTHS:
                after = physics.pose()
                rest = float(left(after, goal))
                if rest < best and distance(after, pose) > 2 and _outside(after) < free:
                    best, chosen = rest, Push(start, along, float(length), after)
    return chosen


def _ticks_to_go(rest: Vector) -> Vector:
    """Estimate of the ticks that are needed where `rest` (...) is left, see `left`. Too high on purpose far from the goal: too low makes waiting cheap."""
    return np.where(rest < GOOD, 0.0, 14 + 25 * np.log(np.maximum(rest, GOOD) / GOOD) + 0.5 * rest)


def _moved(poses: Vector, known: Pushes) -> Vector:
    """Poses (W, P, L, 3) of the T after each push from `poses` (W, 3)."""
    position, turn = poses[:, None, None, :2], poses[:, None, None, 2]
    moved = position + rotated(turn, known.motion[None, ..., :2])
    return np.concatenate([moved, (turn + known.motion[None, ..., 2])[..., None]], -1)


def _reachable(poses: Vector, reach: Vector) -> Vector:
    """`reach` (W, N), inf at starts where the pusher cannot be."""
    world = poses[:, None, :2] + rotated(poses[:, None, 2], starts()[0])
    return np.where(((world > REACH[0]) & (world < REACH[1])).all(-1), reach, np.inf)


def _best(total: Vector) -> tuple[Any, Any, Any]:
    """Indices of the lowest entries of (W, P, L), best first: WIDTH at most, and two lengths of a push, so that plans differ."""
    flat = total.ravel()
    lowest = np.argpartition(flat, 4 * WIDTH)[: 4 * WIDTH]
    lowest = lowest[np.argsort(flat[lowest], kind="stable")]
    w, p, n = np.unravel_index(lowest[np.isfinite(flat[lowest])], total.shape)
    count: dict[tuple[int, int], int] = {}
    kept: list[int] = []
    for i, key in enumerate(zip(w.tolist(), p.tolist(), strict=True)):
        count[key] = count.get(key, 0) + 1
        if count[key] <= 2 and len(kept) < WIDTH:
            kept.append(i)
    return w[kept], p[kept], n[kept]


def _outside(poses: Vector) -> Vector:
    """How far the T reaches beyond the walls (...), negative: within them. To a pixel."""
    low, high = _extents()
    index = np.round(np.rad2deg(poses[..., 2])).astype(int) % 360
    beyond = [
        np.maximum(INSIDE[0] - poses[..., i] - low[index, i], poses[..., i] + high[index, i] - INSIDE[1])
        for i in range(2)
    ]
    return np.maximum(*beyond)


@cache
def _extents() -> tuple[Vector, Vector]:
    """Lowest and highest corner of the T relative to its centre, by whole degrees of its angle: (360, 2) each."""
    corners = np.stack([rotated(np.deg2rad(angle), OUTLINE) for angle in range(360)])
    return corners.min(1), corners.max(1)

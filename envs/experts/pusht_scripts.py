"""The expert of PushT: goes around the T, pushes it straight, looks, and plans the next push. Pixels, radians, ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ebt_policy.envs.experts.base import Script, Style
from ebt_policy.envs.experts.pusht_physics import Vector, block_pose, distance, goal_pose
from ebt_policy.envs.experts.pusht_plan import Push, plan
from ebt_policy.envs.experts.pusht_pushes import routes

TRAVEL, PUSH = 15.0, 12.0  # pixels a tick at full speed, around the T and pushing
ARRIVED, SLOW = 2.0, 30.0  # a push begins this close to its start, slower than this (pixels a second)
REST = 8.0  # a push that is slower has ended
WAIT = 8  # ticks at most for the pusher to follow its target
MOVED = 1.5  # of the T on the way around it, after which the plan is made anew


def push_t(env: Any, style: Style, rng: np.random.Generator) -> Script:
    """env: gym-pusht's, in any state."""
    while True:
        pose = block_pose(env)
        around = routes(pose, np.array(env.agent.position))
        push = plan(pose, goal_pose(env), around.length)
        if push is None:
            yield np.array(env.agent.position)
            continue
        yield from _approach(env, pose, around.to(push.start), TRAVEL * style.speed)
        if distance(block_pose(env), pose) < MOVED:
            yield from _push(env, push, PUSH * style.speed)


def _approach(env: Any, pose: Vector, corners: Vector, speed: float) -> Iterator[Vector]:
    """Along `corners` (C, 2) until the pusher is at their end, or has moved the T away from `pose`."""
    for target in _along(corners, speed, WAIT):
        if distance(block_pose(env), pose) > MOVED:
            return
        if np.linalg.norm(corners[-1] - env.agent.position) < ARRIVED and env.agent.velocity.length < SLOW:
            return
        yield target


def _push(env: Any, push: Push, speed: float) -> Iterator[Vector]:
    """Along the push's line, until the pusher is at its end or has come to rest."""
    end = push.start + push.length * push.direction
    for tick, target in enumerate(_along(np.array([push.start, end]), speed, WAIT)):
        remaining = float((end - np.array(env.agent.position)) @ push.direction)
        if remaining < 0.5 or (tick > 2 and env.agent.velocity.length < REST):
            return
        yield target


def _along(corners: Vector, speed: float, wait: int) -> Iterator[Vector]:
    """Targets (2,) that move along the line through `corners` (C, 2) by `speed` a tick, and stay at its end for `wait` ticks."""
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    for done in np.arange(speed, length[-1], speed):
        yield np.array([np.interp(done, length, corners[:, i]) for i in range(2)])
    for _ in range(wait + 1):
        yield corners[-1].copy()


# It reads the simulator, so it plays with keypoints and with pictures alike.
SCRIPTS: dict[str, Callable[[Any, Style, np.random.Generator], Script]] = dict.fromkeys(
    ("pusht_keypoints", "pusht_pixels"), push_t
)

"""PushT's physics for the expert's plans: a second simulator that can be put into any state. Pixels, radians.

A pose of the T is (3,): its centre of gravity x, y and its angle. The T stops at once when it is not pushed.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

CENTRE = 45.0  # of gravity, and mean of the keypoints: on the T's axis, pixels below the top of its bar
PUSHER = 15.0  # radius
OUTLINE = np.array(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], float
) - (0, CENTRE)  # corners of the T, which are its eight keypoints, relative to its centre at angle 0
SPREAD = float(np.sqrt((OUTLINE**2).sum(1).mean()))  # root mean square distance of them from the centre
_DT = 0.01  # seconds, a step of gym-pusht's physics


def rotated(angle: Any, points: Vector) -> Vector:
    """Points (..., 2) rotated by `angle` (...)."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = points[..., 0], points[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1)


def block_pose(env: Any) -> Vector:
    """The T's pose (3,)."""
    angle = env.block.angle
    return np.array([*(np.array(env.block.position) + rotated(angle, np.array([0.0, CENTRE]))), angle])


def goal_pose(env: Any) -> Vector:
    """The target's pose (3,)."""
    x, y, angle = env.goal_pose
    return np.array([*(np.array([x, y]) + rotated(angle, np.array([0.0, CENTRE]))), angle])


def distance(poses: Vector, goal: Vector) -> Vector:
    """Root mean square distance (...) in pixels of the T's keypoints at `poses` (..., 3) from those at `goal` (3,)."""
    moved = ((poses[..., :2] - goal[:2]) ** 2).sum(-1)
    return np.sqrt(moved + 2 * SPREAD**2 * (1 - np.cos(poses[..., 2] - goal[2])))


def left(poses: Vector, goal: Vector) -> Vector:
    """As `distance`, but growing with the angle up to half a turn: what is left to do, not how far the corners are (...)."""
    turn = (poses[..., 2] - goal[2] + np.pi) % (2 * np.pi) - np.pi
    return np.sqrt(((poses[..., :2] - goal[:2]) ** 2).sum(-1) + (SPREAD * turn) ** 2)


def put(env: Any, agent: Vector, pose: Vector) -> None:
    """Set the pusher's position (2,) and the T's pose (3,)."""
    block = env.block
    block.angle = float(pose[2])
    block.position = tuple(map(float, pose[:2] - rotated(pose[2], np.array([0.0, CENTRE]))))
    block.velocity, block.angular_velocity = (0.0, 0.0), 0.0
    env.agent.position = tuple(map(float, agent))
    for body in (block, env.agent):
        env.space.reindex_shapes_for_body(body)


class Physics:
    """A private PushT simulator."""

    def __init__(self) -> None:
        from ebt_policy.envs.pusht import make_pusht

        made = make_pusht("environment_state_agent_pos")
        made.reset(seed=0)
        self._env: Any = cast(Any, made.unwrapped)
        self._agent, self._space = self._env.agent, self._env.space
        for shape in self._env.block.shapes:
            shape.collision_type = 1  # gym-pusht counts contacts of type 0 in Python, which is slow

    def set(self, agent: Vector, pose: Vector) -> None:
        """The pusher's position (2,) and the T's pose (3,)."""
        put(self._env, agent, pose)

    def pose(self) -> Vector:
        """The T's pose (3,)."""
        return block_pose(self._env)

    def slide(self, step: Vector) -> None:
        """Move the pusher by (2,) in one step of the physics."""
        self._agent.velocity = (float(step[0]) / _DT, float(step[1]) / _DT)
        self._space.step(_DT)

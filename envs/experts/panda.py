"""Motions of robosuite's Panda for scripts: Cartesian displacements towards targets that follow the objects.

Positions in metres, angles in radians, world frame. A gripper without tilt points down; its yaw is the heading of its
x axis, and its fingers close along its y axis.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ebt_policy.envs.experts.base import Action, Style
from ebt_policy.envs.robosuite_tasks import RobosuiteSimulator

STEP, TURN = 0.05, 0.5  # metres and radians of a full action (OSC's scale)
OPEN, CLOSED = -1.0, 1.0
GAIN = 2.0  # on the remaining distance; the controller lags, so with less the target is not reached
Vector = NDArray[np.float64]


class Pose(NamedTuple):
    """Gripper pose: position (3,), yaw, tilt from straight down about its x axis, roll about its pointing direction."""

    position: Vector
    yaw: float
    tilt: float = 0.0
    roll: float = 0.0

    @property
    def rotation(self) -> Rotation:
        yaw, tilt = Rotation.from_euler("z", self.yaw), Rotation.from_euler("x", np.pi - self.tilt)
        return yaw * tilt * Rotation.from_euler("z", self.roll)

    def shifted(self, offset: Vector) -> Pose:
        return self._replace(position=self.position + offset)


class Hand:
    """The gripper of the simulated arm."""

    def __init__(self, simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> None:
        self.simulator, self.style, self._rng = simulator, style, rng
        self.grip = OPEN

    @property
    def position(self) -> Vector:
        return self.simulator.state()[:3]

    @property
    def rotation(self) -> Rotation:
        return Rotation.from_quat(self.simulator.state()[3:7])

    @property
    def yaw(self) -> float:
        return heading(self.simulator.state()[3:7])

    @property
    def holds(self) -> bool:
        """Whether the fingers are neither open nor shut: something is between them."""
        left, right = self.simulator.state()[7:9]
        return 0.004 < left - right < 0.06  # of 0 to 0.08 m

    def nearest(self, yaw: float, period: float) -> float:
        """`yaw` plus the multiple of `period` that is closest to the gripper's current yaw."""
        return near(yaw, period, self.yaw)

    def towards(self, pose: Pose, slow: float = 1.0) -> Action:
        """The action (7,) towards a pose, proportional to the distance up to the speed limit."""
        move = GAIN * (pose.position - self.position) / STEP
        move *= min(1.0, slow * self.style.speed / max(np.abs(move).max(), 1e-9))
        turn = GAIN / 2 * (pose.rotation * self.rotation.inv()).as_rotvec() / TURN
        turn *= min(1.0, self.style.speed / max(np.abs(turn).max(), 1e-9))
        return np.concatenate([move, turn, [self.grip]])

    def go(
        self,
        target: Callable[[], Pose],
        tolerance: float = 0.01,
        limit: int = 80,
        slow: float = 1.0,
        turned: float = 0.1,
    ) -> Generator[Action, None, bool]:
        """Follow `target` until it is reached (returns True, perhaps after a pause), at most `limit` ticks (False)."""
        for _ in range(limit):
            pose = target()
            error = (pose.yaw - self.yaw + np.pi) % (2 * np.pi) - np.pi
            if np.linalg.norm(pose.position - self.position) < tolerance and abs(error) < turned:
                break
            yield self.towards(pose, slow)
        else:
            return False
        if self._rng.random() < self.style.pause:
            yield from self.hold(int(self._rng.integers(2, 8)))
        return True

    def hold(self, ticks: int) -> Generator[Action, None, None]:
        for _ in range(ticks):
            yield np.array([0, 0, 0, 0, 0, 0, self.grip])

    def close(self) -> Generator[Action, None, None]:
        self.grip = CLOSED
        yield from self.hold(int(self._rng.integers(6, 11)))

    def open(self) -> Generator[Action, None, None]:
        self.grip = OPEN
        yield from self.hold(int(self._rng.integers(4, 8)))

    def pick(
        self,
        grasp: Callable[[], Pose],
        object_height: Callable[[], float],
        rise: float = 0.08,
        centred: float = 0.012,
        near: float = 0.006,
    ) -> Generator[Action, None, bool]:
        """Hover, go down, close, lift; repeat after a miss. `grasp` gives the current grasp pose, as the object may move.

        rise: height of the lift. centred: largest horizontal error before going down. near: largest error before closing.
        All in metres. Returns whether the object was lifted.
        """
        for attempt in range(4):
            first = attempt == 0
            side = np.array([*self.style.side, self.style.height]) if first else up(0.06)
            overshoot = up(self.style.overshoot if first else 0.0)
            yield from self._grasp(grasp, side, overshoot, centred, near)
            height = object_height()
            yield from self.rise(rise, tolerance=0.02)
            if object_height() > height + 0.5 * rise:
                return True
        return False

    def _grasp(
        self, grasp: Callable[[], Pose], side: Vector, overshoot: Vector, centred: float, near: float
    ) -> Generator[Action, None, None]:
        yield from self.open()
        yield from self.go(lambda: grasp().shifted(side), tolerance=0.03)
        yield from self.go(lambda: grasp().shifted(up(0.04)), tolerance=centred, turned=0.06)
        yield from self.go(lambda: grasp().shifted(-overshoot), tolerance=near, limit=40, slow=0.6)
        yield from self.close()

    def rise(self, height: float, tolerance: float = 0.03) -> Generator[Action, None, None]:
        """Move straight up, with the same yaw."""
        top = Pose(self.position + up(height), self.yaw)
        yield from self.go(lambda: top, tolerance=tolerance, limit=30)


def up(height: float) -> Vector:
    return np.array([0.0, 0.0, height])


def heading(quaternion: Vector) -> float:
    """Heading of the x axis, quaternion (x, y, z, w)."""
    x = Rotation.from_quat(quaternion).as_matrix()[:, 0]
    return float(np.arctan2(x[1], x[0]))


def near(yaw: float, period: float, other: float) -> float:
    """`yaw` plus the multiple of `period` that is closest to `other`."""
    return yaw + period * round((other - yaw) / period)

"""Motions of ALOHA's ViperX arms for scripts: joint targets towards poses that follow the objects.

Positions in metres, angles in radians, world frame; the left arm looks along x, the right one against it. An arm's
action (7,) is six joint targets and the gripper from 0 (closed) to 1 (open).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ebt_policy.envs.aloha import AlohaSimulator
from ebt_policy.envs.experts.base import Action, Style
from ebt_policy.envs.experts.kinematics import Arm, Pose, Vector

# Largest motion per tick: metres of the tool, radians of a joint (0.35 m/s, 1.25 rad/s).
SPEED, TURN = 0.007, 0.025
START = 0.1  # largest change of the motion per tick, as a share of the maximum speed
GAIN = 0.1  # share of the remaining distance per tick; the arms lag by three ticks, so more would overshoot
LEASH = 0.1  # radians that a target may be ahead of its joint, to limit contact forces
FINGERS = 0.08  # of the gripper's range per tick
CLOSED = 0.2  # of the gripper's range: below, it counts as closed
MISSES = 0.08  # share of the first tries that close too high
Motion = Generator[Action, None, Any]


class Hand:
    """An arm and its gripper. fingers: target of the gripper, 0 (closed) to 1 (open)."""

    def __init__(self, simulator: AlohaSimulator, side: str, style: Style, rng: np.random.Generator) -> None:
        self.style, self._rng = style, rng
        self._arm = Arm(simulator.physics, side)
        self._forward = Rotation.from_euler("z", 0.0 if side == "left" else np.pi)
        self._targets = self._goal = self._arm.joints
        self._velocity = np.zeros(6)  # of the targets, radians per tick
        # An episode begins with nearly closed grippers; whoever takes over in its middle begins with the gripper as it is.
        opening = float(simulator.state()[6 if side == "left" else 13])
        self._grip = self.fingers = opening if opening > CLOSED else 0.0
        self.ready = False  # the other arm may wait for this

    @property
    def pose(self) -> Pose:
        return self._arm.pose

    def facing(self, yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Rotation:
        """Rotation of a gripper that points forward, turned by yaw, pitch (downwards) and roll."""
        return self._forward * Rotation.from_euler("ZYX", [yaw, pitch, roll])

    def towards(self, goal: Pose) -> Action:
        """The action (7,) for the next step towards a pose."""
        self._goal = self._arm.reach(goal)
        return self._step()

    def _step(self, slow: float = 1.0) -> Action:
        """The action (7,) towards the goal, proportional to the distance, with limited acceleration."""
        joints = self._arm.joints
        wanted = GAIN * (self._goal - joints)
        jacobian = self._arm.jacobian(self._targets)
        pace = max(size(jacobian[:3] @ wanted) / SPEED, np.abs(wanted).max() / TURN, 1e-9)
        wanted *= min(1.0, slow * self.style.speed / pace)
        self._velocity += np.clip(wanted - self._velocity, -START * TURN, START * TURN)
        self._targets = joints + np.clip(self._targets + self._velocity - joints, -LEASH, LEASH)
        self._grip += float(np.clip(self.fingers - self._grip, -FINGERS, FINGERS))
        return np.append(self._targets, self._grip)

    def go(
        self,
        goal: Callable[[], Pose],
        tolerance: float = 0.01,
        limit: int = 150,
        slow: float = 1.0,
        turned: float = 0.1,
    ) -> Generator[Action, None, bool]:
        """Follow `goal` until it is reached (returns True, perhaps after a pause), at most `limit` ticks (False)."""
        for _ in range(limit):
            self._goal = self._arm.reach(goal())
            left = self.pose.towards(self._arm.tool(self._goal))
            if size(left[:3]) < tolerance and size(left[3:]) < turned:
                break
            yield self._step(slow)
        else:
            return False
        if self._rng.random() < self.style.pause:
            yield from self.hold(int(self._rng.integers(3, 12)))
        return True

    def hold(self, ticks: int) -> Motion:
        for _ in range(ticks):
            yield self._step()

    def wait(self, until: Callable[[], bool]) -> Motion:
        while not until():
            yield self._step()

    def close(self) -> Motion:
        self.fingers = 0.0
        yield from self.hold(int(self._rng.integers(20, 28)))

    def pick(self, grasp: Callable[[], Pose], item: Callable[[], Pose], opening: float) -> Motion:
        """Hover, go down, close, lift; repeat after a miss. `grasp` gives the current grasp pose, as the item may move."""
        self.fingers = opening
        yield from self._grasp(grasp, np.array([*self.style.side, self.style.height]), self._misjudged())
        for _ in range(3):
            height = item().position[2]
            yield from self._rise(0.05)
            if item().position[2] > height + 0.02:
                return
            self.fingers = opening
            yield from self._grasp(grasp, up(0.06), 0.0)

    def _grasp(self, grasp: Callable[[], Pose], hover: Vector, error: float) -> Motion:
        yield from self.go(lambda: grasp().moved(hover), tolerance=0.03, turned=0.3)
        yield from self.go(lambda: grasp().moved(up(0.04)), tolerance=0.012)
        yield from self.go(lambda: grasp().moved(up(error)), tolerance=0.005, limit=60, slow=0.6)
        yield from self.close()

    def _rise(self, height: float) -> Motion:
        top = self.pose.moved(up(height))
        yield from self.go(lambda: top, tolerance=0.02, limit=40)

    def _misjudged(self) -> float:
        """Height error of a grasp: usually slightly low, sometimes so high that it misses."""
        missed = self._rng.random() < MISSES
        return float(self._rng.uniform(0.03, 0.04)) if missed else -self.style.overshoot


def up(height: float) -> Vector:
    return np.array([0.0, 0.0, height])


def size(vector: Vector) -> float:
    return float(np.linalg.norm(vector))

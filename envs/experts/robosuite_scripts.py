"""Experts for robosuite's Panda: Cartesian deltas towards targets that follow the objects.

Positions in metres, angles in radians, world frame. The gripper points down; its yaw is the heading of its x axis, and
its fingers close along its y axis.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ebt_policy.envs.experts import Action, Script, Style
from ebt_policy.envs.robosuite_tasks import RobosuiteSimulator

STEP, TURN = 0.05, 0.5  # metres and radians of a full action (OSC's scale)
OPEN, CLOSED = -1.0, 1.0
GAIN = 2.0  # of the remaining way; OSC lags, so below 1 / tick it never arrives
Vector = NDArray[np.float64]
Pose = tuple[Vector, float]  # position (3,), yaw


class Hand:
    """The gripper as a script sees it."""

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
        return _yaw(self.simulator.state()[3:7])

    def nearest(self, yaw: float, period: float) -> float:
        """`yaw` plus a multiple of `period`, as near to where the gripper looks now as can be."""
        return _near(yaw, period, self.yaw)

    def towards(self, position: Vector, yaw: float, slow: float = 1.0) -> Action:
        """The action (7,) that goes to a pose, fast when far and slow when near."""
        move = GAIN * (position - self.position) / STEP
        move *= min(1.0, slow * self.style.speed / max(np.abs(move).max(), 1e-9))
        down = Rotation.from_euler("z", yaw) * Rotation.from_euler("x", np.pi)
        turn = GAIN / 2 * (down * self.rotation.inv()).as_rotvec() / TURN
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
        """Follow `target` until it is reached (True) or the limit in ticks is (False); then perhaps rest."""
        for _ in range(limit):
            position, yaw = target()
            error = (yaw - self.yaw + np.pi) % (2 * np.pi) - np.pi
            if np.linalg.norm(position - self.position) < tolerance and abs(error) < turned:
                break
            yield self.towards(position, yaw, slow)
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
        self, grasp: Callable[[], Pose], object_height: Callable[[], float], rise: float = 0.08
    ) -> Generator[Action, None, bool]:
        """Hover, go down, close, lift; again after a miss. `grasp` follows the object, wherever it rolls."""
        for attempt in range(4):
            first = attempt == 0
            side = np.array([*self.style.side, self.style.height]) if first else up(0.06)
            overshoot = up(self.style.overshoot if first else 0.0)
            yield from self.open()
            yield from self.go(lambda side=side: _shifted(grasp(), side), tolerance=0.03)
            yield from self.go(lambda: _shifted(grasp(), up(0.04)), tolerance=0.012, turned=0.06)
            yield from self.go(lambda o=overshoot: _shifted(grasp(), -o), tolerance=0.006, limit=40, slow=0.6)
            yield from self.close()
            height, (position, yaw) = object_height(), (self.position, self.yaw)
            top = position + up(rise)
            yield from self.go(lambda top=top, yaw=yaw: (top, yaw), tolerance=0.02, limit=30)
            if object_height() > height + 0.5 * rise:
                return True
        return False


def up(height: float) -> Vector:
    return np.array([0.0, 0.0, height])


def _shifted(pose: Pose, offset: Vector) -> Pose:
    return pose[0] + offset, pose[1]


def _yaw(quaternion: Vector) -> float:
    """Heading of the x axis, quaternion (x, y, z, w)."""
    x = Rotation.from_quat(quaternion).as_matrix()[:, 0]
    return float(np.arctan2(x[1], x[0]))


def lift(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    hand, cube = Hand(simulator, style, rng), simulator.environment_state

    turn = hand.nearest(_yaw(cube()[3:7]), np.pi / 2) + np.pi / 2 * (style.turn % 2)

    def grasp() -> Pose:
        return cube()[:3], _near(_yaw(cube()[3:7]), np.pi / 2, turn)

    yield from hand.pick(grasp, lambda: cube()[2], rise=0.1)
    yield from hand.go(lambda: (hand.position + up(0.05), hand.yaw), limit=40)


def _near(yaw: float, period: float, other: float) -> float:
    """`yaw` plus the multiple of `period` that brings it nearest to `other`."""
    return yaw + period * round((other - yaw) / period)


def stack(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    hand, state = Hand(simulator, style, rng), simulator.environment_state
    turn = hand.nearest(_yaw(state()[3:7]), np.pi / 2)

    def grasp() -> Pose:
        return state()[:3], _near(_yaw(state()[3:7]), np.pi / 2, turn)

    def above(height: float) -> Vector:
        """Where the hand has to be for the held cube to be this far above the other."""
        cube, base = state()[:3], state()[7:10]
        return hand.position + base + up(0.046 + height) - cube

    while True:
        yield from hand.pick(grasp, lambda: state()[2], rise=0.1)
        yaw = hand.yaw
        yield from hand.go(lambda yaw=yaw: (above(0.05), yaw), tolerance=0.012)
        yield from hand.go(lambda yaw=yaw: (above(0.0), yaw), tolerance=0.005, slow=0.5)
        yield from hand.open()
        position = hand.position
        yield from hand.go(lambda p=position, yaw=yaw: (p + up(0.1), yaw), tolerance=0.03, limit=30)


def can(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    hand, state = Hand(simulator, style, rng), simulator.environment_state
    bin_centre = simulator.env.target_bin_placements[simulator.env.object_id]
    goal = bin_centre + np.array([*rng.uniform(-0.03, 0.03, 2), 0.0])
    yaw = hand.yaw + rng.uniform(-0.6, 0.6)

    while True:
        yield from hand.pick(lambda: (state()[:3] + up(0.01), yaw), lambda: state()[2], rise=0.2)
        yield from hand.go(lambda: (goal + up(0.25), yaw), tolerance=0.04, limit=100)
        yield from hand.go(lambda: (goal + up(0.1), yaw), tolerance=0.03)
        yield from hand.open()
        yield from hand.go(lambda: (goal + up(0.3), yaw), tolerance=0.05, limit=30)


def square(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    hand, state, env = Hand(simulator, style, rng), simulator.environment_state, simulator.env
    handle_site = env.sim.model.site_name2id(env.nuts[env.nut_to_id["square"]].important_sites["handle"])
    peg = np.array(env.sim.data.body_xpos[env.peg1_body_id])

    def handle() -> Vector:
        return np.array(env.sim.data.site_xpos[handle_site])

    def heading() -> float:
        out = handle() - state()[:3]
        return float(np.arctan2(out[1], out[0]))

    turn = hand.nearest(heading(), np.pi)

    def grasp() -> Pose:
        return handle(), _near(heading(), np.pi, turn)

    def above(height: float, yaw: float) -> Pose:
        nut = state()[:3]
        return hand.position + np.array([peg[0], peg[1], 0.85 + height]) - nut, yaw

    while True:
        yield from hand.pick(grasp, lambda: state()[2], rise=0.22)
        aligned = hand.yaw + _near(0.0, np.pi / 2, heading()) - heading()
        yield from hand.go(lambda a=aligned: above(0.24, a), tolerance=0.02, limit=120)
        yield from hand.go(lambda a=aligned: above(0.21, a), tolerance=0.006, limit=60, slow=0.5, turned=0.04)
        yield from hand.go(lambda a=aligned: above(0.03, a), tolerance=0.012, limit=40, slow=0.5)
        yield from hand.open()
        position, yaw = hand.position, hand.yaw
        yield from hand.go(lambda p=position, yaw=yaw: (p + up(0.15), yaw), tolerance=0.03, limit=30)


SCRIPTS: dict[str, Callable[[Any, Style, np.random.Generator], Script]] = {
    "robosuite_lift": lift,
    "robosuite_stack": stack,
    "robosuite_pickplacecan": can,
    "robosuite_nutassemblysquare": square,
}

"""Experts for robosuite's tasks with a Panda. Positions in metres, angles in radians, world frame."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ebt_policy.envs.experts.base import Action, Script, Style
from ebt_policy.envs.experts.panda import CLOSED, Hand, Pose, Vector, heading, near, up
from ebt_policy.envs.robosuite_tasks import RobosuiteSimulator


def lift(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    hand, cube = Hand(simulator, style, rng), simulator.environment_state

    turn = hand.nearest(heading(cube()[3:7]), np.pi / 2) + np.pi / 2 * (style.turn % 2)

    def grasp() -> Pose:
        return Pose(cube()[:3], near(heading(cube()[3:7]), np.pi / 2, turn))

    yield from hand.pick(grasp, lambda: cube()[2], rise=0.1)
    yield from hand.go(lambda: Pose(hand.position + up(0.05), hand.yaw), limit=40)


def stack(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    hand, state = Hand(simulator, style, rng), simulator.environment_state
    turn = hand.nearest(heading(state()[3:7]), np.pi / 2)

    def grasp() -> Pose:
        return Pose(state()[:3], near(heading(state()[3:7]), np.pi / 2, turn))

    def above(height: float) -> Vector:
        """The hand position that brings the held cube to this height above the other one."""
        cube, base = state()[:3], state()[7:10]
        return hand.position + base + up(0.046 + height) - cube

    def place(yaw: float) -> Script:
        yield from hand.go(lambda: Pose(above(0.05), yaw), tolerance=0.012)
        yield from hand.go(lambda: Pose(above(0.0), yaw), tolerance=0.005, slow=0.5)
        yield from hand.open()
        position = hand.position
        yield from hand.go(lambda: Pose(position + up(0.1), yaw), tolerance=0.03, limit=30)

    while True:
        yield from hand.pick(grasp, lambda: state()[2], rise=0.1)
        yield from place(hand.yaw)


def can(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    hand, state = Hand(simulator, style, rng), simulator.environment_state
    bin_centre = simulator.env.target_bin_placements[simulator.env.object_id]
    # The bin's centre is out of reach for a hand that points down.
    goal = bin_centre + np.array([-0.045, -0.055, 0.0]) + np.array([*rng.uniform(-0.02, 0.02, 2), 0.0])
    yaw = hand.yaw + rng.uniform(-0.6, 0.6)

    def grasp() -> Pose:
        return Pose(state()[:3] + up(0.01), yaw)

    while True:
        # Open fingers leave 1.5 cm on either side of the can, so a coarse tolerance is enough.
        yield from hand.pick(grasp, lambda: state()[2], rise=0.2, near=0.012)
        yield from hand.go(lambda: Pose(goal + up(0.25), yaw), tolerance=0.04, limit=100)
        yield from hand.go(lambda: Pose(goal + up(0.1), yaw), tolerance=0.03)
        yield from hand.open()
        yield from hand.go(lambda: Pose(goal + up(0.3), yaw), tolerance=0.05, limit=30)


def square(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    hand, state, env = Hand(simulator, style, rng), simulator.environment_state, simulator.env
    peg = np.array(env.sim.data.body_xpos[env.peg1_body_id])  # its top is 0.1 higher
    # Grasp point along the handle; closer ones would hit the corners of the nut's ring.
    reach = np.array([rng.uniform(0.058, 0.066), 0.0, 0.0])
    turn = hand.nearest(heading(state()[3:7]), np.pi)

    def grasp() -> Pose:
        nut = state()
        position = nut[:3] + Rotation.from_quat(nut[3:7]).apply(reach)
        return Pose(position, near(heading(nut[3:7]), np.pi, turn))

    def turned() -> float:
        """A yaw that aligns nut and peg. Handles that point away from the robot are out of reach and excluded."""
        now, nut = hand.yaw, heading(state()[3:7])
        yaws = [near(now + side - nut, 2 * np.pi, now) for side in (-np.pi / 2, np.pi / 2, np.pi)]
        short = [yaw for yaw in yaws if abs(yaw) < 2.0 and abs(yaw - now) < 1.8]
        return float(rng.choice(short or yaws))

    def above(height: float, yaw: float) -> Pose:
        """The hand pose that brings the held nut to this height above the peg."""
        return Pose(hand.position + peg + up(0.11 + height) - state()[:3], yaw)

    def insert(yaw: float) -> Script:
        for _ in range(3):  # a nut that jams is lifted and lowered again
            yield from hand.go(lambda: above(0.04, yaw), tolerance=0.02, limit=100)
            yield from hand.go(lambda: above(0.02, yaw), tolerance=0.005, limit=40, slow=0.5, turned=0.04)
            yield from hand.go(lambda: above(-0.11, yaw), tolerance=0.012, limit=40, slow=0.5)

    def held(_: Action) -> bool:
        return bool(np.linalg.norm(state()[:3] - hand.position) < 0.1)

    first = True
    while True:
        # Somebody who takes over with the nut in the hand keeps it. Demonstrations begin with an empty hand.
        if first and hand.holds and np.linalg.norm(grasp().position - hand.position) < 0.02:
            hand.grip = CLOSED
            if state()[2] < peg[2] + 0.1:
                yield from hand.rise(0.16, tolerance=0.02)
        else:
            yield from hand.pick(grasp, lambda: state()[2], rise=0.16, centred=0.008)
        first = False
        yield from takewhile(held, insert(turned()))
        yield from hand.open()
        yield from hand.rise(0.15)


def door(simulator: RobosuiteSimulator, style: Style, rng: np.random.Generator) -> Script:
    """Two strategies: grasp the handle, or press it down with closed fingers and pull by friction."""
    hand, state, env = Hand(simulator, style, rng), simulator.environment_state, simulator.env
    panel, latch = env.object_body_ids["door"], env.object_body_ids["latch"]
    reach, tilt = rng.uniform(0.08, 0.12), np.pi / 2 + rng.uniform(-0.15, 0.15)
    pressing = style.turn % 2 == 0
    # Fingertip offset above and behind the handle, metres. At 0.05 above they touch; less than that presses.
    over, pressed, beyond = (0.06, 0.03, 0.01) if pressing else (0.0, 0.0, 0.0)
    # The last joint can turn only one radian further. That is enough to press; a grasp has to push against the limit.
    follow, farthest = (0.7, 1.4) if pressing else (1.0, 1.5)

    def handle(turned: float, away: float = 0.0, over: float = 0.0) -> Pose:
        """The hand pose at the handle turned by this angle, with this offset in front of and above it."""
        data = env.sim.data
        along, out = data.body_xmat[panel].reshape(3, 3)[:, 0], -data.body_xmat[latch].reshape(3, 3)[:, 1]
        lever = np.cos(turned) * along - up(np.sin(turned))
        normal = np.sin(turned) * along + up(np.cos(turned))
        position = data.body_xpos[latch] + reach * lever + over * normal + (0.1 + away) * out
        return Pose(position, float(np.arctan2(out[1], out[0])) - np.pi / 2, tilt, follow * turned)

    def angle() -> float:
        return float(state()[7])

    def opening() -> Pose:
        """Turn the handle down until the latch opens at 1.2 rad, then pull, with the target ahead of the door."""
        free = angle() > 1.25 or state()[6] > 0.2
        return handle(min(angle() + 0.4, farthest), 0.06 if free else -beyond, pressed)

    side = np.array([style.side[0], 0.0, style.side[1]])
    while True:
        yield from hand.close() if pressing else hand.open()
        yield from hand.go(lambda: handle(0.0, 0.05 + style.height, over).shifted(side), tolerance=0.03)
        yield from hand.go(lambda: handle(angle(), 0.05, over), tolerance=0.012)
        yield from hand.go(lambda: handle(angle(), -beyond, over), tolerance=0.006, limit=40, slow=0.6)
        if not pressing:
            yield from hand.close()
        yield from hand.go(opening, tolerance=0.0, limit=100)


SCRIPTS: dict[str, Callable[[Any, Style, np.random.Generator], Script]] = {
    "robosuite_lift": lift,
    "robosuite_stack": stack,
    "robosuite_pickplacecan": can,
    "robosuite_nutassemblysquare": square,
    "robosuite_door": door,
}

"""Experts for ALOHA's two tasks. Each arm has its own script and waits for the other arm where necessary.

Positions in metres, angles in radians, world frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from ebt_policy.envs.aloha import AlohaSimulator
from ebt_policy.envs.experts.base import Script, Style
from ebt_policy.envs.experts.kinematics import Pose
from ebt_policy.envs.experts.viperx import Hand, Motion, up

# Range of the picking gripper's pitch (downwards). With less, the wrist is straight and yaw cannot be controlled.
PITCH = 1.1, 1.4
MATED = 0.095  # metres between the centres of peg and socket when the peg touches the pin
APART = 0.08  # metres that the peg starts farther away
APPROACH = 0.003  # metres per tick at full speed while inserting
# Rotational symmetries: of a cube; of a peg or a socket, whose long axis is x.
CUBE = Rotation.create_group("O")
ROLLS = Rotation.from_euler("x", np.pi / 2 * np.arange(4)[:, None])


def transfer_cube(simulator: AlohaSimulator, style: Style, rng: np.random.Generator) -> Script:
    left, right = (Hand(simulator, side, style, rng) for side in ("left", "right"))

    def cube() -> Pose:
        return _item(simulator, 0)

    meeting = np.array([rng.uniform(-0.06, 0.06), rng.uniform(0.45, 0.55), rng.uniform(0.17, 0.27)])
    # The fingers close along y in most grasps, and along x in those from straight above with a turned wrist.
    turned = style.turn == 3
    pitch = np.pi / 2 if turned else rng.uniform(*PITCH)
    roll = rng.choice([-1, 1]) * np.pi / 2 if turned else 0.0
    grasp = right.facing(rng.uniform(-0.2, 0.2), pitch, roll)
    depth = up(0.012 if turned else 0.008)
    give = right.facing(rng.uniform(-0.2, 0.2), pitch - rng.uniform(0.0, 0.25))
    take = left.facing(roll=rng.choice([-1, 1]) * np.pi / 2)
    opening = rng.uniform(0.8, 1.0, 2)

    def taking(away: float, turn: Rotation) -> Pose:
        """The left gripper at the cube, turned by `turn` from it; or `away` from it along the fingers."""
        rotation = cube().rotation * turn
        return Pose(cube().position - rotation.apply([away, 0, 0]), rotation)

    def giver() -> Motion:
        yield from right.pick(
            lambda: Pose(cube().position + depth, _heading(cube(), np.pi / 2) * grasp), cube, opening[0]
        )
        yield from right.go(lambda: Pose(right.pose.position + meeting - cube().position, give))
        right.ready = True
        yield from right.wait(lambda: left.ready)
        right.fingers = 1.0
        yield from right.hold(20)
        away = right.pose.moved(np.array([0.1, 0, 0]))
        yield from right.go(lambda: away)

    def taker() -> Motion:
        left.fingers = opening[1]
        stage = meeting - np.array([rng.uniform(0.1, 0.15), 0, 0])
        yield from left.go(lambda: Pose(stage, take))
        yield from left.wait(lambda: right.ready)
        turn = _nearest(CUBE, cube().rotation.inv() * take)
        yield from left.go(lambda: taking(0.06, turn), tolerance=0.015)
        yield from left.go(lambda: taking(0.008, turn), tolerance=0.006, limit=60, slow=0.6)
        yield from left.close()
        left.ready = True
        yield from left.wait(lambda: False)

    yield from _together(taker(), giver())


def insertion(simulator: AlohaSimulator, style: Style, rng: np.random.Generator) -> Script:
    left, right = (Hand(simulator, side, style, rng) for side in ("left", "right"))

    def peg() -> Pose:
        return _item(simulator, 0)

    def socket() -> Pose:
        return _item(simulator, 1)

    def grasp(hand: Hand, item: Callable[[], Pose], height: float) -> Callable[[], Pose]:
        """A grasp near the centre of an item, rather behind it than in front."""
        behind = rng.uniform(-0.005, 0.015)
        offset = np.array([behind if hand is right else -behind, 0, 0])
        rotation = hand.facing(rng.uniform(-0.15, 0.15), rng.uniform(*PITCH))

        def pose() -> Pose:
            turn = _heading(item(), np.pi)
            return Pose(item().position + turn.apply(offset) + up(height), turn * rotation)

        return pose

    pick_peg, pick_socket = grasp(right, peg, 0.014), grasp(left, socket, 0.004)
    opening = rng.uniform(0.85, 1.0, 2)
    meeting = np.array([rng.uniform(-0.04, 0.04), rng.uniform(0.45, 0.55), rng.uniform(0.12, 0.2)])
    level = Rotation.from_euler("z", rng.uniform(-0.1, 0.1))  # both lie along x at first
    # One arm moves to the other, or both meet in the middle.
    share = (0.0, 0.5, 0.5, 1.0)[style.turn]  # the left arm's
    gap = APART

    def insert() -> Motion:
        nonlocal gap

        def place() -> Pose:
            """The pose of the peg at a distance `gap` from the pin."""
            rotation = _nearest(socket().rotation * ROLLS, peg().rotation)
            return Pose(socket().position + socket().rotation.apply([MATED + gap, 0, 0]), rotation)

        yield from right.pick(pick_peg, peg, opening[0])
        start = meeting + level.apply([(MATED + APART) / 2, 0, 0])
        rolled = _nearest(level * ROLLS, peg().rotation)
        yield from right.go(lambda: _carry(right.pose, peg(), Pose(start, rolled)), tolerance=0.02)
        yield from right.wait(lambda: left.ready)
        while True:
            gap = APART
            yield from right.go(
                lambda: _carry(right.pose, peg(), place()), tolerance=0.004, turned=0.04, slow=0.6
            )
            # Keep the hand's rotation, so that contact with the socket does not turn it.
            rotation = right.pose.rotation
            for _ in range(120):
                gap = max(0.0, gap - APPROACH * style.speed)
                yield right.towards(Pose(right.pose.position + place().position - peg().position, rotation))

    def receive() -> Motion:
        yield from left.pick(pick_socket, socket, opening[1])
        start = meeting - level.apply([(MATED + APART) / 2, 0, 0])
        rolled = _nearest(level * ROLLS, socket().rotation)

        def place() -> Pose:
            return Pose(start + level.apply([share * (APART - gap), 0, 0]), rolled)

        yield from left.go(lambda: _carry(left.pose, socket(), place()), tolerance=0.006, turned=0.06)
        left.ready = True
        rotation = left.pose.rotation
        while True:
            yield left.towards(Pose(left.pose.position + place().position - socket().position, rotation))

    yield from _together(receive(), insert())


def _item(simulator: AlohaSimulator, index: int) -> Pose:
    """Pose of the object number `index` in the environment state."""
    pose = simulator.environment_state()[7 * index : 7 * index + 7]
    return Pose(pose[:3], Rotation.from_quat(pose[3:], scalar_first=True))


def _carry(hand: Pose, item: Pose, goal: Pose) -> Pose:
    """The hand pose that brings the held item to `goal`."""
    turn = goal.rotation * item.rotation.inv()
    return Pose(goal.position + turn.apply(hand.position - item.position), turn * hand.rotation)


def _together(left: Motion, right: Motion) -> Script:
    """Both arms' actions (14,) until either script ends."""
    for pair in zip(left, right, strict=False):
        yield np.concatenate(pair)


def _nearest(rotations: Rotation, other: Rotation) -> Rotation:
    """The one of several rotations that is closest to `other`."""
    return rotations[int(np.argmin((other.inv() * rotations).magnitude()))]


def _heading(item: Pose, period: float) -> Rotation:
    """Heading of the x axis, as a rotation about z in -period/2..period/2."""
    x = item.rotation.as_matrix()[:, 0]
    return Rotation.from_euler("z", (np.arctan2(x[1], x[0]) + period / 2) % period - period / 2)


SCRIPTS: dict[str, Callable[[Any, Style, np.random.Generator], Script]] = {
    "aloha_transfer_cube": transfer_cube,
    "aloha_insertion": insertion,
}

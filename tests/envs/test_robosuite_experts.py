"""Scripted motions of the Panda: poses, and movements on an ideal simulator."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ebt_policy.envs.experts.base import Style

pytest.importorskip("robosuite")

from ebt_policy.envs.experts.panda import CLOSED, OPEN, STEP, TURN, Hand, Pose, heading, near

ANGLES = st.floats(-3.0, 3.0)


class Obedient:
    """A gripper without inertia."""

    def __init__(self) -> None:
        self.position, self.rotation = np.array([0.1, 0.0, 1.0]), Pose(np.zeros(3), 0.2).rotation

    def state(self) -> np.ndarray:
        return np.concatenate([self.position, self.rotation.as_quat(), [0.02, -0.02]])

    def tick(self, action: np.ndarray) -> None:
        self.position = self.position + 0.3 * STEP * action[:3]
        self.rotation = Rotation.from_rotvec(0.3 * TURN * action[3:6]) * self.rotation


@pytest.fixture
def hand() -> Hand:
    rng = np.random.default_rng(0)
    return Hand(Obedient(), Style.draw(rng), rng)


def follow(hand: Hand, motion) -> list[np.ndarray]:
    actions = []
    for action in motion:
        actions.append(action)
        hand.simulator.tick(action)
    return actions


@given(yaw=ANGLES, tilt=st.floats(0.0, 1.5))
def test_a_pose_points_down_and_tilts_about_its_own_heading(yaw, tilt):
    rotation = Pose(np.zeros(3), yaw, tilt).rotation
    assert np.isclose(np.cos(heading(rotation.as_quat()) - yaw), 1.0)
    assert np.isclose(rotation.apply([0.0, 0.0, 1.0])[2], -np.cos(tilt))


@given(yaw=ANGLES, roll=st.floats(-1.5, 1.5))
def test_a_roll_leaves_where_the_gripper_points(yaw, roll):
    plain, rolled = (Pose(np.zeros(3), yaw, 1.0, angle).rotation for angle in (0.0, roll))
    assert np.allclose(plain.apply([0.0, 0.0, 1.0]), rolled.apply([0.0, 0.0, 1.0]))
    assert np.isclose((plain.inv() * rolled).magnitude(), abs(roll))


@given(yaw=ANGLES, other=ANGLES, period=st.sampled_from([np.pi / 2, np.pi, 2 * np.pi]))
def test_near_differs_by_whole_periods_and_at_most_half_of_one(yaw, other, period):
    result = near(yaw, period, other)
    assert np.isclose((result - yaw) / period, round((result - yaw) / period), atol=1e-9)
    assert abs(result - other) <= period / 2 + 1e-9


def test_a_motion_arrives_and_keeps_to_its_speed(hand):
    goal = Pose(np.array([0.2, -0.2, 1.1]), -0.5, 0.8)
    actions = follow(hand, hand.go(lambda: goal, tolerance=0.005))
    assert 0 < len(actions) < 80
    assert np.linalg.norm(goal.position - hand.position) < 0.005
    assert np.abs([action[:6] for action in actions]).max() <= hand.style.speed + 1e-9


def test_a_motion_ends_at_its_limit(hand):
    assert len(follow(hand, hand.go(lambda: Pose(np.full(3, 9.0), 0.0), limit=7))) == 7


def test_a_pick_is_tried_again_until_the_object_rises(hand):
    heights = iter([0.0, 0.0, 0.0, 0.1])  # before and after each of two tries
    actions = follow(hand, hand.pick(lambda: Pose(np.array([0.1, 0.1, 0.9]), 0.0), lambda: next(heights)))
    grips = [action[-1] for action in actions]
    closings = sum(before == OPEN and after == CLOSED for before, after in pairwise(grips))
    assert closings == 2

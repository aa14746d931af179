"""ALOHA's experts: their kinematics, their motions, their noise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from ebt_policy.envs.experts import Expert, expert
from ebt_policy.envs.experts.base import Actions, Style

pytest.importorskip("gym_aloha")

from ebt_policy.envs.aloha import AlohaSimulator
from ebt_policy.envs.collect import Collection, demonstrate
from ebt_policy.envs.experts.aloha_scripts import SCRIPTS
from ebt_policy.envs.experts.kinematics import Arm, Pose
from ebt_policy.envs.experts.viperx import FINGERS, LEASH, TURN, Hand, up

ARMS = [*range(6), *range(7, 13)]
GRIPPERS = (6, 13)


@pytest.fixture(scope="module")
def simulator():
    return AlohaSimulator("transfer_cube")


@settings(max_examples=20, deadline=None)
@given(
    side=st.sampled_from([-1, 1]),
    across=st.floats(-0.15, 0.15),
    ahead=st.floats(0.3, 0.45),
    height=st.floats(0.03, 0.25),
    yaw=st.floats(-0.2, 0.2),
    pitch=st.floats(1.1, 1.5),
)
def test_joints_bring_the_tool_where_it_was_sent(simulator, side, across, ahead, height, yaw, pitch):
    arm = Arm(simulator.physics, "left" if side < 0 else "right")
    forward = Rotation.from_euler("z", 0.0 if side < 0 else np.pi)
    goal = Pose(
        np.array([side * (0.469 - ahead), 0.5 + across, height]),
        forward * Rotation.from_euler("ZY", [yaw, pitch]),
    )
    joints = arm.reach(goal)
    way = arm.tool(joints).towards(goal)
    assert np.linalg.norm(way[:3]) < 0.002
    assert np.linalg.norm(way[3:]) < 0.1  # yaw is what may be given up
    nearby = arm.reach(goal.moved(up(0.001)))
    assert np.abs(joints - nearby).max() < 0.05


def test_a_hand_goes_where_it_is_sent_and_no_faster_than_allowed(simulator):
    simulator.reset(0)
    style = Style(speed=1.0, side=(0.0, 0.0), height=0.1, turn=0, overshoot=0.0, pause=0.0)
    hand = Hand(simulator, "right", style, np.random.default_rng(0))
    goal = Pose(np.array([0.1, 0.45, 0.15]), hand.facing(0.1, 1.2))
    rest = simulator.state()
    targets = []
    hand.fingers = 1.0
    for action in hand.go(lambda: goal, tolerance=0.005):
        targets.append(action)
        simulator.tick(np.concatenate([rest[:7], action]))
    way = hand.pose.towards(goal)
    assert np.linalg.norm(way[:3]) < 0.005 and np.linalg.norm(way[3:]) < 0.15
    steps = np.abs(np.diff(targets, axis=0))
    assert steps[:, :6].max() <= TURN + 1e-9 and steps[:, 6].max() <= FINGERS + 1e-9
    assert targets[-1][6] == 1.0


@pytest.mark.parametrize("env_name", sorted(SCRIPTS))
def test_a_demonstration_solves_its_task_smoothly(env_name):
    shown = demonstrate(Collection(env_name, 1, 0, 0.1), 0)
    assert shown is not None
    action, state = shown["action"], shown["observation.state"]
    assert action.shape[1] == state.shape[1] == 14 and 100 < len(action) <= 400
    assert np.abs(np.diff(action[:, ARMS], axis=0)).max() <= 0.1
    assert np.abs(action - state)[:, ARMS].max() <= LEASH + 1e-6
    assert action[:, GRIPPERS].min() >= 0.0 and action[:, GRIPPERS].max() <= 1.0


def test_a_demonstration_follows_from_its_seed_alone(simulator):
    def beginning(seed: int, ticks: int = 60) -> np.ndarray:
        """(ticks, 14): what is executed, always of the same cube."""
        simulator.reset(0)
        played = expert("aloha_transfer_cube", 0.1)
        played.reset(simulator, seed)
        actions = []
        while len(actions) < ticks and (chosen := played.act()) is not None:
            actions.append(chosen[1])
            simulator.tick(chosen[1])
        return np.stack(actions)

    first = beginning(1)
    other, again = beginning(2), beginning(1)
    assert np.array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def _executed(actions: np.ndarray, kind: Actions, disturbance: float) -> tuple[np.ndarray, np.ndarray]:
    """Recorded and executed actions (T, A) of a script that plays `actions`."""
    played = Expert(lambda *_: iter(actions), kind, disturbance)
    played.reset(None, 0)
    recorded, executed = zip(*iter(played.act, None), strict=True)
    return np.stack(recorded), np.stack(executed)


def test_noise_on_targets_moves_what_moves_and_nothing_else():
    actions = np.zeros((300, 14))
    actions[:, 0] = np.minimum(np.arange(300), 150) * 0.02  # one joint of the left arm, which then rests
    actions[:, 6] = actions[:, 13] = np.linspace(0, 1, 300)
    recorded, executed = _executed(actions, Actions(GRIPPERS, targets=True), 0.1)
    noise = executed - recorded
    assert np.array_equal(recorded, actions)
    assert not noise[:, 1:].any()
    assert 0.002 < noise[50:150, 0].std() < 0.05
    assert np.abs(np.diff(noise[:, 0])).max() < 0.02  # smooth
    assert np.abs(noise[-20:, 0]).max() < 0.001  # forgotten


def test_noise_on_moves_is_in_proportion_to_them_and_spares_the_gripper():
    actions = np.random.default_rng(0).normal(size=(20, 7))
    small = _executed(actions, Actions((6,), targets=False), 0.1)
    large = _executed(10 * actions, Actions((6,), targets=False), 0.1)
    assert np.allclose(10 * (small[1] - small[0]), large[1] - large[0])
    assert np.array_equal(*(which[:, 6] for which in small)) and not np.array_equal(*small)

"""Adroit Door observes and acts by name, and ends episodes by gymnasium-robotics' own rule."""

import subprocess
import sys

import numpy as np
import pytest

from ebt_policy.envs import adroit, environment
from ebt_policy.envs.rendering import find_backend
from ebt_policy.errors import UserError

pytest.importorskip("gymnasium_robotics")


@pytest.fixture(scope="module")
def simulator():
    simulator = adroit.DoorSimulator()
    yield simulator
    simulator.close()


def test_each_observed_number_has_the_name_that_it_has_in_gymnasium_robotics(simulator) -> None:
    simulator.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (40, 28)):
        simulator.tick(action)
    theirs = dict(zip(adroit.OBSERVATION_NAMES, simulator.env._get_obs(), strict=True))
    ours = zip(
        (*adroit.STATE_NAMES, *adroit.ENVIRONMENT_NAMES),
        np.concatenate([simulator.state(), simulator.environment_state()]),
        strict=True,
    )
    assert dict(ours) == theirs
    assert len(theirs) == 39
    model = simulator.env.model
    assert tuple(model.actuator(index).name for index in range(model.nu)) == adroit.ACTION_NAMES
    assert tuple(model.joint(index).name for index in range(len(adroit.JOINTS))) == adroit.JOINTS


@pytest.mark.parametrize(("angle", "solved", "flag"), [(1.36, True, 1), (1.3, False, 1), (0.9, False, -1)])
def test_an_episode_is_solved_where_gymnasium_robotics_says_so(simulator, angle, solved, flag) -> None:
    simulator.reset(seed=0)
    positions = simulator.env.get_env_state()
    positions["qpos"][simulator.env.door_hinge_addrs] = angle
    simulator.env.set_env_state(positions)
    *_, info = simulator.env.step(np.zeros(28))
    assert bool(info["success"]) == simulator.score().solved == solved
    assert simulator.environment_state()[-1] == flag
    assert simulator.score().graded == pytest.approx(min(1, angle / adroit.OPEN), abs=0.01)


def test_actions_beyond_the_range_act_as_its_ends(simulator) -> None:
    actions = np.random.default_rng(1).uniform(-1.4, 1.4, (20, 28))

    def end(actions: np.ndarray) -> np.ndarray:
        simulator.reset(seed=1)
        for action in actions:
            simulator.tick(action)
        return simulator.state()

    np.testing.assert_array_equal(end(actions), end(actions.clip(-1, 1)))


def test_holding_keeps_the_hand_where_episodes_start() -> None:
    spec = environment("adroit_door")
    env = spec.make(False)
    observation, _ = env.reset(seed=0)
    start = spec.to_policy(observation)["observation.state"]
    action = spec.hold(start, None)
    for _ in range(50):
        observation, *_ = env.step(action)
    moved = np.abs(spec.to_policy(observation)["observation.state"] - start)
    assert moved.max() < 0.12  # the hand sags a little under its weight
    assert np.array_equal(spec.hold(start, 0.3 * action), 0.3 * action)
    env.close()


def test_an_unstable_scene_ends_the_episode_unsolved() -> None:
    env = environment("adroit_door").make(False)
    env.reset(seed=0)
    env.unwrapped.simulator.env.data.qvel[:] = 1e12
    *_, terminated, _, info = env.step(np.zeros(28))
    assert terminated and info["diverged"] and not info["is_success"]
    _, info = env.reset(seed=0)
    assert "diverged" not in env.step(np.zeros(28))[4]
    env.close()


PICTURES = """
from ebt_policy.envs import adroit
env = adroit.make("door", cameras=("vil_camera",), image_size=(48, 64), render=True)
observation, _ = env.reset(seed=0)
assert env.observation_space.contains(observation)
assert observation["pixels"]["vil_camera"].std() > 20
assert env.render().shape == (240, 320, 3)
env.close()
env.reset(seed=0)
assert env.render().std() > 20
"""


@pytest.mark.slow
def test_pictures_show_the_scene_and_need_no_display() -> None:
    try:
        find_backend()
    except UserError:
        pytest.skip("no OpenGL here")
    subprocess.run(
        [sys.executable, "-c", PICTURES], check=True
    )  # MuJoCo is set up for OpenGL when it is imported

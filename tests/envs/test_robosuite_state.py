"""What a policy is told of robosuite's objects."""

import numpy as np
import pytest

from ebt_policy.envs import environment
from ebt_policy.envs.robosuite_tasks import ROBOSUITE, TASKS


@pytest.mark.parametrize("task", TASKS)
def test_sizes_are_as_declared(task: str):
    facts = ROBOSUITE[task]
    sizes = {key: 3 if key.endswith("pos") else 4 for key in facts.keys}
    sizes |= {key: 1 for key in facts.keys if key.endswith("qpos")}
    observed = {key: np.zeros(size) for key, size in sizes.items()} | {"robot0_eef_pos": np.ones(3)}
    state = facts.environment_state(observed)
    assert state.shape == (TASKS[task].environment_size,)
    assert set(facts.reached) <= set(facts.keys)
    np.testing.assert_array_equal(state[-3 * len(facts.reached) :], -1)


def test_the_hand_sees_how_far_the_can_is():
    env = environment("robosuite_pickplacecan").make(False)
    observation, _ = env.reset(seed=3)
    for _ in range(3):
        observation = env.step(np.array([0.5, 0.2, -0.5, 0, 0, 0, -1.0]))[0]
        can, far = observation["environment_state"][:3], observation["environment_state"][7:]
        np.testing.assert_allclose(observation["agent_pos"][:3] + far, can, atol=1e-9)
    batch = {"Can_pos": np.ones((5, 3)), "Can_quat": np.ones((5, 4)), "robot0_eef_pos": np.zeros((5, 3))}
    assert ROBOSUITE["PickPlaceCan"].environment_state(batch).shape == (5, 10)

"""Experts solve their tasks; the same seed gives the same demonstration, another seed another one."""

import numpy as np
import pytest

from ebt_policy.envs.collect import Collection, demonstrate
from ebt_policy.envs.experts import expert, experts
from ebt_policy.envs.registry import environment

pytest.importorskip("robosuite")
pytest.importorskip("gym_aloha")


def attempt(env_name: str, seed: int) -> dict[str, np.ndarray] | None:
    return demonstrate(Collection(env_name, episodes=1, seed=seed, disturbance=0.1), seed)


def test_a_demonstration_follows_from_its_seed_alone():
    first = attempt("robosuite_lift", 0)
    other = attempt("robosuite_lift", 1)
    again = attempt("robosuite_lift", 0)
    assert first is not None and other is not None and again is not None
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert first["action"].shape != other["action"].shape or not np.allclose(first["action"], other["action"])
    assert {name: values.shape[1] for name, values in first.items()} == {
        "observation.state": 9,
        "observation.environment_state": 7,
        "action": 7,
    }
    assert np.abs(first["action"]).max() <= 1.0


@pytest.mark.slow
@pytest.mark.parametrize("env_name", experts())
def test_experts_solve_their_tasks(env_name):
    outcomes = [attempt(env_name, seed) is not None for seed in range(5)]
    assert sum(outcomes) >= 4, outcomes


@pytest.mark.slow
def test_the_can_never_waits_for_the_script_to_lose_patience():
    """A policy that sees one moment cannot learn when a wait ends."""
    for seed in range(3):
        demonstration = attempt("robosuite_pickplacecan", seed)
        assert demonstration is not None
        hand = demonstration["observation.state"][:, :3]
        moving = np.linalg.norm(np.diff(hand, axis=0), axis=1) > 0.003  # metres a tick
        rests = np.diff(np.flatnonzero(np.r_[True, moving, True])) - 1
        assert rests.max() < 25, rests.max()


@pytest.mark.parametrize("height", ["on the table", "lifted"])
def test_somebody_who_takes_over_with_the_nut_in_the_hand_keeps_it(height):
    env = environment("robosuite_nutassemblysquare").make(False)
    env.reset(seed=1)
    first, second = expert("robosuite_nutassemblysquare"), expert("robosuite_nutassemblysquare")
    simulator = env.unwrapped.simulator
    first.reset(simulator, 1)
    for _ in range(80):
        action = first.act()[1]
        env.step(np.clip(action, -1, 1))
        fingers = simulator.state()[7:9]
        nut = simulator.environment_state()[2]
        grasped = action[6] > 0 and fingers[0] - fingers[1] < 0.035
        if grasped and (height == "on the table" or nut > 0.95):
            break
    second.reset(simulator, 100)
    for tick in range(150):
        action = second.act()[1]
        assert action[6] > 0, f"opened after {tick} ticks"
        if env.step(np.clip(action, -1, 1))[4]["is_success"]:
            break
    else:
        pytest.fail("the nut is not on the peg")
    env.close()

"""Meta-World: named observations, seeds that choose task and episode, and the package's experts."""

import json

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.envs import environment, environments
from ebt_policy.envs.collect import Collection, collect
from ebt_policy.envs.experts import expert
from ebt_policy.errors import UserError

pytest.importorskip("metaworld")
from ebt_policy.envs import metaworld


def play(env, script, seed, ticks=500):
    """(ticks until success or None, last observation) of the expert's episode."""
    observation, _ = env.reset(seed=seed)
    script.reset(env.unwrapped.simulator, seed)
    for tick in range(ticks):
        observation, _, terminated, truncated, _ = env.step(script.act()[1])
        if terminated or truncated:
            return (tick + 1 if terminated else None), observation
    return None, observation


def test_observations_are_by_name_what_the_package_observes():
    simulator = metaworld.MetaworldSimulator("mt50")
    for seed in (22, 3):  # a hammer has two objects, a box one
        simulator.reset(seed)
        for action in np.random.default_rng(seed).uniform(-1, 1, (5, 4)):
            simulator.tick(action)
        names = (*metaworld.STATE_NAMES, *metaworld.ENVIRONMENT_NAMES)
        values = np.concatenate([simulator.state(), simulator.environment_state()])
        ours = dict(zip(names, values, strict=True))
        package = simulator.env._get_curr_obs_combined_no_goal()
        np.testing.assert_allclose(values[:18], package, atol=1e-9)
        assert [ours[f"goal_{axis}"] for axis in "xyz"] == list(simulator.env._target_pos)
        assert np.any(simulator.observed[-3:]), "the goal is shown to the expert too"
    simulator.close()


def test_a_seed_determines_task_and_episode_whatever_was_played_before():
    spec = environment("metaworld_mt10")
    env, script = spec.make(False), expert("metaworld_mt10", 0.1)
    first = play(env, script, 13, ticks=60)
    assert env.get_wrapper_attr("task_description") == spec.tasks[3] == "Open a door with a revolving joint"
    play(env, script, 27, ticks=30)
    again = play(env, script, 13, ticks=60)
    assert again[0] == first[0]
    for name, values in first[1].items():
        np.testing.assert_array_equal(again[1][name], values)
    env.close()


def test_an_episode_ends_with_success_or_after_500_ticks():
    env, script = environment("metaworld_drawer_close").make(False), expert("metaworld_drawer_close")
    solved, _ = play(env, script, 1)
    assert solved is not None and solved < 150
    env.reset(seed=1)
    ended = [env.step(np.zeros(4))[2:4] for _ in range(500)]
    assert ended[-1] == (False, True) and not any(any(end) for end in ended[:-1])
    env.close()


def test_one_task_is_reached_by_name_and_an_unknown_one_is_refused_with_the_nearest():
    assert environment("metaworld_door_open").tasks == ("Open a door with a revolving joint",)
    assert len(environment("metaworld_mt50").tasks) == 50
    assert {"metaworld_mt10", "metaworld_mt50"} <= set(environments())
    with pytest.raises(UserError, match="door_opn.*door_open"):
        environment("metaworld_door_opn")
    with pytest.raises(UserError, match="cannot have 'push'"):
        environment("metaworld_mt10+push")


def test_demonstrations_of_several_tasks_are_one_dataset_with_their_sentences(tmp_path, monkeypatch):
    monkeypatch.setattr(metaworld, "MT10", ("drawer_close", "window_open"))
    spec = metaworld.spec_of("metaworld_mt10")
    monkeypatch.setitem(metaworld.SPECS, "metaworld_mt10", spec)
    wanted = Collection("metaworld_mt10", episodes=2, seed=5, disturbance=0.1)
    record = collect(wanted, tmp_path / "data", "local/two")
    assert record["successes"] == 4 and [seed % 2 for seed in record["seeds"]] == [0, 0, 1, 1]
    assert len(record["attempts_by_task"]) == 2
    assert json.loads((tmp_path / "data" / "collect.json").read_text()) == record
    dataset = LeRobotDataset("local/two", tmp_path / "data")
    sentences = [dataset.meta.episodes[episode]["tasks"] for episode in range(4)]
    assert sentences == [["Push and close a drawer"]] * 2 + [["Push and open a window"]] * 2
    assert dataset.meta.features["observation.state"]["names"] == list(metaworld.STATE_NAMES)


@pytest.mark.slow
def test_experts_solve_nearly_all_of_the_fifty_tasks():
    env, script = environment("metaworld_mt50").make(False), expert("metaworld_mt50")
    solved = [play(env, script, seed)[0] is not None for seed in range(50)]
    assert sum(solved) >= 45
    env.close()

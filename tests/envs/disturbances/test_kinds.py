"""Each disturbance and its tick follow from the seed alone; impossible ones are refused."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from disturbed_play import PUSHT, SEED, Recorder, play, same, shoves

from ebt_policy.envs import environment, environments
from ebt_policy.envs.disturbance_spec import KINDS
from ebt_policy.envs.registry import disturbances, make_disturbed
from ebt_policy.errors import UserError

AT_RESET = ("start", "mass", "friction")


@pytest.mark.parametrize("kind", disturbances(PUSHT))
def test_a_seed_decides_it_and_nothing_is_disturbed_before_it_begins(kind):
    actions = shoves(120)
    clean = environment(PUSHT).make(False)
    env = environment(f"{PUSHT}+{kind}").make(False)
    _, expected, _ = play(clean, SEED, actions)
    info, observations, infos = play(env, SEED, actions)
    plan = info["disturbance_plan"]
    assert env.get_wrapper_attr("disturbance").__dict__ == plan and plan["strength"] == 1
    # The same again in an env that has been used, and another on another seed.
    other, _, _ = play(env, SEED + 1, actions[:5])
    again, repeated, _ = play(env, SEED, actions)
    assert again["disturbance_plan"] == plan and len(repeated) == len(observations)
    assert all(same(*pair) for pair in zip(observations, repeated, strict=True))
    for tick, step in enumerate(infos):
        due = plan["begin"] <= tick < plan["end"]
        assert step["disturbance"] + step["disturbance_skipped"] == due
        assert kind == "push" or not step["disturbance_skipped"]  # the pusher may be in a shove's way
    if kind in AT_RESET:
        assert (plan["begin"], plan["end"]) == (0, 300)
    else:
        assert 0.25 * 130 - 1 <= plan["begin"] <= 0.6 * 130 and other["disturbance_plan"] != plan
        before = plan["begin"] + 1
        assert all(same(*pair) for pair in zip(observations[:before], expected[:before], strict=True))
    if kind == "target":  # keypoints do not show it
        goals = [step["goal_pose"][:2] for step in infos]
        moved = [tick for tick, (a, b) in enumerate(pairwise(goals)) if not np.array_equal(a, b)]
        assert moved == [plan["begin"] - 1] and np.linalg.norm(goals[-1] - goals[0]) == pytest.approx(60)
    else:
        later = range(plan["begin"], min(len(expected), len(observations)))
        assert any(not same(expected[i], observations[i]) for i in later)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"gripper", "mass"}))
def test_it_does_not_depend_on_what_is_done(kind):
    env = environment(f"{PUSHT}+{kind}").make(False)
    moved = []
    for corner in ([30.0, 30.0], [480.0, 40.0]):  # out of the block's way, both
        plan, _, infos = play(env, SEED, np.full((90, 2), corner, np.float32))
        block = np.stack([info["block_pose"] for info in infos])
        moved.append((plan["disturbance_plan"], block[-1] - block[0]))
    assert moved[0][0] == moved[1][0]
    np.testing.assert_allclose(moved[0][1], moved[1][1], atol=1e-6)


def test_begins_are_spread_over_the_window():
    env = make_disturbed(lambda: Recorder(7), "robosuite_nutassemblysquare", "freeze")
    begins = [env.reset(seed=seed)[1]["disturbance_plan"]["begin"] for seed in range(300)]
    assert min(begins) in (35, 36) and max(begins) in (82, 83)
    assert abs(np.mean(begins) - 0.425 * 139) < 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{PUSHT}+shove", "Unknown disturbance 'shove' of pusht_keypoints. Choose one of: push, teleport"),
        (f"{PUSHT}+", "Unknown disturbance ''"),
        (f"{PUSHT}+gripper", "cannot have 'gripper': it has no gripper. Choose one of"),
        (f"{PUSHT}+mass", "cannot have 'mass'"),
        (f"{PUSHT}+start:3", "outside of the workspace. The largest strength of 'start' here is 2.4"),
        ("robosuite_door+target", "cannot have 'target'"),
        ("aloha_insertion+target", "cannot have 'target'"),
        (f"{PUSHT}+push:much", "is 'much'; it has to be a number above 0"),
        (f"{PUSHT}+push:", "is ''; it has to be a number above 0"),
        (f"{PUSHT}+push:0", "above 0"),
        (f"{PUSHT}+push:nan", "above 0"),
        (f"{PUSHT}+push:inf", "above 0"),
        ("pushed+push", "Unknown environment 'pushed'"),
    ],
)
def test_what_cannot_be_is_refused(name, message):
    with pytest.raises(UserError) as error:
        environment(name)
    assert message in str(error.value)


def test_a_disturbed_environment_is_the_same_but_for_its_name():
    plain, spec = environment("robosuite_stack"), environment("robosuite_stack+target:1.5")
    assert spec.name == "robosuite_stack+target:1.5" and spec.max_ticks == plain.max_ticks
    assert spec.cameras == plain.cameras and spec.make_with_cameras is not plain.make_with_cameras
    assert "target" in disturbances("robosuite_nutassemblysquare")
    for name in environments():
        assert set(disturbances(name)) <= set(KINDS)
        assert 0 < environment(name).usual_ticks < environment(name).max_ticks


def test_naming_a_disturbance_starts_no_simulator():
    code = (
        "import sys; sys.argv = ['ebt-policy']\n"  # the command does not import LeRobot at once
        "from ebt_policy.envs import environment; environment('pusht_keypoints+push');"
        "environment('robosuite_lift+mass'); environment('aloha_insertion+delay');"
        "assert not {'torch', 'lerobot', 'pymunk', 'mujoco', 'robosuite', 'dm_control'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_episodes_without_a_seed_follow_from_the_last_one():
    def plans(env):
        env.reset(seed=SEED)
        return [env.reset()[1]["disturbance_plan"]["begin"] for _ in range(5)]

    first, second = (plans(environment(f"{PUSHT}+drop").make(False)) for _ in range(2))
    assert first == second and len(set(first)) > 1


def test_lerobots_vectors_take_a_disturbance():
    from lerobot.envs import make_env, make_env_config

    import ebt_policy.envs.configuration_pusht
    import ebt_policy.envs.configuration_simulated  # noqa: F401  registers the envs

    config = make_env_config("ebt_pusht", disturbance="teleport:0.5")
    vector = make_env(config, n_envs=2)["ebt_pusht"][0]
    try:
        assert vector.call("_max_episode_steps") == (300, 300)
        _, info = vector.reset(seed=[3, 4])
        begins = info["disturbance_plan"]["begin"]
        assert [plan.begin for plan in vector.get_attr("disturbance")] == list(begins)
        assert all(plan.strength == 0.5 for plan in vector.get_attr("disturbance"))
        for tick in range(max(begins) + 1):
            info = vector.step(np.full((2, 2), 250, np.float32))[4]
            shown = info["disturbance"] | info["disturbance_skipped"]
            assert list(shown) == [tick == begin for begin in begins]
    finally:
        vector.close()
    with pytest.raises(ValueError, match="env.disturbance is 'gripper'. pusht_keypoints cannot have"):
        make_env_config("ebt_pusht", disturbance="gripper")
    with pytest.raises(ValueError, match="env.disturbance is 'target'. robosuite_door cannot have"):
        make_env_config("robosuite", task="Door", disturbance="target")
    assert make_env_config("ebt_aloha", disturbance="drop:2").disturbance == "drop:2"

"""Disturbances of commands and observations: delay, drop, gripper, freeze, blackout, noise."""

import numpy as np
import pytest
from disturbed_play import SEED, Recorder, commands, play, same, shoves

from ebt_policy.envs import environment
from ebt_policy.envs.registry import make_disturbed


@pytest.mark.parametrize(("name", "late"), [("robosuite_nutassemblysquare", 6), ("aloha_insertion", 15)])
def test_actions_arrive_late_by_a_fixed_number_of_ticks(name, late):
    plan, sent, done = commands(name, "delay", 210)
    assert plan.end - plan.begin == round(0.2 * environment(name).usual_ticks)
    np.testing.assert_array_equal(done[: plan.begin], sent[: plan.begin])
    np.testing.assert_array_equal(done[plan.begin + late : plan.end], sent[plan.begin : plan.end - late])
    np.testing.assert_array_equal(done[plan.end :], sent[plan.end :])
    nothing = done[plan.begin : plan.begin + late]
    if name.startswith("aloha"):  # targets: the last one holds
        np.testing.assert_array_equal(nothing, np.tile(sent[plan.begin - 1], (late, 1)))
    else:  # displacements: the arm rests and keeps its grip
        assert not nothing[:, :6].any() and np.all(nothing[:, 6] == sent[plan.begin - 1, 6])


def test_some_actions_are_lost_and_the_others_are_executed_as_sent():
    plan, sent, done = commands("robosuite_nutassemblysquare", "drop")
    arrived = (sent == done).all(axis=1)
    assert arrived[: plan.begin].all() and arrived[plan.end :].all()
    assert 0.2 < arrived[plan.begin : plan.end].mean() < 0.8
    for tick in np.flatnonzero(~arrived):
        assert not done[tick, :6].any() and done[tick, 6] == done[tick - 1, 6]
    plan, sent, done = commands("aloha_insertion", "drop:2")  # none arrives
    assert (done[plan.begin : plan.end] == sent[plan.begin - 1]).all()


def test_grippers_are_forced_open_and_arms_are_left_alone():
    for name, grippers, wide, ticks in (("robosuite_lift", [6], -1, 10), ("aloha_insertion", [6, 13], 1, 25)):
        plan, sent, done = commands(name, "gripper")
        inside = slice(plan.begin, plan.end)
        assert plan.end - plan.begin == ticks and (done[inside][:, grippers] == wide).all()
        arms = np.delete(np.arange(sent.shape[1]), grippers)
        np.testing.assert_array_equal(done[:, arms], sent[:, arms])
        np.testing.assert_array_equal(np.delete(done, inside, axis=0), np.delete(sent, inside, axis=0))


@pytest.mark.parametrize("kind", ["freeze", "blackout", "noise"])
def test_the_world_is_seen_wrongly_and_the_robot_felt_rightly(kind):
    env = make_disturbed(lambda: Recorder(7), "robosuite_lift", kind)
    plan, observations, _ = play(env, SEED, np.zeros((60, 7)))
    begin, end = (plan["disturbance_plan"][edge] for edge in ("begin", "end"))
    seen = np.stack([o["environment_state"] for o in observations])
    truth = 100.0 + np.arange(61)[:, None] * np.ones(7)
    inside = slice(begin + 1, end + 1)
    np.testing.assert_array_equal(np.stack([o["agent_pos"] for o in observations]), truth - 100)
    np.testing.assert_array_equal(np.delete(seen, inside, 0), np.delete(truth, inside, 0))
    if kind == "freeze":
        assert (seen[inside] == truth[begin]).all()
    elif kind == "blackout":
        assert not seen[inside].any()
    else:
        error = seen[inside] - truth[inside]
        assert 0.005 < error[:, :3].std() < 0.015 and 0.01 < error[:, 3:].std() < 0.03


def test_cameras_are_frozen_blacked_out_and_noisy_while_videos_show_the_world():
    actions = shoves(60)
    for kind in ("freeze", "blackout", "noise"):
        env = environment(f"pusht_pixels+{kind}").make(False)
        plan, observations, _ = play(env, SEED, actions)
        begin = plan["disturbance_plan"]["begin"]
        before, after = observations[begin]["pixels"], observations[begin + 1]["pixels"]
        assert after.shape == before.shape and after.dtype == np.uint8
        if kind == "freeze":
            assert same(before, after)
            assert not same(env.unwrapped.get_obs()["pixels"], before) and env.render().max() == 255
        elif kind == "blackout":
            assert not after.any()
        else:
            assert 5 < np.abs(after.astype(float) - before).mean() < 25

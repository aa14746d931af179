"""Disturbances of the world itself: objects and targets are moved, or weigh and slide differently."""

import numpy as np
import pytest
from disturbed_play import PUSHT, SEED, play, same, shoves

from ebt_policy.envs import environment
from ebt_policy.envs.registry import make_disturbed


@pytest.mark.parametrize("strength", [0.5, 1, 1.5])
@pytest.mark.parametrize(("kind", "ticks"), [("teleport", 1), ("push", 5)])
def test_a_block_is_moved_as_far_as_the_strength_asks(kind, ticks, strength):
    env = environment(f"{PUSHT}+{kind}:{strength}").make(False)
    for seed in range(3):
        plan, _, infos = play(env, seed, np.full((90, 2), 30, np.float32))
        if any(info["disturbance_skipped"] for info in infos):
            continue
        places = np.stack([info["block_pose"][:2] for info in infos])
        begin, end = (plan["disturbance_plan"][edge] for edge in ("begin", "end"))
        assert end - begin == ticks
        assert np.linalg.norm(places[end] - places[begin - 1]) == pytest.approx(60 * strength, abs=2)
        assert np.all(np.diff(places, axis=0)[begin - 1 : end - 1].any(axis=1))  # a part at each tick
        break
    else:
        pytest.fail("never a free place")


@pytest.mark.parametrize("kind", ["teleport:3", "push:3", "start:2", "target:3"])
def test_a_block_stays_within_the_walls_and_out_of_the_pusher(kind):
    env = environment(f"{PUSHT}+{kind}").make(False)
    for seed in range(12):
        _, observations, infos = play(
            env, seed, np.random.default_rng(seed).uniform(120, 400, (85, 2)).astype(np.float32)
        )
        keypoints = np.stack([o["environment_state"] for o in observations])
        assert keypoints.min() > 0 and keypoints.max() < 511
        for info, observation in zip(infos, observations[1:], strict=True):
            assert np.abs(info["vel_agent"]).max() < 1e4 and np.isfinite(observation["agent_pos"]).all()


def test_a_start_lies_outside_the_region_of_training():
    env = environment(f"{PUSHT}+start").make(False)
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        place = np.array(env.unwrapped.block.position)
        assert (place < 100).any() or (place > 400).any()
        np.testing.assert_array_equal(
            observation["environment_state"], env.unwrapped.get_obs()["environment_state"]
        )


def test_a_place_inside_the_pusher_is_refused():
    env = environment(PUSHT).make(False)
    env.reset(seed=SEED)
    world = env.unwrapped.disturbable
    before = env.unwrapped.get_obs()["environment_state"]
    agent = np.array(env.unwrapped.agent.position)
    assert not world.displace("T", agent, 0.0, True)
    np.testing.assert_allclose(env.unwrapped.get_obs()["environment_state"], before, atol=1e-9)


def test_where_nothing_is_free_it_is_left_out_and_says_so(monkeypatch):
    env = environment(f"{PUSHT}+teleport").make(False)
    env.reset(seed=SEED)
    monkeypatch.setattr(type(env.unwrapped.disturbable), "displace", lambda *_: False)
    plan, _, infos = play(env, SEED, shoves(90))
    skipped = [tick for tick, info in enumerate(infos) if info["disturbance_skipped"]]
    assert skipped == [plan["disturbance_plan"]["begin"]] and not any(info["disturbance"] for info in infos)


def rest(env, ticks: int):
    """Actions that leave a MuJoCo arm where it is."""
    start = env.reset(seed=SEED)[0]["agent_pos"]
    return [start if env.action_space.shape == (14,) else np.zeros(7)] * ticks


def test_robosuites_objects_and_targets_are_moved_safely():
    env = environment("robosuite_stack+teleport").make(False)
    plan, observations, infos = play(env, SEED, rest(env, 75))
    begin = plan["disturbance_plan"]["begin"]
    cubes = np.stack([o["environment_state"] for o in observations])
    assert np.linalg.norm(cubes[begin + 1, :2] - cubes[begin, :2]) == pytest.approx(0.06, abs=0.005)
    assert np.abs(cubes[begin + 1 :, 2] - cubes[begin, 2]).max() < 0.006  # on the table at once, and it stays
    assert np.abs(cubes[-1, 7:10] - cubes[begin, 7:10]).max() < 1e-3  # the other one was not touched
    assert infos[begin]["disturbance"]
    objects = env.unwrapped.disturbable
    other = objects.position("cubeB_main")
    assert not objects.displace("cubeA_main", other, 0.0, True)
    np.testing.assert_array_equal(objects.position("cubeB_main"), other)
    # Put right beside it, then where the shove has to end at it.
    assert objects.displace("cubeA_main", other + np.array([0.06, 0.0]), 0.0, True)
    assert not objects.displace("cubeA_main", other + np.array([0.02, 0.0]), 0.0, False)
    # An outset kind: seen from the first observation on; gone with the env's next undisturbed reset.
    start = make_disturbed(lambda: env.env, "robosuite_stack", "start")
    clean = env.env.reset(seed=SEED)[0]["environment_state"]
    shown = start.reset(seed=SEED)[0]["environment_state"]
    assert np.abs(shown[:2]).max() == pytest.approx(0.12)
    np.testing.assert_array_equal(shown[7:], clean[7:])
    start.step(np.zeros(7))
    np.testing.assert_array_equal(env.env.reset(seed=SEED)[0]["environment_state"], clean)


def test_success_follows_a_peg_that_is_moved():
    env = environment("robosuite_nutassemblysquare").make(False)
    env.reset(seed=SEED)
    simulator = env.unwrapped.simulator
    robosuite, objects = simulator.env, simulator.objects
    peg = objects.position("peg1")
    nut = np.array([peg[0] + 0.05, peg[1], 0.83])
    assert not robosuite.on_peg(nut, 0)
    assert objects.displace("peg1", nut[:2], 0.0, True) and robosuite.on_peg(nut, 0)
    np.testing.assert_allclose(objects.position("peg1"), nut[:2])
    env.reset(seed=SEED)
    np.testing.assert_array_equal(env.unwrapped.disturbable.position("peg1"), peg)


@pytest.mark.parametrize(("name", "body"), [("robosuite_lift", "cube_main"), ("aloha_transfer_cube", "box")])
def test_weights_and_friction_are_scaled_for_one_episode(name, body):
    spec = environment(name)
    env = spec.make(False)
    _, expected, _ = play(env, SEED, rest(env, 6))

    def model():
        return env.unwrapped.disturbable._model

    mass, rough = model().body(body).mass[0], model().geom_friction.copy()
    for kind, weight, grip in (("mass", 3, 1), ("friction", 1, 0.5)):
        disturbed = make_disturbed(lambda: env, name, kind)
        disturbed.reset(seed=SEED)
        assert model().body(body).mass[0] == pytest.approx(weight * mass)
        np.testing.assert_allclose(model().geom_friction, grip * rough)
        for action in rest(disturbed, 3):
            assert disturbed.step(action)[4]["disturbance"]
        _, again, _ = play(env, SEED, rest(env, 6))  # undisturbed
        assert model().body(body).mass[0] == mass
        assert all(same(*pair) for pair in zip(expected, again, strict=True))


def test_alohas_objects_are_moved_safely_and_as_the_seed_says():
    env = environment("aloha_transfer_cube+push").make(False)
    actions = rest(env, 190)
    plan, observations, _ = play(env, SEED, actions)
    begin, end = (plan["disturbance_plan"][edge] for edge in ("begin", "end"))
    cube = np.stack([o["environment_state"] for o in observations])
    assert end - begin == 25
    assert np.linalg.norm(cube[end, :2] - cube[begin, :2]) == pytest.approx(0.06, abs=0.01)
    assert np.abs(cube[begin:, 2] - cube[begin, 2]).max() < 0.01 and np.isfinite(cube).all()
    _, again, _ = play(env, SEED, actions)
    assert all(same(*pair) for pair in zip(observations, again, strict=True))

"""Disturbances: each does what it says, at a tick and in a way that the seed alone decides."""

import subprocess
import sys
from itertools import pairwise

import gymnasium as gym
import numpy as np
import pytest

from ebt_policy.envs import environment, environments
from ebt_policy.envs.disturbances import KINDS, disturbances, make_disturbed
from ebt_policy.errors import UserError

PUSHT = "pusht_keypoints"
OUTSET = ("start", "mass", "friction")
SEED = 3


def shoves(ticks: int) -> np.ndarray:
    """Targets of PushT's pusher that keep shoving the block about in the undisturbed episode of SEED."""
    env = environment(PUSHT).make(False)
    env.reset(seed=SEED)
    targets = []
    for tick in range(ticks):
        around = 50 * np.array([np.cos(tick / 5), np.sin(tick / 5)])
        target = np.clip(
            env.unwrapped.block.center_of_gravity + env.unwrapped.block.position + around, 80, 430
        )
        targets.append(target.astype(np.float32))
        env.step(targets[-1])
    return np.stack(targets)


def play(env, seed: int, actions):
    """(reset info, observations, infos); observation 0 is that of the reset, n + 1 that of tick n."""
    observation, plan = env.reset(seed=seed)
    observations, infos = [observation], []
    for action in actions:
        observation, _, terminated, truncated, info = env.step(action)
        observations.append(observation)
        infos.append(info)
        if terminated or truncated:
            break
    return plan, observations, infos


def same(first, second) -> bool:
    if isinstance(first, dict):
        return all(same(first[key], second[key]) for key in first)
    return np.array_equal(first, second)


class Recorder(gym.Env):
    """Remembers what is executed. Observes the tick's number."""

    def __init__(self, size: int) -> None:
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.observation_space = gym.spaces.Dict(
            {name: gym.spaces.Box(-np.inf, np.inf, (7,)) for name in ("agent_pos", "environment_state")}
        )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.executed: list[np.ndarray] = []
        return self._look(), {}

    def step(self, action):
        self.executed.append(np.array(action))
        return self._look(), 0.0, False, False, {}

    def _look(self):
        tick = len(self.executed)
        return {"agent_pos": np.full(7, tick, float), "environment_state": np.full(7, 100.0 + tick)}


def commands(name: str, kind: str, ticks: int = 140):
    """(the plan, what was sent, what was executed) in `name`, without its simulator."""
    spec = environment(name)
    size = 14 if name.startswith("aloha") else 7
    env = make_disturbed(lambda: Recorder(size), spec.name, kind)
    sent = np.random.default_rng(0).uniform(-1, 1, (ticks, size))
    play(env, SEED, sent)
    return env.get_wrapper_attr("disturbance"), sent, np.stack(env.unwrapped.executed)


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
    if kind in OUTSET:
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{PUSHT}+shove", "Unknown disturbance 'shove' of pusht_keypoints. Choose one of: push, teleport"),
        (f"{PUSHT}+", "Unknown disturbance ''"),
        (f"{PUSHT}+gripper", "cannot have 'gripper': it has none. Choose one of"),
        (f"{PUSHT}+mass", "cannot have 'mass'"),
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
        "import sys; from ebt_policy.envs import environment; environment('pusht_keypoints+push');"
        "environment('robosuite_lift+mass'); environment('aloha_insertion+delay');"
        "assert not {'pymunk', 'mujoco', 'robosuite', 'dm_control'} & set(sys.modules)"
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

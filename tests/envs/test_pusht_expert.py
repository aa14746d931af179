"""The expert of PushT: what it plans happens, its pushes bring the T closer, and it finishes what others began."""

import numpy as np
import pytest

from ebt_policy.envs.collect import Collection, demonstrate
from ebt_policy.envs.experts import expert
from ebt_policy.envs.experts.pusht_physics import block_pose, distance, goal_pose, left, put, rotated
from ebt_policy.envs.experts.pusht_plan import plan
from ebt_policy.envs.experts.pusht_pushes import routes, starts
from ebt_policy.envs.experts.pusht_scripts import _approach, _push
from ebt_policy.envs.registry import environment


def started(seed: int):
    env = environment("pusht_keypoints").make(False)
    env.reset(seed=seed)
    return env


def finish(env, seed: int, ticks: int = 300) -> bool:
    """Whether the expert solves the task from where the env is."""
    driver = expert("pusht_keypoints", 0.1)
    driver.reset(env.unwrapped.simulator, seed)
    return any(env.step(np.clip(driver.act()[1], 0, 512))[4]["is_success"] for _ in range(ticks))


def pushes_of(seed: int, count: int):
    """(poses before, planned, after) of the first pushes, without noise."""
    env = started(seed)
    physics = env.unwrapped
    for _ in range(count):
        pose = block_pose(physics)
        around = routes(pose, np.array(physics.agent.position))
        push = plan(pose, goal_pose(physics), around.length)
        for target in _approach(physics, pose, around.to(push.start), 12.0):
            env.step(target)
        there = distance(block_pose(physics), pose)
        for target in _push(physics, push, 10.0):
            if env.step(target)[2]:
                return
        if there < 0.1:  # a pusher that starts within the T moves it
            yield pose, push.pose, block_pose(physics)


@pytest.mark.parametrize("seed", [50000, 50002, 50003])
def test_the_t_moves_as_planned_and_comes_closer(seed):
    goal = goal_pose(started(seed).unwrapped)
    made = list(pushes_of(seed, 2))
    assert made
    for before, planned, after in made:
        assert distance(after, planned) < 0.05 * distance(before, planned) + 1.0
        assert left(after, goal) < 0.8 * left(before, goal)


def test_a_pusher_on_its_way_leaves_the_t_alone():
    env = started(50002)
    physics, points = env.unwrapped, np.random.default_rng(0)
    for _ in range(6):
        pose = block_pose(physics)
        around = routes(pose, np.array(physics.agent.position))
        reachable = np.flatnonzero(np.isfinite(around.length))
        to = pose[:2] + rotated(pose[2], starts()[0][points.choice(reachable)])
        for target in _approach(physics, pose, around.to(to), 15.0):
            env.step(target)
        assert np.linalg.norm(to - physics.agent.position) < 3
        assert distance(block_pose(physics), pose) < 0.5


def test_a_demonstration_follows_from_its_seed_and_is_a_success():
    wanted = Collection("pusht_keypoints", episodes=1, seed=50002, disturbance=0.1)
    first, again = (demonstrate(wanted, 50002) for _ in range(2))
    assert first is not None and again is not None
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert {name: values.shape[1] for name, values in first.items()} == {
        "observation.state": 2,
        "observation.environment_state": 16,
        "action": 2,
    }
    speed = np.linalg.norm(np.diff(first["observation.state"], axis=0), axis=1)
    assert speed.max() < 29.2, "pixels a tick; 99 % of the human demonstrations' ticks are slower"


def test_with_pictures_it_acts_as_with_keypoints_and_the_pictures_are_recorded():
    seed = 50002
    keypoints, pixels = (
        demonstrate(Collection(env, episodes=1, seed=seed, disturbance=0.1), seed)
        for env in ("pusht_keypoints", "pusht_pixels")
    )
    assert keypoints is not None and pixels is not None
    assert pixels.keys() == {"observation.state", "observation.image", "action"}
    assert np.array_equal(pixels["action"], keypoints["action"])
    pictures = pixels["observation.image"]
    assert (pictures.dtype, pictures.shape[1:]) == (np.uint8, (96, 96, 3))
    env = environment("pusht_pixels").make(False)
    assert np.array_equal(pictures[0], env.reset(seed=seed)[0]["pixels"])


def test_somebody_who_takes_over_in_the_middle_finishes():
    env = started(50003)
    rng = np.random.default_rng(3)
    for _ in range(60):  # a pusher that strikes the T again and again
        env.step(block_pose(env.unwrapped)[:2] + rng.normal(0, 40, 2))
    assert finish(env, 50003, 230)


@pytest.mark.parametrize("pose", [(430, 83, 0.86), (75, 429, -2.04), (65, 239, 0.16), (81, 444, -0.89)])
def test_a_t_at_the_wall_or_in_a_corner_is_freed(pose):
    env = started(50000)
    put(env.unwrapped, np.array([256.0, 256.0]), np.array(pose))
    assert finish(env, 1)


def test_the_moved_goal_is_the_goal():
    env = started(50002)
    assert env.unwrapped.disturbable.displace("goal", np.array([220.0, 280.0]), 0.3, False)
    assert finish(env, 2)

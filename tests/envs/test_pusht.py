import numpy as np
import pytest

from ebt_policy.envs import environment, environments
from ebt_policy.errors import UserError


def play(name: str, seed: int, ticks: int = 20, render: bool = False):
    """Observations, coverages and infos under actions that depend on the seed only."""
    spec = environment(name)
    env = spec.make(render)
    observation, _ = env.reset(seed=seed)
    observations, infos = [spec.to_policy(observation)], []
    for action in np.random.default_rng(seed).uniform(100, 400, (ticks, 2)):
        observation, _, _, _, info = env.step(action)
        observations.append(spec.to_policy(observation))
        infos.append(info)
        if render:
            assert env.render().shape == (256, 256, 3)
    env.close()
    return observations, infos


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("pusht_keypoints", {"observation.state": (2,), "observation.environment_state": (16,)}),
        ("pusht_pixels", {"observation.state": (2,), "observation.image": (3, 96, 96)}),
    ],
)
def test_observations_have_lerobots_names_shapes_and_scales(name: str, shapes: dict[str, tuple[int, ...]]):
    observations, _ = play(name, seed=0, ticks=3)
    for observation in observations:
        assert {k: v.shape for k, v in observation.items()} == shapes
        assert all(v.dtype == np.float32 for v in observation.values())
    if "observation.image" in shapes:
        image = observations[0]["observation.image"]
        assert 0 <= image.min() < 0.5 and 0.9 < image.max() <= 1
        assert not np.array_equal(image, observations[-1]["observation.image"])  # the agent has moved


@pytest.mark.parametrize("name", ["pusht_keypoints", "pusht_pixels"])
def test_a_seed_fully_determines_an_episode_and_rendering_changes_nothing(name: str):
    first, _ = play(name, seed=5)
    again, _ = play(name, seed=5, render=True)
    other, _ = play(name, seed=6)
    for a, b in zip(first, again, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert not np.array_equal(first[0]["observation.state"], other[0]["observation.state"])


def test_an_env_that_was_used_before_gives_the_same_episode():
    spec = environment("pusht_keypoints")
    env = spec.make(False)
    for seed in (1, 2):
        env.reset(seed=seed)
        env.step(np.array([300.0, 300.0]))
    again, _ = env.reset(seed=1)
    fresh, _ = spec.make(False).reset(seed=1)
    np.testing.assert_array_equal(again["environment_state"], fresh["environment_state"])


def test_success_is_coverage_above_the_threshold():
    spec = environment("pusht_keypoints")
    env = spec.make(False)
    env.reset(seed=0)
    pushed_away = env.step(np.array([256.0, 256.0]))[4]
    assert not spec.success(pushed_away) and 0 <= spec.coverage(pushed_away) < spec.success_coverage
    env.reset(seed=0)
    block = env.unwrapped.block
    block.angle = np.pi / 4
    block.position = (256.0, 256.0)
    _, reward, terminated, _, info = env.step(np.array(env.unwrapped.agent.position))
    assert spec.success(info) and spec.coverage(info) > spec.success_coverage
    assert terminated and reward == 1


def test_an_episode_is_cut_after_its_300_ticks():
    spec = environment("pusht_keypoints")
    env = spec.make(False)
    env.reset(seed=0)
    cut = [env.step(np.array([20.0, 20.0]))[3] for _ in range(spec.max_ticks)]
    assert spec.max_ticks == 300 and cut == [False] * 299 + [True]


def test_an_unknown_environment_names_the_known_ones():
    with pytest.raises(UserError, match="pusht_keypoints, pusht_pixels"):
        environment("pusht_keypoint")
    assert all(environment(name).name == name for name in environments())


@pytest.mark.parametrize(
    ("obs_type", "use_async"),
    [
        ("environment_state_agent_pos", True),
        ("environment_state_agent_pos", False),
        ("pixels_agent_pos", False),
    ],
)
def test_lerobot_runs_vectors_of_more_than_one_env(obs_type: str, use_async: bool):
    from lerobot.envs import env_to_policy_features, make_env, make_env_config, preprocess_observation

    import ebt_policy.envs.configuration_pusht  # noqa: F401  registers the env

    config = make_env_config("ebt_pusht", obs_type=obs_type)
    vector = make_env(config, n_envs=2, use_async_envs=use_async)["ebt_pusht"][0]
    try:
        assert vector.call("_max_episode_steps") == (300, 300)
        observation, _ = vector.reset(seed=[3, 4], options={"lerobot_new_rollout": True})
        batch = preprocess_observation(observation)
        features = env_to_policy_features(config)
        for name, feature in features.items():
            if name != "action":
                assert batch[name].shape == (2, *feature.shape)
        _, reward, _, _, info = vector.step(np.full((2, *features["action"].shape), 250.0, np.float32))
        assert reward.shape == (2,) and info["is_success"].shape == (2,)
        expected, _ = play("pusht_keypoints", seed=3, ticks=0)
        np.testing.assert_allclose(batch["observation.state"][0], expected[0]["observation.state"])
    finally:
        vector.close()


def test_lerobots_env_config_rejects_an_unknown_observation_type():
    from ebt_policy.envs.configuration_pusht import EBTPushTEnv

    with pytest.raises(ValueError, match="obs_type is 'state'"):
        EBTPushTEnv(obs_type="state")


def test_success_is_gym_pushts_own_threshold_of_coverage():
    spec = environment("pusht_keypoints")
    env = spec.make(False)
    assert spec.success_coverage == env.unwrapped.success_threshold == 0.95
    assert spec.solved_when == "coverage exceeds 0.95 once"

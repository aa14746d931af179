"""Dimensions that hardly move in the data: other inputs still count in use, and actions stay where the data were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core_fixtures import make_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor.factory import make_default_pre_post_processors

import ebt_policy
from ebt_policy.inference.robot_contract import read_robot_contract
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.processor_ebt import make_ebt_pre_post_processors, with_minimum_range

MODES = ["MIN_MAX", "MEAN_STD", "QUANTILES", "QUANTILE10"]
STATE, ACTION, TOP = "observation.state", "action", "observation.images.top"


def statistics(data: np.ndarray, axis: int | tuple[int, ...] = 0) -> dict[str, Any]:
    quantiles = {f"q{int(100 * q):02d}": np.quantile(data, q, axis) for q in (0.01, 0.1, 0.9, 0.99)}
    return {
        "min": data.min(axis),
        "max": data.max(axis),
        "mean": data.mean(axis),
        "std": data.std(axis),
    } | quantiles


def config(mode: str) -> ebt_policy.EBTConfig:
    return ebt_policy.EBTConfig(
        input_features={STATE: PolicyFeature(FeatureType.STATE, (3,))},
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (3,))},
        normalization_mapping=dict.fromkeys(("STATE", "ACTION"), NormalizationMode(mode)),
        device="cpu",
    )


def data(jitter: float, scale: float = 1.0) -> np.ndarray:
    """(1000, 3): one joint that moves, one that holds .5 up to a jitter, one that moves."""
    rows = np.random.default_rng(0).uniform(-1, 1, (1000, 3))
    rows[:, 1] = 0.5 + jitter * rows[:, 1]
    return scale * rows


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("jitter", [0.0, 1e-7, 1e-5])
@pytest.mark.parametrize("offset", [1e-4, 0.2])
def test_a_joint_that_holds_in_the_data_is_one_input_among_others_in_use(
    mode: str, jitter: float, offset: float
):
    rows = data(jitter)
    preprocess, _ = make_ebt_pre_post_processors(
        config(mode), {STATE: statistics(rows), ACTION: statistics(rows)}
    )
    seen = torch.tensor([0.3, 0.5 + offset, -0.3], dtype=torch.float32)
    found = preprocess({STATE: seen[None]})[STATE][0]
    assert found.abs().max() < 2.5  # unwidened it is thousands


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("jitter", [0.0, 1e-7, 1e-5])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_actions_come_back_and_a_narrow_one_stays_where_the_data_were(mode: str, jitter: float, scale: float):
    rows = data(jitter, scale)
    preprocess, postprocess = make_ebt_pre_post_processors(
        config(mode), {STATE: statistics(rows), ACTION: statistics(rows)}
    )
    actions = torch.tensor(rows[:64], dtype=torch.float32)
    normalised = preprocess({STATE: actions, ACTION: actions})[ACTION]
    torch.testing.assert_close(postprocess(normalised), actions, rtol=1e-5, atol=1e-5 * scale)
    assert normalised.abs().max() < 2.5
    # Whatever the network says of the narrow joint, it is held.
    anything = torch.linspace(-1, 1, 5)[:, None].expand(-1, 3)
    assert (postprocess(anything)[:, 1] - 0.5 * scale).abs().max() <= 1.5e-4 * scale


@given(st.lists(st.floats(1e-2, 1e3), min_size=1, max_size=5), st.sampled_from(MODES))
@settings(max_examples=30, deadline=None)
def test_statistics_of_joints_that_move_stay_as_they_are(ranges: list[float], mode: str):
    rows = np.random.default_rng(0).uniform(-1, 1, (200, len(ranges))) * ranges
    stats = {STATE: statistics(rows)}
    features = {STATE: PolicyFeature(FeatureType.STATE, (len(ranges),))}
    assert with_minimum_range(stats, features, {FeatureType.STATE: NormalizationMode(mode)}) == stats


def test_a_gripper_that_seldom_opens_has_the_range_that_it_moved_in():
    rows = data(0.0)
    rows[:5, 1] = 1.0
    preprocess, _ = make_ebt_pre_post_processors(
        config("QUANTILES"), {STATE: statistics(rows), ACTION: statistics(rows)}
    )
    found = preprocess({STATE: torch.tensor([[0.0, 0.5, 0.0], [0.0, 1.0, 0.0]])})[STATE][:, 1]
    assert found.abs().max() < 4 and (found[1] - found[0]) > 1  # told apart, and of a normal size


def test_a_dark_camera_does_not_outshine_the_others():
    pictures = np.random.default_rng(0).uniform(0, 1, (20, 3, 8, 8))
    pictures[:, 2] = 0.0
    stats = {TOP: {k: v.reshape(3, 1, 1) for k, v in statistics(pictures, (0, 2, 3)).items()}}
    features = {TOP: PolicyFeature(FeatureType.VISUAL, (3, 8, 8))}
    found = with_minimum_range(stats, features, {FeatureType.VISUAL: NormalizationMode.MEAN_STD})
    assert found[TOP]["std"].shape == (3, 1, 1) and found[TOP]["std"][2] == stats[TOP]["std"][:2].max()


@pytest.fixture
def old_checkpoint(tmp_path: Path) -> Path:
    """As an earlier version saved it: raw statistics of a state and an action with a constant dimension."""
    rows = data(0.0)[:, :2]
    stats = {STATE: statistics(rows), ACTION: statistics(rows)}
    policy = make_policy("ebt", features=(STATE,), start="zero")
    policy.save_pretrained(tmp_path)
    for part in make_default_pre_post_processors(policy.config, stats):
        part.save_pretrained(tmp_path)
    return tmp_path


def test_an_old_checkpoint_gets_the_minimum_range_when_it_is_loaded(old_checkpoint: Path):
    runner = load_runner(old_checkpoint)

    def normalised(value: float) -> torch.Tensor:
        seen = np.array([[[0.3, value]] * 2], np.float32)
        return runner.normalised({STATE: seen})[STATE][0, -1]

    assert normalised(0.5)[1] == -1  # as it was trained
    assert abs(normalised(0.5001)[1] + 1) < 1e-3
    actions = runner.decide({STATE: np.array([[[0.3, 0.5]] * 2], np.float32)}, Noise.from_seeds([0])).actions
    assert np.abs(actions[..., 1] - 0.5).max() < 1e-3


def test_the_robot_is_compared_with_the_data_and_not_with_the_widened_range(tmp_path: Path):
    rows = data(0.0)
    policy_config = config("MIN_MAX")
    for part in make_ebt_pre_post_processors(
        policy_config, {STATE: statistics(rows), ACTION: statistics(rows)}
    ):
        part.save_pretrained(tmp_path)
    policy_config.save_pretrained(tmp_path)
    state = read_robot_contract(tmp_path).state
    assert state is not None and (state.low[1], state.high[1]) == (0.5, 0.5)

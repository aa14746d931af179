"""An alarm at the first decision, on an arm: nobody knows a last action yet, and the arm stays where it is."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_arm import FakeArm, FakeArmConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.factory import get_policy_class, make_policy_config, make_pre_post_processors

from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions
from ebt_policy.hardware.deploy import deploy
from ebt_policy.hardware.planners.make import holds
from ebt_policy.hardware.safety.config_safe_robot import SafetyOptions
from ebt_policy.monitoring.calibration import calibrated
from ebt_policy.monitoring.signals import Statistic
from ebt_policy.provenance import sha256

POSE = {"shoulder.pos": 0.0, "elbow.pos": 10.0, "gripper.pos": 50.0}
STATES = ["gripper.pos", "shoulder.pos", "elbow.pos"]


@pytest.fixture
def policy(tmp_path: Path) -> PolicyOptions:
    """Untrained, with states in another order than actions, and a calibration by which every decision is an alarm."""
    config = make_policy_config(
        "ebt",
        device="cpu",
        width=16,
        layers=1,
        attention_heads=2,
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (3,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))},
        normalization_mapping=dict.fromkeys(("STATE", "ACTION"), NormalizationMode.MIN_MAX),
        state_feature_names=STATES,
        action_feature_names=list(POSE),
        dataset_fps=30.0,
    )
    reach = {"shoulder.pos": (-80.0, 80.0), "elbow.pos": (-90.0, 90.0), "gripper.pos": (0.0, 100.0)}
    statistics = {
        feature: {
            end: torch.tensor([reach[name][i] for name in names]) for i, end in enumerate(("min", "max"))
        }
        for feature, names in (("observation.state", STATES), ("action", list(POSE)))
    }
    folder = tmp_path / "policy"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = get_policy_class("ebt")(config)
    for part in (made, *make_pre_post_processors(config, dataset_stats=statistics)):
        part.save_pretrained(folder)
    calibrated(
        np.linspace(0, 1e-3, 20),
        alpha=0.1,
        statistic=Statistic(("acceleration",), (-20.0,), (1.0,)),
        horizon=40,
        checkpoint_sha256=sha256(folder / "model.safetensors"),
        source="here",
    ).write(tmp_path / "calibration.json")
    return PolicyOptions(path=str(folder), calibration=str(tmp_path / "calibration.json"), ladder=["hold"])


def test_the_arm_stays_though_state_and_action_have_other_orders(policy: PolicyOptions, tmp_path: Path):
    arm = FakeArm(FakeArmConfig(id="fake", calibration_dir=tmp_path))
    safety = SafetyOptions(start_gate=None)  # which would refuse so large a jump
    config = DeployConfig(policy=policy, safety=safety, seconds=0.6, output=str(tmp_path / "run"))
    (outcome,) = deploy(config, robot=arm)
    assert outcome.alarms and outcome.plans
    assert len(arm.sent) > 10
    for sent in arm.sent:
        assert sent == pytest.approx(POSE, abs=1e-4)


def test_without_every_joint_in_the_state_there_is_no_plan(
    policy: PolicyOptions, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(
        "ebt_policy.hardware.deploy.state_numbers", lambda _: ["gripper.pos", "elbow.pos", "current"]
    )
    arm = FakeArm(FakeArmConfig(id="fake", calibration_dir=tmp_path))
    config = DeployConfig(policy=policy, seconds=0.4, output=str(tmp_path / "run"))
    (outcome,) = deploy(config, robot=arm)
    assert not outcome.plans and outcome.no_plans
    assert all(sent == pytest.approx(POSE, abs=1e-4) for sent in arm.sent)
    assert "no action is known that holds" in (tmp_path / "run" / "events.jsonl").read_text()
    policy.ladder = ["ask"]  # a human is asked all the same
    (asked,) = deploy(config, robot=FakeArm(FakeArmConfig(id="fake", calibration_dir=tmp_path)))
    assert asked.asked == 1


def test_the_last_action_holds_where_there_is_one():
    hold = holds(["b.pos", "a.pos", "x"], ["a", "b"])
    assert hold(np.array([2.0, 1.0, 9.0]), None).tolist() == [1.0, 2.0]
    assert hold(np.array([2.0, 1.0, 9.0]), np.array([5.0, 6.0])).tolist() == [5.0, 6.0]
    assert holds(["b.pos"], ["a", "b"])(np.array([2.0]), None) is None

"""A policy meets only robots whose joints, rate and units are those of its data, or says what differs."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebt_policy.errors import UserError
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.robot_contract import (
    Ranges,
    RobotContract,
    check_pose,
    check_rate,
    check_units,
    read_robot_contract,
    reorder,
)
from ebt_policy.training.train import train

SO101 = ["shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"]
DEGREES = Ranges(np.array([-60.0, -95, -90, -80, -150, 0]), np.array([60.0, 30, 85, 90, 150, 60]))
DEGREES_REACH = np.array([-110.0, -100, -97, -95, -160, 0]), np.array([110.0, 100, 97, 95, 160, 100])
PERCENT_REACH = np.array([-100.0] * 5 + [0]), np.full(6, 100.0)


@given(st.permutations(SO101))
def test_any_order_of_the_same_names_is_put_right_in_both_directions(found):
    values = {name: float(i) for i, name in enumerate(SO101)}
    state = np.array([values[name] for name in found])
    columns = reorder([f"{name}.pos" for name in found], SO101)
    assert list(state[columns]) == [values[name] for name in SO101]
    assert list(state[columns][reorder(SO101, found)]) == list(state)


def test_other_names_are_refused_by_name():
    with pytest.raises(UserError, match=r"Missing: gripper; not known to the policy: claw"):
        reorder([*SO101[:5], "claw.pos"], SO101)
    with pytest.raises(UserError, match="Missing"):
        reorder([*SO101, "gripper"], SO101)


def test_another_rate_is_refused_with_the_rate_of_the_data():
    check_rate(50, 50)
    check_rate(None, 30)
    with pytest.raises(UserError, match=r"0\.6 times.*--fps=50"):
        check_rate(50, 30)


@pytest.mark.parametrize("factor", [np.pi / 180, 180 / np.pi, 100.0])
def test_a_pose_in_other_units_is_refused(factor):
    pose = np.array([20.0, -60, 60, 40, 90, 30])
    assert check_pose(DEGREES, pose, SO101) is None
    narrow = Ranges(pose - 10, pose + 10)
    with pytest.raises(UserError, match="shoulder_pan at"):
        check_pose(narrow, pose * factor, SO101)


def test_one_joint_outside_the_data_is_a_warning_and_a_missing_reading_counts_as_outside():
    pose = np.array([20.0, -60, 60, 40, 90, 300])
    assert "gripper at 300" in str(check_pose(DEGREES, pose, SO101))
    pose[5] = np.nan
    assert "gripper at nan" in str(check_pose(DEGREES, pose, SO101))


def test_data_in_other_units_than_the_robot_are_refused():
    check_units(DEGREES, *DEGREES_REACH, SO101)
    radians = Ranges(np.radians(DEGREES.low), np.radians(DEGREES.high))
    percent = Ranges(np.array([-55.0, -100, -93, -84, -94, 0]), np.array([55.0, 30, 88, 95, 94, 60]))
    check_units(percent, *PERCENT_REACH, SO101)
    for data, reach in (
        (radians, DEGREES_REACH),
        (DEGREES, (np.radians(DEGREES_REACH[0]), np.radians(DEGREES_REACH[1]))),
        (DEGREES, PERCENT_REACH),
        (percent, DEGREES_REACH),
    ):
        with pytest.raises(UserError, match="different units: shoulder_pan"):
            check_units(data, *reach, SO101)


@pytest.mark.parametrize("policy", ["ebt", "matched_baseline"])
def test_a_trained_checkpoint_says_names_rate_robot_and_ranges(tiny_recipe, tmp_path, policy):
    run = train(tiny_recipe(policy, steps=1), tmp_path / "run")
    contract = read_robot_contract(find_checkpoint(run))
    assert contract.state_names == contract.action_names == ("x", "y")
    assert contract.fps == 10 and not contract.unknown()
    assert contract.state is not None and contract.action is not None
    assert (contract.state.low > 0).all() and (contract.state.low < contract.state.high).all()


def test_a_checkpoint_of_an_older_version_says_what_it_does_not_know():
    folder = find_checkpoint("shipped:pusht_keypoints_ebt")
    assert "action_feature_names" not in json.loads((folder / "config.json").read_text())
    contract = read_robot_contract(folder)
    assert contract.unknown() == ["the order of the joints", "the control rate"]
    assert RobotContract().unknown() == [*contract.unknown(), "the range of the joints"]

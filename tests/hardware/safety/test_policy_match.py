"""A robot is compared with the training data before anything moves: joint names, units and poses."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from fake_arm import FakeArm, FakeArmConfig

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety import safe_robot
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.safe_robot import SafeRobot
from ebt_policy.inference.robot_contract import Ranges, RobotContract

JOINTS = ("shoulder", "elbow", "gripper")
LOW, HIGH = (
    {"shoulder": -80.0, "elbow": -70.0, "gripper": 2.0},
    {"shoulder": 80.0, "elbow": 75.0, "gripper": 98.0},
)


def contract(order=JOINTS, scale: float = 1.0, shift: float = 0.0, **changes) -> RobotContract:
    """Of data whose columns are in this order."""
    names = tuple(f"{name}.pos" for name in order)
    ranges = Ranges(*(np.array([scale * end[name] + shift for name in order]) for end in (LOW, HIGH)))
    made = {"state_names": names, "action_names": names, "fps": 30.0, "state": ranges, "action": ranges}
    return RobotContract(**made | changes)


@pytest.fixture
def arm(tmp_path: Path) -> FakeArm:
    arm = FakeArm(FakeArmConfig(id="fake", calibration_dir=tmp_path))
    arm.simulated = True  # its limits may be left out
    return arm


def guarded(arm: FakeArm, expected: RobotContract | None, **options) -> SafeRobot:
    config = {"speed_scale": 1.0, "ramp_s": 0.0, "start_gate": None, "velocity": 1e4, "acceleration": 1e8}
    robot = SafeRobot(SafeRobotConfig(robot={}, **config | options), arm)
    if expected is not None:
        robot.expect(expected)
    return robot


@pytest.mark.parametrize("order", list(itertools.permutations(JOINTS)))
def test_each_number_of_the_policy_moves_the_joint_of_its_name_whatever_the_columns(order, arm: FakeArm):
    robot = guarded(arm, contract(order))
    robot.connect()
    goal = {"shoulder": 40.0, "elbow": 20.0, "gripper": 60.0}
    # As LeRobot's loops do, which go by the order of the features, and as `deploy` does.
    assert (
        list(robot.action_features) == list(robot.observation_features) == [f"{name}.pos" for name in order]
    )
    robot.drive([goal[name] for name in order])
    assert arm.sent[-1] == {f"{name}.pos": pytest.approx(value, abs=0.01) for name, value in goal.items()}


def test_other_joints_are_refused_by_name(arm: FakeArm):
    with pytest.raises(UserError, match=r"Missing: wrist.*not known to the policy: elbow"):
        guarded(arm, contract(action_names=("shoulder.pos", "wrist.pos", "gripper.pos")))


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (contract(scale=np.pi / 180), "different units"),  # radians
        (contract(shift=400.0), "different units"),  # another calibration
        (
            contract(state=Ranges(np.array([50.0, 50.0, 80.0]), np.array([80.0, 75.0, 98.0]))),
            "outside the range",
        ),
    ],
)
def test_units_and_poses_that_cannot_be_those_of_the_data_are_refused_before_anything_moves(
    expected: RobotContract, said: str, arm: FakeArm
):
    robot = guarded(arm, expected)
    with pytest.raises(UserError, match=said):
        robot.connect()
    assert arm.sent == [] and arm.calls[-1] == "disconnect"


def test_one_joint_out_of_the_datas_poses_and_what_is_not_known_are_told(arm: FakeArm):
    arm.positions["elbow.pos"] = 99.0
    robot = guarded(
        arm, contract(state=Ranges(np.array([-80.0, 0.0, 2.0]), np.array([80.0, 20.0, 98.0])), fps=None)
    )
    robot.connect()
    told = [event.detail for event in robot.events if event.kind == "differs"]
    assert len(told) == 2 and "does not say the control rate" in told[0] and "elbow.pos at 99" in told[1]


def test_the_data_of_this_robot_pass_without_a_word(arm: FakeArm):
    for expected in (None, contract()):
        robot = guarded(arm, expected)
        robot.connect()
        assert not robot.events
        robot.disconnect()
        arm.calls.clear()


def test_lerobots_commands_compare_by_an_option(
    arm: FakeArm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(safe_robot, "checkpoint_folder", lambda policy: tmp_path / policy)
    monkeypatch.setattr(safe_robot, "read_robot_contract", lambda folder: contract(JOINTS[::-1]))
    robot = guarded(arm, None, policy="run", fps=30.0)
    assert list(robot.action_features) == ["gripper.pos", "elbow.pos", "shoulder.pos"]
    with pytest.raises(UserError, match=r"30 ticks a second.*50.*--robot.fps and --fps=30"):
        guarded(arm, None, policy="run", fps=50.0)

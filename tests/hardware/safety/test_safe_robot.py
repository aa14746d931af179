"""Any LeRobot robot behind the filter."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_arm import FakeArm, FakeArmConfig

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.safe_robot import SafeRobot, joint_ranges


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def arm(tmp_path: Path) -> FakeArm:
    return FakeArm(FakeArmConfig(id="fake", calibration_dir=tmp_path))


@pytest.fixture
def guarded(arm: FakeArm, tmp_path: Path):
    def make(**options) -> tuple[SafeRobot, Clock]:
        clock = Clock()
        options = {"fps": 50.0, "speed_scale": 1.0, "ramp_s": 0.0} | options
        config = SafeRobotConfig(robot={"type": "fake_arm"}, id="safe", calibration_dir=tmp_path, **options)
        robot = SafeRobot(config, arm, clock)
        robot.connect()
        return robot, clock

    return make


def drive(robot: SafeRobot, clock: Clock, ticks: int, **targets: float) -> dict:
    sent = {}
    for _ in range(ticks):
        clock.now += 0.02
        sent = robot.send_action({f"{name}.pos": value for name, value in targets.items()})
    return sent


def test_ranges_come_from_the_calibration(arm: FakeArm):
    ranges = joint_ranges(arm, ("shoulder", "elbow", "gripper"))
    assert ranges["shoulder"] == pytest.approx((-90, 90), abs=0.1)
    assert ranges["elbow"] == (-100, 100) and ranges["gripper"] == (0, 100)


def test_what_is_sent_is_what_is_allowed(guarded, arm: FakeArm):
    robot, clock = guarded(start_gate=None)
    returned = drive(robot, clock, 200, shoulder=20, elbow=20, gripper=300)
    assert returned == arm.sent[-1]
    assert returned["shoulder.pos"] == pytest.approx(20, abs=0.1)
    assert returned["gripper.pos"] == pytest.approx(98, abs=0.1)  # the end of its range, less the margin
    steps = np.diff([list(action.values()) for action in arm.sent], axis=0)
    assert np.abs(steps).max() <= 180 * 0.02 + 1e-6
    assert "clipped" in {event.kind for event in robot.events}


def test_nonsense_is_answered_by_holding_still(guarded, arm: FakeArm):
    robot, clock = guarded()
    drive(robot, clock, 100, shoulder=20, elbow=20, gripper=50)
    drive(robot, clock, 60, shoulder=float("nan"), elbow=20)
    assert np.ptp([action["shoulder.pos"] for action in arm.sent[-20:]]) == 0
    assert all(np.isfinite(list(action.values())).all() for action in arm.sent)


def test_a_stop_is_latched_until_reset(guarded):
    robot, clock = guarded()
    drive(robot, clock, 20, shoulder=20, elbow=20, gripper=50)
    robot.stop("key")
    held = drive(robot, clock, 50, shoulder=-20, elbow=20, gripper=50)
    assert robot.stopped and drive(robot, clock, 20, shoulder=-20, elbow=20, gripper=50) == held
    robot.reset()
    assert drive(robot, clock, 200, shoulder=-5, elbow=20, gripper=50)["shoulder.pos"] == pytest.approx(
        -5, abs=0.1
    )


def test_a_shadow_sends_nothing_and_says_what_it_would(guarded, arm: FakeArm):
    robot, clock = guarded(shadow=True)
    assert drive(robot, clock, 100, shoulder=20, elbow=20, gripper=50)["shoulder.pos"] > 10
    assert not arm.sent


def test_events_are_logged(guarded, tmp_path: Path):
    robot, clock = guarded(event_log=str(tmp_path / "log" / "events.jsonl"))
    drive(robot, clock, 3, shoulder=80, elbow=20, gripper=50)  # beyond the start gate
    robot.disconnect()
    lines = [json.loads(line) for line in (tmp_path / "log" / "events.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["refused_start_gate"] * 3 and lines[0]["wall"] > 1e9


def test_what_lasts_is_printed_once(guarded, caplog: pytest.LogCaptureFixture):
    robot, clock = guarded()
    drive(robot, clock, 50, shoulder=80, elbow=20, gripper=50)
    assert len(robot.events) == 50 and caplog.text.count("refused_start_gate") == 1


def test_a_robot_that_cannot_be_guarded_is_refused_and_released(guarded, arm: FakeArm):
    arm.bus.calibration.clear()
    with pytest.raises(UserError, match=r"how far shoulder may move.*--robot.low"):
        guarded()
    assert arm.calls[-1] == "disconnect"
    robot, _ = guarded(low={"shoulder": -10.0}, high={"shoulder": 10.0})
    assert robot.filter is not None and robot.filter.limits.high[0] < 10


def test_disconnecting_closes_the_log_even_when_the_bus_fails(guarded, arm: FakeArm, tmp_path: Path):
    robot, _ = guarded(event_log=str(tmp_path / "events.jsonl"))
    arm.breaks = True
    with pytest.raises(ConnectionError):
        robot.disconnect()
    assert robot._log is None and robot.filter is None


def test_lerobot_makes_it_by_its_type_and_options(tmp_path: Path):
    import draccus
    from lerobot.robots.config import RobotConfig
    from lerobot.robots.utils import make_robot_from_config

    @dataclass
    class Command:  # as LeRobot's are
        robot: RobotConfig

    given = [
        "--robot.type=ebt_safe",
        f"--robot.calibration_dir={tmp_path}",
        f"--robot.robot={{type: fake_arm, id: a, calibration_dir: {tmp_path}}}",
    ]
    robot = make_robot_from_config(draccus.parse(Command, args=given).robot)
    assert isinstance(robot, SafeRobot) and isinstance(robot.robot, FakeArm) and robot.robot.id == "a"


def test_options_that_describe_no_robot_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="describes no LeRobot robot"):
        SafeRobot(SafeRobotConfig(robot={"type": "nobody"}, calibration_dir=tmp_path))


def test_a_hot_motor_is_named(guarded, arm: FakeArm):
    robot, _ = guarded(max_temperature=60.0)
    assert robot.too_hot() == ""  # this bus cannot be asked
    temperatures = {"shoulder": 41, "elbow": 60, "gripper": 33}
    arm.bus.sync_read = lambda register, normalize: temperatures
    assert robot.too_hot() == ""
    temperatures["elbow"] = 61
    assert "'elbow' has 61 °C; 60 are allowed" in robot.too_hot()
    robot.config.max_temperature = None
    assert robot.too_hot() == ""

"""SafeRobot: any LeRobot robot behind the safety filter."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fake_arm import FakeArm, FakeArmConfig

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety.arms import joint_ranges
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.safe_robot import SafeRobot


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
    robot, _ = guarded(low={"shoulder": -50.0}, high={"shoulder": 50.0})
    assert robot.filter is not None and robot.filter.limits.high[0] < 50


def test_disconnecting_closes_the_log_even_when_the_bus_fails(guarded, arm: FakeArm, tmp_path: Path):
    robot, _ = guarded(event_log=str(tmp_path / "events.jsonl"))
    arm.breaks = True
    with pytest.raises(UserError, match="cannot be disconnected: ConnectionError: bus"):
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


def test_a_stop_lasts_from_before_connecting_to_after_reconnecting(guarded, arm: FakeArm):
    robot, clock = guarded()
    robot.stop("key")
    robot.disconnect()
    assert robot.stopped
    robot.connect()
    held = drive(robot, clock, 20, shoulder=20, elbow=20, gripper=50)
    assert robot.stopped and held["shoulder.pos"] == 0
    robot.reset()
    assert drive(robot, clock, 20, shoulder=20, elbow=20, gripper=50)["shoulder.pos"] > 0


def test_a_command_chosen_too_long_ago_or_before_the_last_is_refused(guarded, arm: FakeArm):
    robot, clock = guarded()
    clock.now += 0.02
    robot.drive([1.0, 10.0, 50.0], stamp=clock.now)
    clock.now += 0.02
    robot.drive([2.0, 10.0, 50.0], stamp=clock.now - 0.03)
    clock.now += 1.0
    robot.drive([3.0, 10.0, 50.0], stamp=clock.now - 0.6)
    assert [event.kind for event in robot.events if event.kind.startswith("refused")] == [
        "refused_reordered",
        "refused_stale",
    ]


def test_one_wrong_reading_is_not_where_the_arm_begins(guarded, arm: FakeArm, monkeypatch):
    wrong, read = [True], arm.get_observation
    robot, _ = guarded()
    there = dict(arm.positions)
    monkeypatch.setattr(
        arm, "get_observation", lambda: read() | ({"shoulder.pos": 60.0} if wrong and wrong.pop() else {})
    )
    robot.begin()
    sent = robot.send_action({f"{name}.pos": there[f"{name}.pos"] for name in robot.joints})
    assert sent == pytest.approx(there)


@pytest.mark.parametrize("lost", [1, 4, 5])
def test_some_lost_packets_while_connecting_are_survived(guarded, arm: FakeArm, lost: int, monkeypatch):
    left, read = [lost], arm.get_observation

    def unreliable() -> dict:
        if left[0]:
            left[0] -= 1
            raise ConnectionError("no status packet")
        return read()

    monkeypatch.setattr(arm, "get_observation", unreliable)
    if lost < 5:
        robot, _ = guarded()
        assert robot.filter is not None
    else:
        with pytest.raises(UserError, match="joints cannot be read, tried 5 times: no status packet"):
            guarded()
        assert arm.calls[-1] == "disconnect"


@pytest.mark.parametrize("fault", ["missing", "foreign"])
def test_without_its_calibration_a_robot_is_refused_and_nothing_is_asked(
    guarded, arm: FakeArm, fault: str, monkeypatch: pytest.MonkeyPatch
):
    asked = []
    monkeypatch.setattr(arm, "calibrate", lambda: asked.append(True))
    if fault == "missing":
        arm.bus.calibration = {}
    else:
        monkeypatch.setattr(FakeArm, "is_calibrated", False)
    robot = SafeRobot(SafeRobotConfig(robot={}), arm, Clock())
    with pytest.raises(UserError, match=r"lerobot-calibrate --robot.type=fake_arm --robot.id=fake"):
        robot.connect(calibrate=False)
    assert not asked
    assert arm.calls == ([] if fault == "missing" else ["connect", "disconnect"])


@pytest.mark.parametrize("option", ["low", "high", "velocity_of", "acceleration_of"])
@pytest.mark.parametrize("name", ["sholder", "shoulder.pos"])
def test_an_option_for_what_is_no_joint_is_refused_before_connecting(
    guarded, arm: FakeArm, option: str, name: str
):
    with pytest.raises(UserError, match=rf"--robot\.{option} names '{name}'.*Did you mean 'shoulder'\?"):
        guarded(**{option: {name: 5.0}})
    assert not arm.calls


def test_each_end_of_a_range_narrows_what_the_robot_knows(guarded):
    robot, _ = guarded(low={"elbow": -20.0}, high={"gripper": 60.0}, margin=0.0)
    limits = robot.limits()
    assert limits.low[1] == -20 and limits.high[1] == 100
    assert limits.low[2] == 0 and limits.high[2] == 60
    assert robot.ranges()["elbow"] == (-20, 100)


@pytest.mark.parametrize("ends", [{"low": {"elbow": -120.0}}, {"high": {"shoulder": 95.0}}])
def test_a_range_wider_than_the_calibrations_is_refused(guarded, arm: FakeArm, ends: dict):
    with pytest.raises(UserError, match=r"outside its calibrated range of -"):
        guarded(**ends)
    assert arm.calls[-1] == "disconnect" and not arm.sent


def test_a_rounded_end_is_the_calibrated_one(guarded):
    robot, _ = guarded(low={"shoulder": -90.0}, margin=0.0)  # calibrated to -89.98
    assert robot.limits().low[0] == pytest.approx(-89.978, abs=1e-3)


def test_one_end_is_no_range_where_the_robot_knows_none(guarded, arm: FakeArm):
    arm.bus.calibration.clear()
    with pytest.raises(UserError, match=r"how far shoulder may move. Give --robot.low and --robot.high"):
        guarded(low={"shoulder": -10.0})


class Blocked(FakeArm):
    """Nothing moves it."""

    def send_action(self, action: dict) -> dict:
        self.sent.append(dict(action))
        return action


def observe_and_send(robot: SafeRobot, clock: Clock, ticks: int, **targets: float) -> None:
    """As LeRobot's loops do."""
    for _ in range(ticks):
        clock.now += 0.02
        robot.get_observation()
        robot.send_action({f"{name}.pos": value for name, value in targets.items()})


def stops(robot: SafeRobot) -> str:
    return " ".join(event.detail for event in robot.events if event.kind == "stop")


def safe(arm: FakeArm, tmp_path: Path, **options) -> tuple[SafeRobot, Clock]:
    clock = Clock()
    config = SafeRobotConfig(robot={}, id="safe", calibration_dir=tmp_path, fps=50.0, **options)
    robot = SafeRobot(config, arm, clock)
    robot.connect()
    return robot, clock


@pytest.mark.parametrize(("joint", "allowed"), [("shoulder", 0.2 * 180), ("elbow", 0.2 * 200)])
def test_under_lerobots_commands_a_blocked_joint_stops_the_arm(tmp_path: Path, joint: str, allowed: float):
    arm = Blocked(FakeArmConfig(id="fake", calibration_dir=tmp_path))
    robot, clock = safe(arm, tmp_path, start_gate=None, speed_scale=1.0)
    targets = {"shoulder": 0.0, "elbow": 10.0, "gripper": 50.0} | {joint: 80.0}
    observe_and_send(robot, clock, 90, **targets)
    assert robot.stopped and f"joint '{joint}' is" in stops(robot)
    moved = arm.sent[-1][f"{joint}.pos"] - arm.positions[f"{joint}.pos"]
    assert allowed <= moved <= allowed + 180**2 / (2 * 720) + 180 * 0.02
    robot, clock = safe(arm, tmp_path, start_gate=None, following_error=None)
    observe_and_send(robot, clock, 200, **targets)
    assert not robot.stopped


def test_a_gripper_that_closes_on_an_object_stops_nothing(tmp_path: Path):
    arm = Blocked(FakeArmConfig(id="fake", calibration_dir=tmp_path))
    robot, clock = safe(arm, tmp_path, start_gate=None)
    observe_and_send(robot, clock, 300, shoulder=0.0, elbow=10.0, gripper=3.0)
    assert not robot.stopped and arm.sent[-1]["gripper.pos"] < 5


def test_an_old_observation_is_no_sign_of_a_blocked_joint(tmp_path: Path):
    arm = Blocked(FakeArmConfig(id="fake", calibration_dir=tmp_path))
    robot, clock = safe(arm, tmp_path, start_gate=None)
    robot.get_observation()
    drive(robot, clock, 200, shoulder=80.0, elbow=10.0, gripper=50.0)
    assert not robot.stopped


def test_a_following_error_in_degrees_is_refused(arm: FakeArm, tmp_path: Path):
    with pytest.raises(UserError, match=r"following_error is 15; expected a part of each joint's range"):
        safe(arm, tmp_path, following_error=15.0)


def test_under_lerobots_commands_a_hot_motor_stops_the_arm(arm: FakeArm, tmp_path: Path):
    robot, clock = safe(arm, tmp_path)
    reads, celsius = [], [40]
    arm.bus.sync_read = lambda register, normalize: reads.append(register) or {"shoulder": celsius[0]}
    observe_and_send(robot, clock, 500, shoulder=5.0, elbow=10.0, gripper=50.0)
    assert not robot.stopped and 5 <= len(reads) <= 6  # every 2 s
    celsius[0] = 70
    since = clock.now
    while not robot.stopped and clock.now < since + 5:
        observe_and_send(robot, clock, 1, shoulder=5.0, elbow=10.0, gripper=50.0)
    assert clock.now <= since + 2.05 and "'shoulder' has 70" in stops(robot)


class InRadians(FakeArm):
    joint_ranges = {"shoulder": (-1.5, 1.5), "elbow": (-1.5, 1.5), "gripper": (0.0, 0.05)}  # noqa: RUF012

    def __init__(self, config: FakeArmConfig) -> None:
        super().__init__(config)
        self.bus = None
        self.positions = {"shoulder.pos": 0.0, "elbow.pos": 0.0, "gripper.pos": 0.02}


RADIANS = {
    "velocity": 3.0,
    "acceleration": 12.0,
    "start_gate": 0.5,
    "velocity_of": {"gripper": 0.05},
    "acceleration_of": {"gripper": 0.2},
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"--robot.velocity of joint 'shoulder' is 180, .* through 3 in all; expected at most 15"),
        (RADIANS | {"velocity_of": {}}, r"--robot.velocity of joint 'gripper' is 3.*--robot.velocity_of"),
        (RADIANS | {"acceleration": 720.0}, r"--robot.acceleration of joint 'shoulder' is 720.*at most 300"),
        (RADIANS | {"start_gate": 30.0}, r"--robot.start_gate is 30, and refuses nothing: joint 'shoulder'"),
    ],
)
def test_limits_that_limit_nothing_are_refused(tmp_path: Path, options: dict, message: str):
    arm = InRadians(FakeArmConfig(id="fake", calibration_dir=tmp_path))
    with pytest.raises(UserError, match=message):
        safe(arm, tmp_path, **options)
    assert arm.calls[-1] == "disconnect" and not arm.sent


@pytest.mark.parametrize("options", [RADIANS, RADIANS | {"start_gate": None}])
def test_limits_in_the_arms_own_units_are_taken(tmp_path: Path, options: dict):
    arm = InRadians(FakeArmConfig(id="fake", calibration_dir=tmp_path))
    robot, clock = safe(arm, tmp_path, **options)
    observe_and_send(robot, clock, 10, shoulder=0.3, elbow=0.0, gripper=0.03)
    assert 0 < arm.sent[-1]["shoulder.pos"] < 0.3


def test_a_narrowed_range_makes_no_limit_too_large(guarded):
    robot, _ = guarded(low={"shoulder": -5.0}, high={"shoulder": 5.0})
    assert robot.limits().velocity[0] == 180

"""LeRobot's own SO-101 driver, unmodified, against the emulated servos."""

import contextlib
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ebt_policy.errors import UserError
from ebt_policy.hardware.emulation.feetech_bus import EmulatedBus
from ebt_policy.hardware.emulation.feetech_faults import FaultKind
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.reply_guard import guard_replies
from ebt_policy.hardware.safety.safe_robot import SafeRobot

sdk_port = pytest.importorskip("scservo_sdk.port_handler", reason="needs the extra feetech")
from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig  # noqa: E402

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
LOW, HIGH = 1000, 3100


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bus(clock: Clock, monkeypatch: pytest.MonkeyPatch):
    # The driver waits 50 ms for a reply; its clock goes at an eighth, so that a busy machine is no silent servo.
    monkeypatch.setattr(sdk_port, "time", SimpleNamespace(time=lambda: time.time() / 8))
    with EmulatedBus(clock=clock) as bus:
        for i in range(1, 7):
            bus.servo(i).set("Homing_Offset", 30 * i - 100)
            bus.servo(i).set("Min_Position_Limit", LOW)
            bus.servo(i).set("Max_Position_Limit", HIGH)
            bus.servo(i).turn_to(2048)
        yield bus


@pytest.fixture
def arm(bus: EmulatedBus, tmp_path: Path) -> Iterator[SO101Follower]:
    calibration = {
        name: {"id": i, "drive_mode": 0, "homing_offset": 30 * i - 100, "range_min": LOW, "range_max": HIGH}
        for i, name in enumerate(NAMES, start=1)
    }
    (tmp_path / "arm.json").write_text(json.dumps(calibration))
    arm = SO101Follower(SO101FollowerConfig(port=bus.port, id="arm", calibration_dir=tmp_path))
    yield arm
    if (
        arm.is_connected
    ):  # the test has failed; LeRobot would disconnect from a bus that is gone, and wait for ever
        arm.bus.disconnect(disable_torque=False)


def action(degrees: float) -> dict[str, float]:
    return {f"{name}.pos": degrees for name in NAMES}


def registers(bus: EmulatedBus, name: str) -> list[int]:
    return [bus.servo(i).get(name) for i in range(1, 7)]


def test_connects_configures_reads_moves_and_lets_go(arm: SO101Follower, bus: EmulatedBus, clock: Clock):
    arm.connect()  # would ask for a calibration on the terminal if it did not find the one of the servos
    assert arm.is_calibrated and registers(bus, "Torque_Enable") == [1] * 6
    assert registers(bus, "Return_Delay_Time") == [0] * 6 and registers(bus, "P_Coefficient") == [16] * 6
    assert bus.servo(6).get("Max_Torque_Limit") == 500
    assert arm.get_observation()["elbow_flex.pos"] == pytest.approx(-0.2, abs=0.1)
    arm.send_action(action(20.0))
    assert arm.get_observation()["elbow_flex.pos"] < 1
    clock.now += 2
    assert list(arm.get_observation().values()) == pytest.approx([20.0] * 6, abs=0.1)
    arm.disconnect()
    assert registers(bus, "Torque_Enable") == [0] * 6


def test_one_lost_or_broken_reply_is_survived_while_observing(arm: SO101Follower, bus: EmulatedBus):
    arm.connect()
    sound = arm.get_observation()
    for kind in (FaultKind.DROP, FaultKind.CORRUPT, FaultKind.GARBAGE):
        bus.faults.add(kind, [3], packets=1)
        assert arm.get_observation() == sound
    arm.disconnect()


def test_one_lost_reply_while_connecting_is_not(arm: SO101Follower, bus: EmulatedBus):
    """LeRobot retries the reading of positions only."""
    bus.faults.add(FaultKind.DROP, [3], packets=1)
    with pytest.raises(RuntimeError, match=r"Missing motor IDs:\s+- 3"):
        arm.connect()


def test_a_dead_motor_stops_the_reading_and_the_others_hold(
    arm: SO101Follower, bus: EmulatedBus, clock: Clock
):
    arm.connect()
    arm.send_action(action(5.0))
    arm.get_observation()
    clock.now += 2
    before = registers(bus, "Present_Position")
    dead = bus.faults.add(FaultKind.DEAD, [3])
    with pytest.raises(
        ConnectionError, match=r"Failed to sync read 'Present_Position'.*There is no status packet"
    ):
        arm.get_observation()
    clock.now += 2
    assert registers(bus, "Present_Position") == before and registers(bus, "Torque_Enable") == [1] * 6
    # LeRobot gives up at the first motor that does not answer: those behind it keep their torque.
    with pytest.raises(ConnectionError, match=r"Failed to write 'Torque_Enable' on id_=3"):
        arm.disconnect()
    assert registers(bus, "Torque_Enable") == [0, 0, 1, 1, 1, 1]
    bus.faults.lift(dead)
    arm.disconnect()
    assert registers(bus, "Torque_Enable") == [0] * 6


def guarded(arm: SO101Follower, bus: EmulatedBus, clock: Clock, tmp_path: Path) -> SafeRobot:
    config = SafeRobotConfig(
        robot={"type": "so101_follower", "port": bus.port}, id="safe", calibration_dir=tmp_path, fps=50.0
    )
    robot = SafeRobot(config, arm, clock)
    robot.connect()
    return robot


@pytest.mark.parametrize("stall_s", [0.3, 0.41, 0.43, 0.5, 0.9])
def test_after_a_stall_of_the_adapter_no_reply_answers_another_question(
    arm: SO101Follower, bus: EmulatedBus, clock: Clock, tmp_path: Path, stall_s: float
):
    """The driver waits 0.4 s of real time here (50 ms of its own), so the replies come before, at and after its timeout."""
    for i in range(1, 7):
        bus.servo(i).turn_to(2300)  # 0x08FC: as a temperature, its first byte is 252 degrees
    robot = guarded(arm, bus, clock, tmp_path)
    true = robot.get_observation()
    bus.faults.add(FaultKind.STALL, packets=1, seconds=stall_s)
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            assert robot.get_observation() == true
        with contextlib.suppress(ConnectionError):
            assert set(arm.bus.sync_read("Present_Temperature", normalize=False).values()) == {25}
        assert robot.too_hot() == ""
    bus.faults.add(FaultKind.STALL, packets=1, seconds=stall_s)
    for _ in range(3):
        with contextlib.suppress(ConnectionError):
            assert robot.get_observation() == true
    for i in range(1, 7):
        bus.servo(i).set("Torque_Enable", 0)
        bus.servo(i).turn_to(2100)
    clock.now += 1
    assert robot.get_observation()["wrist_flex.pos"] == pytest.approx(4.4, abs=0.2)  # no older reading
    arm.disconnect()


def test_a_broken_reply_leaves_none_of_the_others_for_the_next_question(
    arm: SO101Follower, bus: EmulatedBus, clock: Clock, tmp_path: Path
):
    robot = guarded(arm, bus, clock, tmp_path)
    true = robot.get_observation()
    for kind, seconds in ((FaultKind.CORRUPT, 0.0), (FaultKind.GARBAGE, 0.0), (FaultKind.DELAY, 0.41)):
        bus.faults.add(kind, [2], packets=1, seconds=seconds)
        with contextlib.suppress(ConnectionError):
            arm.bus.sync_read("Present_Position", normalize=False)
        assert robot.too_hot() == "" and robot.get_observation() == true
    arm.disconnect()


def test_the_guard_of_the_replies_is_put_on_once(
    arm: SO101Follower, bus: EmulatedBus, clock: Clock, tmp_path: Path
):
    guarded(arm, bus, clock, tmp_path)
    guard = guard_replies(arm.bus)
    assert guard is not None and guard_replies(arm.bus) is guard and guard_replies(SimpleNamespace()) is None
    arm.disconnect()


def test_behind_the_safety_filter_the_goals_in_the_servos_keep_its_limits(
    arm: SO101Follower, bus: EmulatedBus, clock: Clock, tmp_path: Path
):
    config = SafeRobotConfig(
        robot={"type": "so101_follower", "port": bus.port},
        id="safe",
        calibration_dir=tmp_path,
        fps=50.0,
        velocity=90.0,
        speed_scale=1.0,
        ramp_s=0.0,
        start_gate=None,
    )
    robot = SafeRobot(config, arm, clock)
    robot.connect()
    goals = [registers(bus, "Goal_Position")]
    for tick in range(200):
        clock.now += 0.02
        allowed = robot.send_action(action(500.0 if tick < 100 else -500.0))
        sent = arm.bus._unnormalize({arm.bus.motors[n].id: allowed[f"{n}.pos"] for n in NAMES})
        deadline = time.time() + 5
        while registers(bus, "Goal_Position") != list(sent.values()) and time.time() < deadline:
            time.sleep(1e-4)  # the bus is a thread of its own
        goals.append(registers(bus, "Goal_Position"))
    margin = 0.02 * (HIGH - LOW)
    assert all(LOW + margin - 1 <= goal <= HIGH - margin + 1 for row in goals for goal in row)
    # 90 units/s: degrees, or for the gripper percent of its range; one step more for rounding.
    for i, per_unit in enumerate([4095 / 360] * 5 + [(HIGH - LOW) / 100]):
        steps = [abs(b[i] - a[i]) for a, b in itertools.pairwise(goals)]
        assert 10 < max(steps) <= 90 * 0.02 * per_unit + 1
    robot.disconnect()
    assert registers(bus, "Torque_Enable") == [0] * 6


@pytest.mark.parametrize("kind", [FaultKind.ERROR, FaultKind.DEAD])
def test_one_faulty_motor_keeps_no_other_powered_at_the_end(
    kind: FaultKind, arm: SO101Follower, bus: EmulatedBus, clock: Clock
):
    robot = SafeRobot(SafeRobotConfig(robot={}), arm, clock)
    robot.connect(calibrate=False)
    assert registers(bus, "Torque_Enable") == [1] * 6
    bus.faults.add(kind, [3])
    if kind is FaultKind.ERROR:  # an overload: it obeys, and each of its replies says so
        robot.disconnect()
        assert registers(bus, "Torque_Enable") == [0] * 6
    else:
        with pytest.raises(UserError, match=r"torque of elbow_flex is still on"):
            robot.disconnect()
        assert registers(bus, "Torque_Enable") == [0, 0, 1, 0, 0, 0]
    assert not arm.bus.is_connected


def test_without_its_calibration_file_nothing_is_connected(bus: EmulatedBus, tmp_path: Path, clock: Clock):
    arm = SO101Follower(SO101FollowerConfig(port=bus.port, id="nobody", calibration_dir=tmp_path))
    with pytest.raises(UserError, match=r"nobody.json does not exist.*so101_follower.*--robot.id=nobody"):
        SafeRobot(SafeRobotConfig(robot={}), arm, clock).connect(calibrate=False)
    assert not arm.bus.is_connected and registers(bus, "Torque_Enable") == [0] * 6


def test_an_arm_that_swings_at_full_speed_a_tenth_of_a_second_late_is_not_taken_for_blocked(
    arm: SO101Follower, bus: EmulatedBus, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = SafeRobotConfig(robot={}, id="safe", calibration_dir=tmp_path, fps=50.0, speed_scale=1.0)
    robot = SafeRobot(config, arm, clock)
    robot.connect()
    read, late = arm.get_observation, deque(maxlen=6)

    def lagging() -> dict[str, float]:
        late.append(read())
        return late[0]

    monkeypatch.setattr(arm, "get_observation", lagging)
    away, sent = 0.0, [0.0]
    for tick in range(160):
        clock.now += 0.02
        observed = robot.get_observation()
        away = max(away, abs(observed["elbow_flex.pos"] - sent[-1]))
        swing = 75 * math.sin(2 * math.pi * 0.4 * 0.02 * tick)
        goal = {f"{name}.pos": swing for name in NAMES} | {"gripper.pos": 50.0}
        sent.append(robot.send_action(goal)["elbow_flex.pos"])
    assert max(abs(b - a) for a, b in itertools.pairwise(sent)) > 0.95 * 180 * 0.02
    assert away > 15 and not robot.stopped
    arm.disconnect()

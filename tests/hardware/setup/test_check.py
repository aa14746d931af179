"""`deploy --check` finds every fault at once and sends no command."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_arm import FakeArm, FakeArmConfig
from fake_camera import FakeCamera
from fake_leader import FakeLeader
from policy_server import FakeDecider, serving

from ebt_policy.errors import UserError
from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions, StreamOptions
from ebt_policy.hardware.control.planning import NoPlan, Plan
from ebt_policy.hardware.safety.config_safe_robot import SafetyOptions
from ebt_policy.hardware.setup import check as checking
from ebt_policy.hardware.setup import check_arm
from ebt_policy.hardware.setup.check import check
from ebt_policy.hardware.setup.checklist import Checklist, fail, ok
from ebt_policy.hardware.sim.config_expert_teleop import ExpertTeleopConfig
from ebt_policy.hardware.takeover import make as making

HEALTHY = {  # what a motor's registers say
    "Present_Temperature": 30,
    "Max_Temperature_Limit": 70,
    "Present_Voltage": 74,
    "Min_Voltage_Limit": 60,
    "Max_Voltage_Limit": 84,
    "Status": 0,
}


class Planner:
    """A planner that takes `seconds` and returns actions for `execute` ticks."""

    action_size = 3

    def __init__(self, seconds: float = 0.0, execute: int = 8, reason: str = "") -> None:
        self.needs = {"observation.state": (3,)}
        self.seconds, self.execute, self.reason, self.closed = seconds, execute, reason, False

    def plan(self, request):
        time.sleep(self.seconds)
        if self.reason:
            return NoPlan(self.reason)
        return Plan(np.zeros((self.execute, 3)), request.frames[-1].stamp, self.execute, self.seconds)

    def close(self) -> None:
        self.closed = True


class StillArm(FakeArm):
    """As LeRobot's, it may be uncalibrated or not answer. All that would move it is on record."""

    is_calibrated = True
    silent = ""

    def __init__(self, folder: Path) -> None:
        super().__init__(FakeArmConfig(id="fake", calibration_dir=folder))
        self.asked_to_calibrate = False

    def connect(self, calibrate: bool = True) -> None:
        if self.silent:
            raise RuntimeError(self.silent)
        self.asked_to_calibrate = calibrate
        super().connect(calibrate)


@pytest.fixture
def arm(tmp_path: Path) -> StillArm:
    return StillArm(tmp_path)


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Planner:
    planner = Planner()
    monkeypatch.setattr(checking, "make_planner", lambda options, fps, **_: planner)
    return planner


def looked_at(arm: FakeArm, tmp_path: Path, **options) -> tuple[bool, str]:
    lines: list[str] = []
    options = {"fps": 30.0, "output": str(tmp_path / "run")} | options
    passed = check(DeployConfig(**options), arm, lines.append)
    return passed, "\n".join(lines)


def test_a_sound_arm_passes_and_nothing_is_sent(arm: StillArm, planner: Planner, tmp_path: Path):
    passed, text = looked_at(arm, tmp_path)
    assert passed and "FAIL" not in text
    assert arm.sent == [] and not arm.asked_to_calibrate
    assert arm.calls == ["connect", "disconnect"] and planner.closed
    assert "3 motors answer (shoulder, elbow, gripper)" in text and "torque is on" in text
    assert "shoulder -89.98..89.98" in text
    assert not (tmp_path / "run").exists()


def test_one_fault_hides_no_other(arm: StillArm, planner: Planner, tmp_path: Path):
    arm.is_calibrated = False
    arm.positions["elbow.pos"] = 150.0
    planner.seconds, planner.needs = 0.3, {"observation.state": (7,)}
    passed, text = looked_at(arm, tmp_path)
    assert not passed and arm.sent == [] and arm.calls[-1] == "disconnect"
    for fault in (
        "not calibrated",
        "lerobot-calibrate",
        "elbow at 150",
        "of shape (7,)",
        "20 decisions: median 3",
    ):
        assert fault in text


def test_limits_in_the_units_of_another_arm_are_found(arm: StillArm, planner: Planner, tmp_path: Path):
    passed, text = looked_at(arm, tmp_path, safety=SafetyOptions(start_gate=3000.0))
    assert not passed and "--safety.start_gate is 3000, and refuses nothing" in text and arm.sent == []


def test_an_arm_that_does_not_answer(arm: StillArm, planner: Planner, tmp_path: Path):
    arm.silent = "Missing motor IDs:\n  - 3"
    passed, text = looked_at(arm, tmp_path)
    assert not passed and "Missing motor IDs: - 3" in text
    assert "the robot is not connected" in text and "20 decisions" in text and "GB free" in text
    assert arm.calls == []


def test_without_a_policy_the_arm_is_looked_at_all_the_same(arm: StillArm, tmp_path: Path):
    passed, text = looked_at(arm, tmp_path, policy=PolicyOptions(path=str(tmp_path)))
    assert not passed and "holds no checkpoint" in text and "there is no policy" in text
    assert "the arm stands within its ranges" in text


def test_a_policy_without_plans(arm: StillArm, planner: Planner, tmp_path: Path):
    planner.reason = "the server did not answer"
    passed, text = looked_at(arm, tmp_path)
    assert not passed and "no plan: the server did not answer" in text


def test_a_wrong_calibration_does_not_hide_the_policy(
    arm: StillArm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def make(options, fps, **_):
        if options.calibration:
            raise UserError("made for another checkpoint")
        return Planner()

    monkeypatch.setattr(checking, "make_planner", make)
    (tmp_path / "calibration.json").write_text(json.dumps({"format": 1}))
    options = PolicyOptions(
        path="shipped:aloha_transfer_cube_ebt", calibration=str(tmp_path / "calibration.json")
    )
    passed, text = looked_at(arm, tmp_path, policy=options)
    assert not passed and "loads only without its calibration: made for another" in text
    assert "is damaged" in text and "20 decisions" in text


@pytest.mark.parametrize(("alarm_above", "warned"), [(1.0, False), (None, True)])
def test_a_server_without_alarms_is_a_warning(arm: StillArm, tmp_path: Path, alarm_above, warned: bool):
    with serving(FakeDecider(alarm_above=alarm_above)) as url:
        _, text = looked_at(arm, tmp_path, policy=PolicyOptions(server=url))
    assert ("the server has no calibration" in text) is warned
    with serving(FakeDecider(alarm_above=alarm_above)) as url:
        options = PolicyOptions(server=url, calibration=str(tmp_path / "calibration.json"))
        passed, text = looked_at(arm, tmp_path, policy=options)
    assert not passed and "--policy.calibration is for a policy on this computer" in text


@pytest.mark.parametrize(
    ("registers", "line"),
    [
        ({}, "within the motors' limits"),
        ({"Present_Temperature": 60}, "60 °C of 70 °C"),
        ({"Present_Temperature": 71}, "let it cool"),
        ({"Present_Voltage": 45}, "has 4.5 V; its limits are 6.0 to 8.4 V"),
        ({"Status": 0x24}, "shoulder: too hot, overload"),
    ],
)
def test_the_motors_health(arm: StillArm, planner: Planner, tmp_path: Path, registers: dict, line: str):
    held = HEALTHY | registers
    arm.bus = SimpleNamespace(
        **vars(arm.bus),
        model_ctrl_table={"sts3215": dict.fromkeys(held)},
        sync_read=lambda name, normalize: dict.fromkeys(arm.bus.motors, held[name]),
    )
    passed, text = looked_at(arm, tmp_path)
    assert line in text and arm.sent == []
    assert passed is (registers in ({}, {"Present_Temperature": 60}))


def test_both_of_two_arms_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """LeRobot's own two-armed robot, which has no bus of its own."""
    pytest.importorskip("scservo_sdk", reason="needs the extra feetech")
    from lerobot.robots.bi_so_follower import BiSOFollower, BiSOFollowerConfig
    from lerobot.robots.so_follower import SOFollowerConfig

    side = SOFollowerConfig(port="none")
    robot = BiSOFollower(
        BiSOFollowerConfig(id="two", calibration_dir=tmp_path, left_arm_config=side, right_arm_config=side)
    )
    for arm, values in (
        (robot.left_arm, HEALTHY),
        (robot.right_arm, HEALTHY | {"Present_Temperature": 71, "Status": 4}),
    ):
        monkeypatch.setattr(
            arm.bus,
            "sync_read",
            lambda name, normalize, bus=arm.bus, values=values: dict.fromkeys(bus.motors, values[name]),
        )
    found = [(finding.level.value, finding.found) for finding in check_arm.health(robot)]
    text = "\n".join(line for _, line in found)
    assert "right_shoulder_pan, 71 °C of 70 °C" in text and "left_shoulder_pan, 30 °C of 70 °C" in text
    assert "right_gripper: too hot" in text and "left: no motor reports an error" in text
    monkeypatch.setattr(robot, "connect", lambda calibrate: None)
    monkeypatch.setattr(type(robot), "is_calibrated", True)
    lines = [finding.found for finding in check_arm.connected(robot)]
    assert "12 motors answer (left_shoulder_pan" in lines[0] and "torque is on" in lines[1]


def test_cameras(arm: StillArm, planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Camera(FakeCamera):
        """A steady camera, or one that shows the same for ever."""

        def __init__(self, frozen: bool = False, **options) -> None:
            super().__init__(**options)
            self.frozen, self.fps, self.shown = frozen, 10, 0

        def async_read(self, timeout_ms: float = 200):
            time.sleep(0.05)
            self.shown += not self.frozen
            return np.full((16, 24, 3), self.shown % 256, np.uint8)

    monkeypatch.setattr(check_arm, "WATCHED_S", 0.5)
    arm.cameras = {"front": Camera(), "side": Camera(frozen=True), "none": Camera(connectable=False)}
    features = dict(arm.observation_features) | dict.fromkeys(arm.cameras, (16, 24, 3))
    monkeypatch.setattr(StillArm, "observation_features", features)
    passed, text = looked_at(arm, tmp_path, streams=StreamOptions(frozen_s=0.3))
    assert not passed and "Camera none" in text and "side: frozen" in text
    assert "10 were asked for; 24x16" in text  # front
    monkeypatch.setitem(features, "front", (48, 64, 3))
    arm.calls.clear()
    arm.cameras = {"front": Camera()}
    passed, text = looked_at(arm, tmp_path, streams=StreamOptions(frozen_s=0.3))
    assert "front: pictures of (16, 24, 3), (48, 64, 3) were asked for" in text


def test_options_of_no_sense(arm: StillArm, planner: Planner, tmp_path: Path):
    passed, text = looked_at(arm, tmp_path, speed=2.0)
    assert not passed and "--speed is 2.0" in text and "there is no robot" in text and "20 decisions" in text
    passed, text = looked_at(arm, tmp_path, streams=StreamOptions(latency_s={"frnt": 0.1}))
    assert not passed and "names a camera 'frnt'" in text


def test_a_checklist_keeps_what_is_raised_as_one_line():
    lines: list[str] = []
    checks = Checklist(lines.append)
    assert checks.run("a", lambda: ok("fine")) and checks.passed

    def raises():
        yield ok("first")
        raise OSError("no\n  port")

    assert not checks.run("b", raises) and not checks.passed
    assert lines[-1].split() == ["FAIL", "b", "OSError:", "no", "port"]
    assert not checks.run("c", lambda: [fail("broken", "mend it"), ok("else")])
    assert lines[-2].endswith("-> mend it")


def test_emulated_servos_are_looked_at_and_keep_their_goals(
    planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """LeRobot's own SO-101 driver: what it writes while connecting it would write in any case."""
    sdk_port = pytest.importorskip("scservo_sdk.port_handler", reason="needs the extra feetech")
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig

    from ebt_policy.hardware.emulation.feetech_bus import EmulatedBus

    monkeypatch.setattr(sdk_port, "time", SimpleNamespace(time=lambda: time.time() / 40))
    names = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
    planner.needs, planner.action_size = {"observation.state": (6,)}, 6
    with EmulatedBus() as bus:
        for i in range(1, 7):
            bus.servo(i).set("Min_Position_Limit", 1000)
            bus.servo(i).set("Max_Position_Limit", 3100)
            bus.servo(i).turn_to(2000 + 20 * i)
        before = [bus.servo(i).get("Present_Position") for i in range(1, 7)]

        def checked() -> tuple[bool, str]:
            robot = SO101Follower(SO101FollowerConfig(port=bus.port, id="arm", calibration_dir=tmp_path))
            monkeypatch.setattr(robot, "send_action", lambda action: pytest.fail("something was sent"))
            return looked_at(robot, tmp_path, control_hz=20.0)

        passed, text = checked()  # nobody is asked to calibrate on the terminal
        assert not passed and "not calibrated" in text and "no calibration registered" in text
        assert "within the motors' limits" in text
        calibration = {
            name: {"id": i, "drive_mode": 0, "homing_offset": 0, "range_min": 1000, "range_max": 3100}
            for i, name in enumerate(names, start=1)
        }
        (tmp_path / "arm.json").write_text(json.dumps(calibration))
        passed, text = checked()
        assert passed, text
        assert "6 motors answer" in text and "no motor reports an error" in text and "100 reads" in text
        bus.servo(3).supply(3.5)
        passed, text = checked()
        assert not passed and "elbow_flex has 3.5 V" in text, text
        assert [bus.servo(i).get("Present_Position") for i in range(1, 7)] == before


def test_the_operators_leader(
    arm: StillArm, planner: Planner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    leader = FakeLeader(time.monotonic, motors=True)
    monkeypatch.setattr(making, "make_teleoperator_from_config", lambda _: leader)
    teleop = ExpertTeleopConfig(id="any", calibration_dir=tmp_path)
    passed, text = looked_at(arm, tmp_path, teleop=teleop)
    assert passed and "fake_leader, its motors bring it to the arm's pose" in text
    assert not leader.is_connected and not leader.feedback
    leader.reads = lambda t: False
    arm.calls.clear()
    passed, text = looked_at(arm, tmp_path, teleop=teleop)
    assert not passed and "leader" in text and "no such port" in text

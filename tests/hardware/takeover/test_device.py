"""LeRobot's devices as positions of the arm's joints."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_leader import JOINTS, FakeLeader
from lerobot.motors import MotorNormMode
from lerobot.teleoperators.gamepad import GamepadTeleop, GamepadTeleopConfig

from ebt_policy.errors import UserError
from ebt_policy.hardware.control.commands import Command
from ebt_policy.hardware.takeover.device import JogDevice, JointDevice, check_units, connect, device_for
from ebt_policy.hardware.takeover.leader import Leader

WIDTHS = np.array([180.0, 200.0, 100.0])


class Keyboard:
    """As LeRobot's: its outputs are the pressed keys, and its features raise AttributeError."""

    name, id = "keyboard", None
    is_calibrated = None

    @property
    def action_features(self):
        return self.arm  # type: ignore[attr-defined]

    def connect(self) -> None: ...


class Pad:
    """What LeRobot reads of a gamepad."""

    def __init__(self) -> None:
        self.deltas, self.gripper, self.intervenes, self.status = (0.0, 0.0, 0.0), "stay", False, None

    def update(self) -> None: ...

    def get_deltas(self):
        return self.deltas

    def gripper_command(self) -> str:
        return self.gripper

    def should_intervene(self) -> bool:
        return self.intervenes

    def get_episode_end_status(self):
        return self.status


@pytest.fixture
def gamepad(tmp_path):
    teleop = GamepadTeleop(GamepadTeleopConfig(id="pad", calibration_dir=tmp_path))
    teleop.gamepad = Pad()
    return teleop


def test_a_leader_arm_gives_its_joints_in_the_order_of_the_arm():
    device = device_for(FakeLeader(lambda: 0.0), ("gripper", "shoulder", "elbow"), WIDTHS)
    assert isinstance(device, JointDevice)
    seen = device.positions({"shoulder.pos": 1.0, "elbow.pos": 2.0, "gripper.pos": 3.0}, 0.0)
    assert seen.tolist() == [3.0, 1.0, 2.0]


def test_a_leader_of_another_arm_is_refused():
    with pytest.raises(UserError, match=r"fake_leader gives .*the arm also needs wrist.pos"):
        device_for(FakeLeader(lambda: 0.0), (*JOINTS, "wrist"), np.ones(4))


def test_lerobots_gamepad_moves_the_first_joints_and_the_gripper(gamepad):
    device = device_for(gamepad, ("a", "b", "c", "d", "gripper"), np.full(5, 100.0), jog_speed=0.1)
    pad = gamepad.gamepad
    device.positions(gamepad.get_action(), 0.0)
    pad.deltas, pad.gripper = (1.0, -0.5, 0.0), "open"
    for k in range(1, 51):
        at = device.positions(gamepad.get_action(), k / 50)
    assert at == pytest.approx([10.0, -5.0, 0.0, 0.0, 10.0])  # a tenth of the range in a second
    pad.deltas, pad.gripper = (0.0, 0.0, 0.0), "stay"
    assert device.positions(gamepad.get_action(), 1.02) == pytest.approx(at)


def test_a_gamepads_buttons_take_over_and_end_the_episode(gamepad):
    posted: list[Command] = []
    device = device_for(gamepad, ("a", "b", "c"), np.ones(3))
    leader = Leader(gamepad, device, ("a", "b", "c"), np.ones(3), 50.0, on_command=posted.append)
    leader.work(0.0)
    assert leader.reading.wants is False and not leader.reading.trouble
    gamepad.gamepad.intervenes = True
    leader.work(0.02)
    assert leader.reading.wants is True
    gamepad.gamepad.status = "success"
    leader.work(0.04)
    assert posted == []  # LeRobot's own values, not their text
    from lerobot.teleoperators.utils import TeleopEvents

    gamepad.gamepad.status = TeleopEvents.SUCCESS
    leader.work(0.06)
    leader.work(0.08)
    assert posted == [Command.SUCCESS]


def test_a_keyboard_moves_each_joint_by_two_keys_that_deploy_does_not_use():
    keyboard = Keyboard()
    device = device_for(keyboard, ("a", "b"), np.array([10.0, 100.0]), jog_speed=0.5)
    assert isinstance(device, JogDevice)
    device.positions({}, 0.0)
    assert device.positions({"2": None, "3": None}, 0.1) == pytest.approx([0.5, -5.0])
    assert device.positions({"x": None}, 0.2) == pytest.approx([0.5, -5.0])
    connect(keyboard)  # knows no option


@pytest.mark.parametrize(("jog", "named"), [({"x": "wrist"}, "joint 'wrist'"), ({"t": "a"}, "the key 't'")])
def test_a_jog_that_cannot_be_is_refused(jog: dict, named: str):
    with pytest.raises(UserError, match=named):
        device_for(Keyboard(), ("a", "b"), np.ones(2), jog)


def test_a_pause_of_the_device_is_no_leap():
    device = JogDevice({"x": (0, 10.0)}, 1)
    device.positions({"x": 1.0}, 0.0)
    assert device.positions({"x": 1.0}, 60.0)[0] <= 1.0


def test_other_units_are_refused():
    def arm(mode):
        return SimpleNamespace(bus=SimpleNamespace(motors={"elbow": SimpleNamespace(norm_mode=mode)}))

    check_units(arm(MotorNormMode.DEGREES), arm(MotorNormMode.DEGREES))
    check_units(SimpleNamespace(), arm(MotorNormMode.DEGREES))
    with pytest.raises(UserError, match="'elbow' is in degrees at the leader"):
        check_units(arm(MotorNormMode.DEGREES), arm(MotorNormMode.RANGE_M100_100))


def test_other_units_of_one_of_two_arms_are_refused(tmp_path):
    pytest.importorskip("scservo_sdk", reason="needs the extra feetech")
    from lerobot.robots.bi_so_follower import BiSOFollower, BiSOFollowerConfig
    from lerobot.robots.so_follower import SOFollowerConfig
    from lerobot.teleoperators.bi_so_leader import BiSOLeader, BiSOLeaderConfig
    from lerobot.teleoperators.so_leader import SOLeaderConfig

    def leader(left: bool, right: bool) -> BiSOLeader:
        arms = (SOLeaderConfig(port="none", use_degrees=degrees) for degrees in (left, right))
        config = dict(zip(("left_arm_config", "right_arm_config"), arms, strict=True))
        return BiSOLeader(BiSOLeaderConfig(id="two", calibration_dir=tmp_path, **config))

    arm = SOFollowerConfig(port="none", use_degrees=True)
    robot = BiSOFollower(
        BiSOFollowerConfig(id="two", calibration_dir=tmp_path, left_arm_config=arm, right_arm_config=arm)
    )
    check_units(leader(True, True), robot)
    with pytest.raises(UserError, match=r"'right_\w+' is in range_m100_100 at the leader and in degrees"):
        check_units(leader(True, False), robot)


def test_an_uncalibrated_leader_is_refused_without_asking(monkeypatch):
    leader = FakeLeader(lambda: 0.0)
    leader.is_calibrated = False
    with pytest.raises(UserError, match="lerobot-calibrate"):
        connect(leader)
    assert not leader.is_connected

"""Robots that contain several arms: names, cameras, ranges, temperatures, and disconnecting all of them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_arm import FakeArm, FakeArmConfig

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety.arms import arms_of, cameras_of, joint_ranges, take_cameras, temperatures
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.release import release
from ebt_policy.hardware.safety.safe_robot import SafeRobot


class Camera:
    is_connected, height, width = True, 16, 24
    reads = 0

    def read_latest(self):
        self.reads += 1

    def disconnect(self) -> None:
        self.is_connected = False


class Bus(SimpleNamespace):
    """Torque and temperature of motors; `overloaded` ones obey and answer with an error, `dead` ones do neither."""

    def __init__(self, **options) -> None:
        super().__init__(
            torque=dict.fromkeys(options["motors"], 1),
            overloaded=set(),
            dead=set(),
            is_connected=True,
            heat=40,
            **options,
        )

    def disable_torque(self, motors=None, num_retry: int = 0) -> None:
        for motor in [motors] if isinstance(motors, str) else self.motors:
            if motor in self.dead:
                raise ConnectionError(f"Failed to write 'Torque_Enable' on {motor}")
            self.torque[motor] = 0
            if motor in self.overloaded:
                raise RuntimeError("[RxPacketError] Overload error!")

    def sync_read(self, register: str, motors=None, normalize: bool = True) -> dict:
        motors = list(motors or self.motors)
        if self.dead & set(motors):
            raise ConnectionError("There is no status packet!")
        return {m: self.torque[m] if register == "Torque_Enable" else self.heat for m in motors}

    def disconnect(self, disable_torque: bool = True) -> None:
        if disable_torque:
            self.disable_torque(num_retry=5)
        self.is_connected = False


class Single(FakeArm):
    def __init__(self, folder: Path, **cameras: Camera) -> None:
        super().__init__(FakeArmConfig(id="one", calibration_dir=folder))
        self.bus = Bus(**vars(self.bus))
        self.cameras = cameras

    @property
    def observation_features(self) -> dict:
        return dict.fromkeys(self.positions, float) | dict.fromkeys(self.cameras, (16, 24, 3))

    @property
    def action_features(self) -> dict:
        return dict.fromkeys(self.positions, float)

    @property
    def is_connected(self) -> bool:
        return self.bus.is_connected

    def get_observation(self) -> dict:
        for camera in self.cameras.values():
            camera.read_latest()
        return super().get_observation()

    def disconnect(self) -> None:
        self.bus.disconnect()
        for camera in self.cameras.values():
            camera.disconnect()


def whole(left: FakeArm, right: FakeArm, top: set[str], folder: Path):
    """LeRobot's own bimanual robot around two arms."""
    from lerobot.robots.bi_so_follower import BiSOFollower, BiSOFollowerConfig
    from lerobot.robots.so_follower import SOFollowerConfig

    arm = SOFollowerConfig(port="none")
    robot = BiSOFollower(
        BiSOFollowerConfig(id="two", calibration_dir=folder, left_arm_config=arm, right_arm_config=arm)
    )
    robot.left_arm, robot.right_arm = left, right
    robot._top_level_cam_keys = top
    robot.cameras = {**left.cameras, **right.cameras}
    for side in (left, right):
        side._motors_ft = dict.fromkeys(side.positions, float)
        side._cameras_ft = dict.fromkeys(side.cameras, (16, 24, 3))
    return robot


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Single, Single]:
    return Single(tmp_path, wrist=Camera(), top=Camera()), Single(tmp_path, wrist=Camera())


@pytest.fixture
def robot(sides: tuple[Single, Single], tmp_path: Path):
    pytest.importorskip("scservo_sdk", reason="needs the extra feetech")
    return whole(*sides, {"top"}, tmp_path)


def test_one_arm_is_its_own(tmp_path: Path):
    arm = Single(tmp_path, front=Camera())
    assert [(a.robot, a.prefix) for a in arms_of(arm)] == [(arm, "")]
    assert list(cameras_of(arm)) == ["front"]


def test_equally_named_cameras_stay_two_and_the_loop_reads_none(robot, sides):
    left, right = sides
    cameras = {"left_wrist": left.cameras["wrist"], "top": left.cameras["top"]}
    cameras["right_wrist"] = right.cameras["wrist"]
    assert set(cameras) <= set(robot.observation_features)
    assert take_cameras(robot) == cameras
    observed = robot.get_observation()
    assert "left_shoulder.pos" in observed and not any(camera.reads for camera in cameras.values())


def test_ranges_and_temperatures_are_those_of_each_arm(robot, sides):
    ranges = joint_ranges(robot, tuple(name.removesuffix(".pos") for name in robot.action_features))
    assert len(ranges) == 6 and ranges["right_gripper"] == (0.0, 100.0)
    assert ranges["left_shoulder"] == pytest.approx((-90, 90), abs=0.1)
    sides[1].bus.heat = 70
    assert temperatures(robot)["right_elbow"] == 70
    safe = SafeRobot(SafeRobotConfig(robot={}), robot)
    assert "'right_shoulder' has 70 °C" in safe.too_hot()
    sides[0].bus.calibration = {}
    with pytest.raises(
        UserError, match=r"how far left_shoulder may move. Give --safety.low and --safety.high"
    ):
        SafeRobot(SafeRobotConfig(robot={}), robot, options="--safety").limits()


def test_all_motors_are_let_go_when_one_reports_an_error(robot, sides, caplog):
    left = sides[0]
    left.bus.overloaded = {"shoulder"}
    with pytest.raises(RuntimeError):
        left.bus.disconnect()  # as LeRobot's: those behind it keep their torque
    assert list(left.bus.torque.values()) == [0, 1, 1]
    release(robot)
    for side in sides:
        assert set(side.bus.torque.values()) == {0} and not side.bus.is_connected
        assert not any(camera.is_connected for camera in side.cameras.values())
    assert "motor by motor" in caplog.text


@pytest.mark.parametrize("dead", [set(), {"elbow"}])
def test_a_ctrl_c_while_lerobot_disconnects_leaves_no_torque_on(
    robot, sides, monkeypatch, caplog, dead: set[str]
):
    left, right = sides
    left.bus.dead = dead
    monkeypatch.setattr(left, "disconnect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        release(robot)
    assert {name for name, on in left.bus.torque.items() if on} == dead
    assert set(right.bus.torque.values()) == {0} and not right.bus.is_connected
    assert ("left_elbow is still on" in caplog.text) is bool(dead)


def interrupted() -> None:
    raise KeyboardInterrupt


def test_motors_that_stay_powered_are_named_in_one_line(robot, sides):
    left, right = sides
    left.bus.dead = {"elbow"}
    with pytest.raises(UserError) as error:
        release(robot)
    assert "torque of left_elbow is still on" in str(error.value) and "\n" not in str(error.value)
    assert left.bus.torque == {"shoulder": 0, "elbow": 1, "gripper": 0}
    assert set(right.bus.torque.values()) == {0}
    assert not left.bus.is_connected and not right.bus.is_connected

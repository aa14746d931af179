"""A LeRobot robot with two joints and a gripper that reaches every commanded position at once."""

from dataclasses import dataclass
from types import SimpleNamespace

from lerobot.motors import Motor, MotorCalibration, MotorNormMode
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot


@RobotConfig.register_subclass("fake_arm")
@dataclass
class FakeArmConfig(RobotConfig):
    pass


class FakeArm(Robot):
    config_class, name = FakeArmConfig, "fake_arm"
    simulated = False

    def __init__(self, config: FakeArmConfig) -> None:
        super().__init__(config)
        self.config = config
        self.bus = SimpleNamespace(
            motors={
                "shoulder": Motor(1, "sts3215", MotorNormMode.DEGREES),
                "elbow": Motor(2, "sts3215", MotorNormMode.RANGE_M100_100),
                "gripper": Motor(3, "sts3215", MotorNormMode.RANGE_0_100),
            },
            calibration={
                "shoulder": MotorCalibration(
                    id=1, drive_mode=0, homing_offset=0, range_min=1024, range_max=3071
                )
            },
            model_resolution_table={"sts3215": 4096},
        )
        self.positions = {"shoulder.pos": 0.0, "elbow.pos": 10.0, "gripper.pos": 50.0}
        self.sent: list[dict[str, float]] = []
        self.calls: list[str] = []
        self.breaks = False

    @property
    def observation_features(self) -> dict:
        return dict.fromkeys(self.positions, float)

    action_features = observation_features

    @property
    def is_connected(self) -> bool:
        return "connect" in self.calls and "disconnect" not in self.calls

    is_calibrated = True

    def connect(self, calibrate: bool = True) -> None:
        self.calls.append("connect")

    def calibrate(self) -> None:
        self.calls.append("calibrate")

    def configure(self) -> None:
        self.calls.append("configure")

    def get_observation(self) -> dict:
        return dict(self.positions)

    def send_action(self, action: dict) -> dict:
        if self.breaks:
            raise ConnectionError("bus")
        self.sent.append(dict(action))
        self.positions.update(action)
        return action

    def disconnect(self) -> None:
        self.calls.append("disconnect")
        if self.breaks:
            raise ConnectionError("bus")

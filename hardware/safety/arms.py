"""The arms that a LeRobot robot or leader consists of: one, or those of a bimanual one, with the names of their parts in the whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lerobot.motors import MotorNormMode
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot
from lerobot.teleoperators.teleoperator import Teleoperator

from ebt_policy.errors import UserError

_POSITION = ".pos"
Range = tuple[float, float]


@dataclass(frozen=True)
class Arm:
    """One arm. prefix: put before its names in the observations and actions of the whole robot, such as "left_"."""

    robot: Robot | Teleoperator
    prefix: str = ""

    @property
    def bus(self) -> Any:
        """LeRobot's motor bus; None where the robot has none. LeRobot declares no common type for it."""
        return getattr(self.robot, "bus", None)

    @property
    def motors(self) -> dict[str, Any]:
        return dict(getattr(self.bus, "motors", None) or {})


def arms_of(robot: Robot | Teleoperator) -> list[Arm]:
    """The robot or leader itself, or each arm that it holds as an attribute, as LeRobot's bimanual ones do."""
    inner = [
        Arm(arm.robot, prefix + arm.prefix)
        for name, value in list(vars(robot).items())  # cached properties add to it meanwhile
        if isinstance(value, Robot | Teleoperator)
        for prefix in _prefix(robot, name, value)
        for arm in arms_of(value)
    ]
    return inner or [Arm(robot)]


def _prefix(robot: Robot | Teleoperator, attribute: str, arm: Robot | Teleoperator) -> Iterator[str]:
    """What the whole robot puts before the names of this arm; nothing where its joints are not among the whole's."""
    for prefix in (f"{attribute}_", f"{attribute.removesuffix('_arm')}_", ""):
        if all(prefix + name in robot.action_features for name in arm.action_features):
            yield prefix
            return


def cameras_of(robot: Robot) -> dict[str, Any]:
    """{name in the whole robot's observations: camera}, of the robot and of all arms in it."""
    found: dict[str, Any] = {}
    for arm in arms_of(robot):
        for name, camera in getattr(arm.robot, "cameras", {}).items():
            # LeRobot's bimanual robots let the left arm open the cameras that belong to no arm.
            whole = arm.prefix + name
            found[whole if whole in robot.observation_features else name] = camera
    known = {id(camera) for camera in found.values()}
    own = getattr(robot, "cameras", {})
    return found | {name: camera for name, camera in own.items() if id(camera) not in known}


def take_cameras(robot: Robot) -> dict[str, Any]:
    """`cameras_of`, and from now on the robot neither connects nor reads them: reading joints waits for no picture."""
    found = cameras_of(robot)
    for holder in [robot, *(arm.robot for arm in arms_of(robot))]:
        cameras = getattr(holder, "cameras", None)
        if cameras:
            cameras.clear()
    return found


def joint_ranges(robot: Robot, joints: tuple[str, ...]) -> dict[str, Range]:
    """Range of each joint, in the units of its actions, where the robot or its motors' calibration say it."""
    known: dict[str, Range] = {}
    for arm in arms_of(robot):
        known |= {arm.prefix + name: limits for name, limits in _ranges(arm).items()}
    known |= dict(getattr(robot, "joint_ranges", {}))
    return {name: known[name] for name in joints if name in known}


def _ranges(arm: Arm) -> dict[str, Range]:
    config = getattr(arm.robot, "config", None)
    found: dict[str, Range] = dict(getattr(config, "joint_limits", None) or {})  # of LeRobot's OpenArm
    found |= dict(getattr(arm.robot, "joint_ranges", {}))
    for name, motor in arm.motors.items():
        calibration = (getattr(arm.bus, "calibration", None) or {}).get(name)
        mode = getattr(motor, "norm_mode", None)
        if mode is MotorNormMode.RANGE_M100_100:
            found[name] = (-100.0, 100.0)
        elif mode is MotorNormMode.RANGE_0_100:
            found[name] = (0.0, 100.0)
        elif mode is MotorNormMode.DEGREES and calibration is not None:
            # LeRobot measures degrees from the middle of the calibrated range.
            resolution = arm.bus.model_resolution_table[motor.model] - 1
            half = (calibration.range_max - calibration.range_min) / 2 * 360 / resolution
            found[name] = (-half, half)
    return found


def temperatures(robot: Robot) -> dict[str, float]:
    """Degrees Celsius of every motor that tells, one reading for each bus. Empty where a bus has no such register or fails:
    a failing bus shows when the joints are read.
    """
    found: dict[str, float] = {}
    for arm in arms_of(robot):
        if not hasattr(arm.bus, "sync_read"):
            continue
        try:
            read = arm.bus.sync_read("Present_Temperature", normalize=False)
        except Exception:  # each driver raises its own
            continue
        found |= {arm.prefix + motor: float(value) for motor, value in read.items()}
    return found


def check_calibration_files(robot: Robot) -> None:
    """Raises UserError where an arm with motors has no calibration file. Looks at files alone; nothing is connected."""
    for arm in arms_of(robot):
        if arm.motors and not getattr(arm.bus, "calibration", None):
            raise UserError(
                f"{_named(arm)} has no calibration file ({arm.robot.calibration_fpath} does not exist). "
                + _calibrate(robot, arm)
            )


def check_calibrated(robot: Robot) -> None:
    """Raises UserError where the motors of a connected robot hold another calibration than its file."""
    for arm in arms_of(robot):
        if not arm.robot.is_calibrated:
            raise UserError(
                f"{_named(arm)} is not calibrated, or its motors hold another calibration than the file of its id "
                f"({arm.robot.calibration_fpath}). " + _calibrate(robot, arm)
            )


def _named(arm: Arm) -> str:
    return f"The {arm.prefix.rstrip('_')} arm" if arm.prefix else f"Robot '{arm.robot.id}'"


def _calibrate(robot: Robot, arm: Arm) -> str:
    # LeRobot registers one class for SO-100 and SO-101, and forgets which of both names was given: both calibrate alike.
    config = type(getattr(robot, "config", None))
    names = [name for name, kind in RobotConfig.get_known_choices().items() if kind is config]
    return (
        f"Calibrate it: lerobot-calibrate --robot.type={' or '.join(names) or robot.name} --robot.id={robot.id} with its port. "
        "Or give the id that it was calibrated under."
    )

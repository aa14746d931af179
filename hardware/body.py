"""Arm, cameras, clock and rates of a deployment, made from its options and not yet connected."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

from lerobot.robots.robot import Robot
from lerobot.robots.utils import make_robot_from_config

from ebt_policy.errors import UserError
from ebt_policy.hardware.config_deploy import DeployConfig
from ebt_policy.hardware.control.clock import Clock, SteppedClock, WallClock
from ebt_policy.hardware.safety.arms import take_cameras
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig, SafetyOptions
from ebt_policy.hardware.safety.policy_match import features_in_order, joints_in_order
from ebt_policy.hardware.safety.safe_robot import SafeRobot
from ebt_policy.hardware.sensing.streams import CameraStream, Streams
from ebt_policy.hardware.sim.sim_robot import SimRobot
from ebt_policy.inference.robot_contract import RobotContract, check_rate

# A simulated arm cannot break, and must do what the policy was measured with.
_SIMULATED = SafetyOptions(
    velocity=1e3, acceleration=1e6, margin=0.0, ramp_s=0.0, start_gate=None, following_error=None
)
ARM_SPEED = 0.25
MIN_CONTROL_HZ = 20.0  # of an arm


@dataclasses.dataclass(frozen=True)
class Body:
    """twin: the simulated arm where it is one. features: the robot's observation features, with pictures. streams: of its
    cameras, which the robot itself no longer reads. fps: ticks a second of the policy; control_hz: of the loop. speed: share of
    the trained speed.
    """

    arm: SafeRobot
    twin: SimRobot | None
    clock: Clock
    features: dict[str, Any]
    streams: Streams
    fps: float
    control_hz: float
    speed: float

    @property
    def simulated_time(self) -> bool:
        return isinstance(self.clock, SteppedClock)


def make_body(
    config: DeployConfig,
    on_event: Callable[[Any], None] | None = None,
    robot: Robot | None = None,
    contract: RobotContract | None = None,
) -> Body:
    """on_event: of filter and cameras; must not block. robot: instead of that of the options. contract: what the policy's
    checkpoint says of its robot. Raises UserError for options that make no sense or do not fit the policy, and what LeRobot
    raises.
    """
    contract = RobotContract() if contract is None else contract
    robot = make_robot_from_config(config.robot) if robot is None else robot
    twin = robot if isinstance(robot, SimRobot) else None
    speed = config.speed if config.speed is not None else (1.0 if twin is not None else ARM_SPEED)
    if not 0 < speed <= 1:
        raise UserError(f"--speed is {speed}; expected a part of the trained speed, above 0 and at most 1.")
    if config.safety.speed_scale is not None:
        raise UserError(
            f"--safety.speed_scale is {config.safety.speed_scale}, and --speed, now {speed:g}, scales the trained speed and its "
            "limits alike. Leave --safety.speed_scale out, and give --speed alone."
        )
    clock: Clock = WallClock() if twin is None else twin.clock
    fps = config.fps or (twin.fps if twin is not None else contract.fps or 30.0)
    control_hz = config.control_hz or (fps if isinstance(clock, SteppedClock) else max(50.0, fps))
    if twin is None and control_hz < MIN_CONTROL_HZ:
        raise UserError(
            f"--control_hz is {control_hz:g}; expected at least {MIN_CONTROL_HZ:g}: between two commands the arm would go too far. "
            "Leave it out, and give a slow policy its --fps."
        )
    safety = config.safety
    if twin is not None and safety == SafetyOptions():
        safety = _SIMULATED
    safety = dataclasses.replace(safety, speed_scale=speed if twin is None else 1.0)
    arm = SafeRobot(
        SafeRobotConfig(robot={}, fps=control_hz, **vars(safety)),
        robot,
        clock.now,
        on_event=on_event,
        options="--safety",
    )
    # The loop reads joints alone; each camera has a thread of its own, so the robot must not read them any more.
    features, cameras = dict(robot.observation_features), take_cameras(robot)
    options = config.streams
    unknown = [name for name in options.latency_s if name not in cameras]
    if unknown:
        raise UserError(
            f"--streams.latency_s names a camera '{unknown[0]}'; the robot has {', '.join(cameras) or 'none'}."
        )
    streams = [
        CameraStream(
            name,
            camera,
            options.max_age_s,
            clock.now,
            options.latency_s.get(name, 0.0),
            options.frozen_s,
            on_event=on_event,
        )
        for name, camera in cameras.items()
    ]
    body = Body(
        arm,
        twin,
        clock,
        features,
        Streams(streams, options.max_skew_s, clock.now),
        fps,
        control_hz,
        speed,
    )
    return fitted(body, contract, config.other_fps)


def connect(arm: SafeRobot) -> None:
    """LeRobot would ask for a calibration on the terminal; a deployment says what to do and ends. Raises UserError for that, and where
    the arm cannot be reached."""
    try:
        arm.connect(calibrate=False)
    except ConnectionError as error:
        raise UserError(
            f"{arm.name} cannot be reached: {error} Is it plugged in and powered, and is --robot.port right (lerobot-find-port)?"
        ) from error


def fitted(body: Body, contract: RobotContract, other_fps: bool = False) -> Body:
    """The body with names in the order of the policy; when connected, the arm compares the rest with the policy's data.

    other_fps: another rate than the data's is wanted. Raises UserError where rate or names differ. A twin's data have its
    own order and units, though often other names: of these only a known order is taken over.
    """
    if not other_fps:
        check_rate(contract.fps, body.fps)
    if body.twin is not None:
        with contextlib.suppress(UserError):
            body.arm.joints = joints_in_order(contract, body.arm.joints)
            return dataclasses.replace(body, features=features_in_order(contract, body.features))
        return body
    body.arm.expect(contract)
    return dataclasses.replace(body, features=features_in_order(contract, body.features))

"""Options of the safety filter around a LeRobot robot: `--robot.type=ebt_safe --robot.robot='{type: so101_follower, ...}'`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.robots.config import RobotConfig


@dataclass(kw_only=True)
class SafetyOptions:
    """velocity, acceleration: limits in the robot's units per second (degrees, or percent of the range for grippers and
    LeRobot's normalised mode), for all joints or by name. margin: part of each range kept free at its ends. low, high: ends
    of ranges by joint, where the robot does not know its own, or to narrow it. The others are those of `SafetyConfig`.
    """

    velocity: float = 180.0
    acceleration: float = 720.0
    velocity_of: dict[str, float] = field(default_factory=dict)  # limits of single joints, by name
    acceleration_of: dict[str, float] = field(default_factory=dict)  # the same
    margin: float = 0.02
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    # Share of the velocity limits, .25 unless said otherwise. Of ebt_safe in LeRobot's commands; `deploy` has --speed.
    speed_scale: float | None = None
    watchdog_s: float = 0.5  # seconds without an accepted command before the arm holds
    ramp_s: float = 1.0  # seconds in which the speed limit rises from zero after a start or a stop
    start_gate: float | None = (
        30.0  # robot units: no start towards a target farther from the arm; None: never refused
    )
    # Part of its range: stop when a joint is measured farther from its command. Grippers are left out, which close on objects;
    # None: off.
    following_error: float | None = 0.2
    max_temperature: float | None = (
        65.0  # of a motor, degrees Celsius; its own protection lets go at about 70
    )
    # Computes, checks and logs what it would send, and sends nothing.
    shadow: bool = False
    event_log: str | None = None  # a file of JSON lines


@RobotConfig.register_subclass("ebt_safe")
@dataclass(kw_only=True)
class SafeRobotConfig(SafetyOptions, RobotConfig):
    """robot: options of the arm to guard, `type` among them; not a RobotConfig, since LeRobot's parser follows every type
    that a field may have, and would never end at one that holds itself. fps: of the loop that sends the commands. policy:
    the one that will run (a run, a checkpoint, shipped:NAME); the robot's joints are then put in the order of its data by
    name, or refused, and rate, units and pose are compared with its data before anything moves.
    """

    robot: dict[str, Any]
    fps: float = 30.0
    policy: str = ""

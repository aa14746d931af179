"""Ranges and limits of a robot's joints: what it knows of itself, and what the user's options say about single joints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from lerobot.robots.robot import Robot

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety.arms import Range, joint_ranges
from ebt_policy.hardware.safety.config_safe_robot import SafetyOptions
from ebt_policy.hardware.safety.limits import Array, JointLimits
from ebt_policy.hardware.safety.readings import MAX_RANGES_PER_S
from ebt_policy.suggestions import did_you_mean

MAX_RANGES_PER_S2 = 100.0  # highest acceleration limit: to MAX_RANGES_PER_S in 50 ms
_ROUNDING = 1e-3  # of its range: an end given in short is not taken for a wider one


def check_names(joints: Sequence[str], options: SafetyOptions, where: str) -> None:
    """Raises UserError where an option names what is no joint (J). where: the user gives the options there, "--safety" say."""
    for option in ("low", "high", "velocity_of", "acceleration_of"):
        for name in getattr(options, option):
            if name not in joints:
                raise UserError(
                    f"{where}.{option} names '{name}', which is no joint of this robot; it has {', '.join(joints)}."
                    + did_you_mean(name, joints)
                )


def ranges(robot: Robot, joints: Sequence[str], options: SafetyOptions, where: str) -> dict[str, Range]:
    """{joint: (low, high)} where the robot or the options say both. Each end of the options narrows what the robot knows.

    Raises UserError where an end would widen it.
    """
    known = joint_ranges(robot, tuple(joints))
    found = dict(known)
    for name in joints:
        low, high = options.low.get(name), options.high.get(name)
        if name not in known:
            if low is not None and high is not None:
                found[name] = (low, high)
            continue
        least, most = known[name]
        room = _ROUNDING * (most - least)
        for option, end, wider in (
            ("low", low, low is not None and low < least - room),
            ("high", high, high is not None and high > most + room),
        ):
            if wider:
                raise UserError(
                    f"{where}.{option} of joint '{name}' is {end:g}, outside its calibrated range of {least:g} to {most:g}. "
                    "Give one inside, or calibrate the arm again."
                )
        found[name] = (
            least if low is None else max(low, least),
            most if high is None else min(high, most),
        )
    return found


def widths(robot: Robot, joints: Sequence[str], found: Mapping[str, Range]) -> Array:
    """(J,): how far each joint can move in all. found: `ranges`, which count where the robot does not know its own."""
    whole = dict(found) | joint_ranges(robot, tuple(joints))
    return np.array([whole[name][1] - whole[name][0] for name in joints], np.float64)


def following_errors(robot: Robot, joints: Sequence[str], options: SafetyOptions, where: str) -> Array | None:
    """(J,): the largest distance of each joint from its command, in its units; infinite for grippers. None: all may be anywhere.

    Raises UserError where the option is no part of a range.
    """
    part = options.following_error
    if part is None:
        return None
    if not 0 < part <= 1:
        raise UserError(
            f"{where}.following_error is {part:g}; expected a part of each joint's range, above 0 and at most 1 (0.2 is usual)."
        )
    allowed = part * widths(robot, joints, ranges(robot, joints, options, where))
    return np.where(["gripper" in name for name in joints], np.inf, allowed)


def limits(robot: Robot, joints: Sequence[str], options: SafetyOptions, where: str) -> JointLimits:
    """Ranges, less their margins, and highest speeds of the joints (J).

    Raises UserError where a range is not known, and for limits that limit nothing.
    """
    found = ranges(robot, joints, options, where)
    missing = [name for name in joints if name not in found]
    if missing:
        raise UserError(
            f"{robot} does not say how far {', '.join(missing)} may move. Give {where}.low and {where}.high for them."
        )
    made = JointLimits.of(
        joints,
        [found[name][0] for name in joints],
        [found[name][1] for name in joints],
        [options.velocity_of.get(name, options.velocity) for name in joints],
        [options.acceleration_of.get(name, options.acceleration) for name in joints],
        options.margin,
    )
    if not getattr(robot, "simulated", False):  # such an arm cannot break
        _check_sizes(made, widths(robot, joints, found), options, where)
    return made


def _check_sizes(made: JointLimits, width: Array, options: SafetyOptions, where: str) -> None:
    """Raises UserError for limits that limit nothing, as those in degrees of an arm in radians. width (J,): of the joints."""
    for name, size, velocity, acceleration in zip(
        made.names, width, made.velocity, made.acceleration, strict=True
    ):
        for option, found, most in (
            ("velocity", velocity, MAX_RANGES_PER_S * size),
            ("acceleration", acceleration, MAX_RANGES_PER_S2 * size),
        ):
            if found > most:
                raise UserError(
                    f"{where}.{option} of joint '{name}' is {found:g}, which is no limit: the joint can move through {size:.4g} in "
                    f"all; expected at most {most:.4g}. Give {where}.{option} in the units of the arm, radians say, or "
                    f"{where}.{option}_of for single joints."
                )
    gate = options.start_gate
    if (
        gate is not None and (gate >= width).mean() > 0.5
    ):  # joints with units of their own, as grippers, may be narrower
        joint = int(np.argmax(gate >= width))
        raise UserError(
            f"{where}.start_gate is {gate:g}, and refuses nothing: joint '{made.names[joint]}' can move through "
            f"{width[joint]:.4g} in all; expected less. Give it in the units of the arm, a tenth of a range say."
        )

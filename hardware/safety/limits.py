"""Limits of position, velocity and acceleration, and steps of a trajectory that never exceeds them.

Legend: J joints; any leading dimensions are independent arms. Units are the robot's own: for LeRobot's arms degrees, or
-100 to 100 of the calibrated range, per second and per second squared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebt_policy.errors import UserError

Array = NDArray[np.float64]
Positions = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class JointLimits:
    """names of J joints; low, high (J,): commanded positions; velocity, acceleration (J,): their largest changes."""

    names: tuple[str, ...]
    low: Array
    high: Array
    velocity: Array
    acceleration: Array

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        low: Sequence[float] | float,
        high: Sequence[float] | float,
        velocity: Sequence[float] | float,
        acceleration: Sequence[float] | float,
        margin: float = 0.0,
    ) -> JointLimits:
        """One number serves all joints. margin: part of the range that is kept free at either end.

        Raises UserError, naming the joint, for limits that are no numbers, empty or not positive.
        """
        if not names:
            raise UserError("Limits need at least one joint.")
        columns = {}
        given = (("low", low), ("high", high), ("velocity", velocity), ("acceleration", acceleration))
        for what, value in given:
            column = np.array(np.broadcast_to(np.asarray(value, np.float64), len(names)))
            for name, number in zip(names, column, strict=True):
                if not np.isfinite(number) or (what in ("velocity", "acceleration") and number <= 0):
                    raise UserError(
                        f"The {what} limit of joint '{name}' is {number}; expected a finite number"
                        + (" above 0." if what in ("velocity", "acceleration") else ".")
                    )
            columns[what] = column
        if not 0 <= margin < 0.5:
            raise UserError(f"The margin is {margin}; expected a part of the range from 0 to below .5.")
        kept = margin * (columns["high"] - columns["low"])
        columns["low"], columns["high"] = columns["low"] + kept, columns["high"] - kept
        for name, least, most in zip(names, columns["low"], columns["high"], strict=True):
            if not least < most:
                raise UserError(f"Joint '{name}' has no range: low {least:g}, high {most:g}.")
        return cls(tuple(names), **columns)


def stopping_speed(gap: Array, acceleration: Array, dt: float) -> Array:
    """The largest speed v for one more tick after which braking still ends within `gap`: v dt + v^2 / 2a = gap.

    The continuous braking distance bounds that of any later ticks, however irregular.
    """
    return acceleration * (np.sqrt(dt * dt + 2 * np.maximum(gap, 0) / acceleration) - dt)


def limited_step(
    position: Array,
    velocity: Array,
    target: Array,
    target_velocity: Array,
    limits: JointLimits,
    dt: float,
    speed_scale: float = 1.0,
) -> tuple[Array, Array]:
    """The next commanded (position, velocity), all (..., J), on the way to a target that moves at target_velocity.

    target: where it is at the end of this step, so that a target within the limits is met exactly, however it moves.

    From a state that it returned itself (or from rest inside the limits) it stays within every limit, whatever the target:
    a speed from which the joint can stop before its end can always be braked by a dt into another such speed.
    It approaches a target at rest without overshoot.
    """
    a = limits.acceleration
    gap = target - target_velocity * dt - position
    wanted = target_velocity + np.sign(gap) * stopping_speed(np.abs(gap), a, dt)
    fastest = speed_scale * limits.velocity
    wanted = np.clip(wanted, -fastest, fastest)
    reached = np.clip(wanted, velocity - a * dt, velocity + a * dt)
    # Exactly what braking leaves open; without rounding neither bound could cross the other.
    up = stopping_speed(limits.high - position, a, dt)
    down = stopping_speed(position - limits.low, a, dt)
    reached = np.clip(reached, -down, up)
    return position + reached * dt, reached


def braking_step(position: Array, velocity: Array, limits: JointLimits, dt: float) -> tuple[Array, Array]:
    """The next (position, velocity) on the way to rest, as soon as the acceleration allows."""
    slower = np.sign(velocity) * np.maximum(np.abs(velocity) - limits.acceleration * dt, 0)
    return position + slower * dt, slower

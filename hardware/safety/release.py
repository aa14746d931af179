"""Letting a robot go at the end, whatever fails: torque off motor by motor, cameras and ports closed."""

from __future__ import annotations

import contextlib
import logging

from lerobot.robots.robot import Robot
from lerobot.utils.errors import DeviceNotConnectedError

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety.arms import Arm, arms_of, cameras_of

TRIES = 3  # for each motor that refuses; every one of them repeats its packet as well
logger = logging.getLogger(__name__)


def release(robot: Robot) -> None:
    """Disconnects as LeRobot does; where that fails, each motor alone, then cameras and ports.

    LeRobot stops at the first motor that reports an error, an overload say, and leaves the torque of those behind it on.
    Raises UserError, in one line, that names the motors whose torque is still on or not known. A Ctrl-C on the way is raised again
    at the end.
    """
    try:
        robot.disconnect()
        return
    except BaseException as error:  # each driver raises its own; and a Ctrl-C must not leave torque on either
        failed = error
    reason = f"{type(failed).__name__}: {failed}".splitlines()[0]
    try:
        _one_by_one(robot, failed, reason)
    except UserError as left:
        if isinstance(failed, Exception):
            raise
        logger.error("%s", left)
    if not isinstance(failed, Exception):
        raise failed


def _one_by_one(robot: Robot, failed: BaseException, reason: str) -> None:
    arms = [arm for arm in arms_of(robot) if arm.motors and _open(arm)]
    powered = [name for arm in arms for name in _torque_off(arm)]
    for camera in cameras_of(robot).values():
        with contextlib.suppress(Exception):
            if camera.is_connected:
                camera.disconnect()
    for arm in arms:
        with contextlib.suppress(Exception):
            arm.bus.disconnect(False)  # the port alone
    if powered:
        raise UserError(
            f"The torque of {', '.join(powered)} is still on, or cannot be read. Support the arm, then switch its power "
            f"off. LeRobot's disconnect failed: {reason}"
        )
    if arms:
        logger.warning("%s was let go motor by motor, because LeRobot's disconnect failed: %s", robot, reason)
    elif not isinstance(failed, DeviceNotConnectedError):
        raise UserError(f"{robot} cannot be disconnected: {reason}. Support it, then switch its power off.")


def _torque_off(arm: Arm) -> list[str]:
    """Names of the motors whose torque is on in spite of all tries. Motors that are to keep it do not count."""
    if not _lets_go(arm):
        return []
    with contextlib.suppress(Exception):  # what LeRobot does first as well
        arm.bus.port_handler.clearPort()
        arm.bus.port_handler.is_using = False
    powered = []
    for motor in arm.motors:
        for _ in range(TRIES):
            # A motor in overload obeys, and its reply still carries the error, which LeRobot raises.
            with contextlib.suppress(Exception):
                arm.bus.disable_torque(motor, num_retry=2)
            if _is_off(arm, motor):
                break
        else:
            powered.append(arm.prefix + motor)
    return powered


def _lets_go(arm: Arm) -> bool:
    """Whether its options want the torque off at the end, as is LeRobot's default."""
    return bool(getattr(getattr(arm.robot, "config", None), "disable_torque_on_disconnect", True))


def _open(arm: Arm) -> bool:
    return bool(getattr(arm.bus, "is_connected", False))


def _is_off(arm: Arm, motor: str) -> bool:
    try:
        # Reading one motor raises on its error bits, reading a list does not.
        return not any(arm.bus.sync_read("Torque_Enable", [motor], normalize=False).values())
    except Exception:
        return False

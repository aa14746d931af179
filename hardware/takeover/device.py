"""What a LeRobot `Teleoperator` gives, as joint positions in the order of the arm. Legend: J joints."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from lerobot.teleoperators.teleoperator import Teleoperator
from numpy.typing import NDArray

from ebt_policy.errors import UserError
from ebt_policy.hardware.control.commands import KEYS
from ebt_policy.hardware.safety.arms import arms_of

Array = NDArray[np.float64]
_POSITION = ".pos"
_STAY = 1.0  # LeRobot's gripper outputs: 0 closes, 1 stays, 2 opens
_DEFAULT_KEYS = "1234567890-="  # two for each joint: down, up


class Device(Protocol):
    """Turns the output of `Teleoperator.get_action` into positions."""

    def positions(self, action: Mapping[str, Any], now: float) -> Array:
        """(J,) in the arm's units. now: seconds. Raises ValueError where the output holds no such numbers."""
        ...


class JointDevice:
    """A leader arm: one position for each joint of the follower, under the same name."""

    def __init__(self, joints: Sequence[str]) -> None:
        self._names = tuple(name + _POSITION for name in joints)

    def positions(self, action: Mapping[str, Any], now: float) -> Array:
        found = np.array([float(action[name]) for name in self._names])
        if not np.isfinite(found).all():
            wrong = self._names[int(np.argmin(np.isfinite(found)))]
            raise ValueError(f"the leader's '{wrong}' is {action[wrong]}")
        return found


class JogDevice:
    """A gamepad or keyboard: its outputs are speeds of single joints, which are added up to positions from 0."""

    def __init__(self, axes: Mapping[str, tuple[int, float]], joints: int) -> None:
        """axes: output or key -> index of the joint, and its speed at full output in the arm's units per second."""
        self._axes = dict(axes)
        self._at: Array = np.zeros(joints)
        self._last: float | None = None

    def positions(self, action: Mapping[str, Any], now: float) -> Array:
        speed = np.zeros(len(self._at))
        for name, value in action.items():
            if name not in self._axes:
                continue
            joint, fastest = self._axes[name]
            # A pressed key has no value. LeRobot's gamepads say 0, 1, 2 for a gripper that closes, stays, opens.
            push = 1.0 if value is None else float(value) - (_STAY if name == "gripper" else 0.0)
            if not np.isfinite(push):
                raise ValueError(f"the device's '{name}' is {value}")
            speed[joint] += fastest * float(np.clip(push, -1.0, 1.0))
        elapsed = 0.0 if self._last is None else min(max(now - self._last, 0.0), 0.1)
        self._at, self._last = self._at + elapsed * speed, now
        return self._at.copy()


def device_for(
    teleop: Teleoperator,
    joints: Sequence[str],
    widths: Array,
    jog: Mapping[str, str] | None = None,
    jog_speed: float = 0.1,
) -> Device:
    """The device for this teleoperator on an arm with these joints.

    widths (J,): of the joints' ranges. jog: output or key -> joint, "-joint" for the other way; None: LeRobot's gamepad moves
    the first three joints and the gripper, a keyboard each joint by two digits. jog_speed: part of a range per second.
    Raises UserError where the teleoperator does not fit the arm.
    """
    features = _features(teleop)
    wanted = [name + _POSITION for name in joints]
    if set(wanted) <= set(features):
        return JointDevice(joints)
    if any(name.endswith(_POSITION) for name in features):
        missing = [name for name in wanted if name not in features]
        raise UserError(
            f"The teleoperator {teleop.name} gives {', '.join(features)}; the arm also needs {', '.join(missing)}. "
            "Choose the leader of this arm."
        )
    if jog is None:
        jog = _default_jog(features, joints)
    axes = {}
    for name, target in jog.items():
        joint = target.lstrip("+-")
        if joint not in joints:
            raise UserError(
                f"--takeover.jog maps '{name}' to a joint '{joint}'; the arm has {', '.join(joints)}."
            )
        if name in KEYS:
            raise UserError(
                f"--takeover.jog uses the key '{name}', which is a command of `deploy`. Choose another key."
            )
        index = list(joints).index(joint)
        axes[name] = (index, float(widths[index]) * jog_speed * (-1.0 if target.startswith("-") else 1.0))
    return JogDevice(axes, len(joints))


def _default_jog(features: Sequence[str], joints: Sequence[str]) -> dict[str, str]:
    if features:  # LeRobot's gamepad and keyboard_ee
        axes = [name for name in features if name != "gripper"]
        jog = dict(zip(axes, joints, strict=False))
        return jog | ({"gripper": joints[-1]} if "gripper" in features else {})
    pairs = zip(_DEFAULT_KEYS[::2], _DEFAULT_KEYS[1::2], joints, strict=False)
    return {key: way + joint for down, up, joint in pairs for key, way in ((down, "-"), (up, ""))}


def _features(teleop: Teleoperator) -> list[str]:
    """Names of the outputs; none for a keyboard, whose pressed keys are its outputs."""
    try:
        features = dict(teleop.action_features)
    except AttributeError:  # of LeRobot's keyboard, which asks for an arm that it does not have
        return []
    names = features.get("names")  # a gamepad describes its outputs as a dataset's feature
    return list(names) if isinstance(names, Mapping) else list(features)


def connect(teleop: Teleoperator) -> None:
    """Connects it without asking anything on the terminal. Raises UserError where it needs a calibration."""
    parameters = inspect.signature(teleop.connect).parameters  # LeRobot's gamepads take no option
    teleop.connect(**({"calibrate": False} if "calibrate" in parameters else {}))
    if teleop.is_calibrated is False:
        teleop.disconnect()
        raise UserError(
            f"The teleoperator {teleop.name} '{teleop.id}' is not calibrated, or its motors hold another calibration than the "
            f"file of its id. Calibrate it: lerobot-calibrate --teleop.type=... --teleop.id={teleop.id} with its port."
        )


def check_units(teleop: Teleoperator, robot: Any) -> None:
    """Raises UserError where motors of the same name count in different units, such as degrees and -100 to 100."""
    mine, others = (
        {arm.prefix + name: motor for arm in arms_of(device) for name, motor in arm.motors.items()}
        for device in (teleop, robot)
    )
    for name in mine.keys() & others.keys():
        leader, follower = (getattr(motors[name], "norm_mode", None) for motors in (mine, others))
        if leader is not None and follower is not None and leader is not follower:
            raise UserError(
                f"Joint '{name}' is in {leader.value} at the leader and in {follower.value} at the arm. Give both the same "
                "--robot.use_degrees and --teleop.use_degrees."
            )

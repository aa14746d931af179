"""What a policy expects of a robot: names and order of its joints, control rate, and the ranges seen in the data.

Needs numpy alone, so that the arm's side of a policy server can use it. Legend: S state size, A action size, J joints.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.errors import UserError

POSITION = ".pos"  # LeRobot's suffix of joint positions; names are compared without it
MARGIN = 0.25  # of a joint's range in the data: this far outside of it is still believed
MIN_RANGE = 0.05  # of the median range: joints that hardly move in the data have at least this one
SMALL_SHARE = 0.05  # data that cover less than this of every joint's range are in other units


@dataclass(frozen=True)
class Ranges:
    """Lowest and highest value of each joint in the training data, in the data's units: two arrays (J,)."""

    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class RobotContract:
    """What the checkpoint says of the robot that its data came from. None: the checkpoint does not say it.

    state_names, action_names: in column order. fps: ticks a second. state, action: ranges in the data.
    """

    state_names: tuple[str, ...] | None = None
    action_names: tuple[str, ...] | None = None
    fps: float | None = None
    robot_type: str | None = None
    state: Ranges | None = None
    action: Ranges | None = None

    def unknown(self) -> list[str]:
        """What the checkpoint does not say, in words; such things cannot be checked, and the caller says so once."""
        parts = {
            "the order of the joints": self.action_names,
            "the control rate": self.fps,
            "the range of the joints": self.state or self.action,
        }
        return [words for words, value in parts.items() if value is None]


def read_robot_contract(checkpoint: Path) -> RobotContract:
    """Reads a pretrained_model folder: names and rate from config.json, ranges from the normalisation statistics.

    Checkpoints of older versions, and of other policies, lack some or all of it; nothing is refused here.
    """
    config = json.loads((checkpoint / "config.json").read_text())
    state_names, action_names = config.get("state_feature_names"), config.get("action_feature_names")
    statistics = _statistics(checkpoint)
    return RobotContract(
        state_names=tuple(state_names) if state_names else None,
        action_names=tuple(action_names) if action_names else None,
        fps=config.get("dataset_fps"),
        robot_type=config.get("robot_type"),
        state=_ranges(statistics, "observation.state"),
        action=_ranges(statistics, "action"),
    )


def reorder(found: Sequence[str], expected: Sequence[str], what: str = "joints") -> np.ndarray:
    """Columns (J,) such that `values_in_found_order[columns]` is in the expected order.

    For the way back, from the policy's order to the robot's, swap the arguments. Raises UserError when the names are
    not the same set, or not unique.
    """
    have, want = _bare(found), _bare(expected)
    missing, extra = [n for n in want if n not in have], [n for n in have if n not in want]
    if missing or extra or len(set(have)) < len(have) or len(have) != len(want):
        raise UserError(
            f"The {what} do not have the names that the policy was trained with. Missing: {_listed(missing)}; not known "
            f"to the policy: {_listed(extra)}. The policy has {', '.join(want)}; found {', '.join(have)}. Use the robot "
            "of the training data, or rename the joints there or here so that each name means the same joint."
        )
    return np.array([have.index(name) for name in want])


def check_rate(trained: float | None, fps: float, option: str = "--fps") -> None:
    """Raises UserError when ticks are `fps` a second and the data had another rate: actions play at a wrong speed."""
    if trained is not None and abs(trained - fps) > 0.01 * trained:
        raise UserError(
            f"The policy was trained on data of {trained:g} ticks a second, and the control loop runs at {fps:g}: its "
            f"actions would play at {fps / trained:.2g} times their speed. Set {option}={trained:g}."
        )


def joints_outside(ranges: Ranges, position: np.ndarray, margin: float = MARGIN) -> np.ndarray:
    """Which joints (J,) bool stand outside the data's range by more than `margin` of it; also those not finite."""
    low, high = _widened(ranges, margin)
    return ~((position >= low) & (position <= high))


def check_pose(
    ranges: Ranges,
    position: np.ndarray,
    names: Sequence[str],
    max_share: float = 0.5,
    margin: float = MARGIN,
) -> str | None:
    """A warning where some joints stand outside the data's range; None where all are inside.

    position (J,): the robot's present pose, in the policy's order. Raises UserError when it is more than `max_share` of
    the joints: then units, calibration or the order of the joints differ from the data's.
    """
    outside = joints_outside(ranges, position, margin)
    if not outside.any():
        return None
    joints = "; ".join(
        f"{names[i]} at {position[i]:.3g}, in the data {ranges.low[i]:.3g} to {ranges.high[i]:.3g}"
        for i in np.flatnonzero(outside)
    )
    text = f"{outside.sum()} of {len(outside)} joints stand outside the range of the training data: {joints}."
    if outside.mean() > max_share:
        raise UserError(
            f"{text} Are the units (degrees, radians, -100 to 100), the calibration and the robot those of the data?"
        )
    return f"{text} The policy has seen no such pose."


def check_units(ranges: Ranges, low: np.ndarray, high: np.ndarray, names: Sequence[str]) -> None:
    """Compares the data's ranges with how far the robot's joints can go, `low` to `high` (J,), in the policy's order.

    Raises UserError when the units seem to differ: the data leave what more than half of the joints can reach by over a
    quarter of it, or cover less than 5 % of the range of every joint (degrees against radians), or one side is in
    LeRobot's -100 to 100 and the other is not. Data in -100 to 100 that never come near either end pass for degrees.
    """
    reach = Ranges(np.asarray(low, float), np.asarray(high, float))
    beyond = joints_outside(reach, ranges.low) | joints_outside(reach, ranges.high)
    share = (ranges.high - ranges.low) / np.maximum(reach.high - reach.low, 1e-9)
    if beyond.mean() > 0.5 or share.max() < SMALL_SHARE or _percent_against_other_units(ranges, reach):
        joints = "; ".join(
            f"{names[i]} {ranges.low[i]:.3g} to {ranges.high[i]:.3g} in the data, {reach.low[i]:.3g} to "
            f"{reach.high[i]:.3g} on this robot"
            for i in range(len(names))
        )
        raise UserError(
            f"The training data and this robot seem to use different units: {joints}. Set the robot to the units of the "
            "data (for LeRobot's SO arms the option use_degrees), or use the robot of the data."
        )


def _percent_against_other_units(data: Ranges, reach: Ranges) -> bool:
    """Whether exactly one side is in LeRobot's -100 to 100. Grippers, 0 to 100 in all of its units, do not count."""
    arm = ~((np.abs(reach.low) < 0.01) & (np.abs(reach.high - 100) < 0.01))
    if not arm.any():
        return False
    farthest = np.maximum(np.abs(data.low), np.abs(data.high))[arm].max()
    robot_in_percent = bool(
        np.all((np.abs(reach.low + 100) < 0.01) & (np.abs(reach.high - 100) < 0.01) | ~arm)
    )
    if robot_in_percent:
        return bool(farthest > 101)
    return bool(abs(farthest - 100) < 0.05)  # it stops at 100, as nothing but a clipped scale does


def _widened(ranges: Ranges, margin: float) -> tuple[np.ndarray, np.ndarray]:
    width = ranges.high - ranges.low
    slack = margin * np.maximum(width, MIN_RANGE * np.median(width))
    return ranges.low - slack, ranges.high + slack


def _statistics(checkpoint: Path) -> dict[str, np.ndarray]:
    """`feature.statistic` -> values, from the normaliser that the preprocessor names; empty where it has none."""
    from safetensors.numpy import load_file

    path = checkpoint / "policy_preprocessor.json"
    steps: Iterable[dict[str, Any]] = json.loads(path.read_text())["steps"] if path.is_file() else ()
    for step in steps:
        if step.get("registry_name") == "normalizer_processor" and step.get("state_file"):
            return load_file(checkpoint / step["state_file"])
    return {}


def _ranges(statistics: dict[str, np.ndarray], feature: str) -> Ranges | None:
    # The normaliser widens joints that hardly move; what the data had is beside it then (processor_ebt).
    low, high = (
        statistics.get(f"{feature}.data_{s}", statistics.get(f"{feature}.{s}")) for s in ("min", "max")
    )
    if low is None or high is None:
        return None
    return Ranges(low.astype(float), high.astype(float))


def _bare(names: Sequence[str]) -> list[str]:
    return [name.removesuffix(POSITION) for name in names]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"

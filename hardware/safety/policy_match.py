"""Compares a robot with the one that a policy's training data came from: names and order of joints, units, pose.

Legend: J joints, S state size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebt_policy.hardware.safety.arms import Range
from ebt_policy.inference.robot_contract import POSITION, RobotContract, check_pose, check_units, reorder


def joints_in_order(contract: RobotContract, joints: Sequence[str]) -> tuple[str, ...]:
    """The robot's joints (J), in the order of the policy's actions. Raises UserError where they are not the same joints."""
    if contract.action_names is None:
        return tuple(joints)
    return tuple(joints[int(i)] for i in reorder(joints, contract.action_names))


def features_in_order(contract: RobotContract, features: Mapping[str, Any]) -> dict[str, Any]:
    """The robot's observation features, its numbers in the order of the policy's state, then all others.

    Raises UserError where the numbers do not have the names of the policy's state.
    """
    names = state_names(contract, features)
    if names is None:
        return dict(features)
    return {name: features[name] for name in names} | dict(features)


def state_names(contract: RobotContract, features: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The robot's names of the numbers in the policy's state (S), in its order; None where the policy does not say them."""
    numbers = [name for name, kind in features.items() if kind is float]
    wanted = contract.state_names
    if wanted is None and contract.action_names is not None:
        # Older checkpoints name the actions alone; a state of the same joints is recorded in the same order.
        bare = {name.removesuffix(POSITION) for name in contract.action_names}
        if {name.removesuffix(POSITION) for name in numbers} == bare and len(numbers) == len(bare):
            wanted = contract.action_names
    if wanted is None:
        return None
    return tuple(numbers[int(i)] for i in reorder(numbers, wanted, "numbers of the robot's state"))


def compare(
    contract: RobotContract,
    joints: Sequence[str],
    ranges: Mapping[str, Range],
    features: Mapping[str, Any],
    observed: Mapping[str, Any],
) -> list[str]:
    """Warnings about a robot that differs from the data's, and about what the checkpoint does not say.

    joints (J): in the policy's order. ranges: of the joints, where the robot knows them. features: the robot's. observed:
    its present observation. Raises UserError where units or pose cannot be those of the data. Nothing is sent.
    """
    warnings = []
    if contract.unknown():
        warnings.append(
            f"The checkpoint does not say {', '.join(contract.unknown())}: not compared. Make sure yourself, or train again."
        )
    action = contract.action
    if action is not None and len(action.low) == len(joints) and all(name in ranges for name in joints):
        low, high = (np.array([ranges[name][end] for name in joints]) for end in (0, 1))
        check_units(action, low, high, joints)
    names = state_names(contract, features)
    if names is None and contract.state is not None:
        numbers = [name for name, kind in features.items() if kind is float]
        names = tuple(numbers) if len(numbers) == len(contract.state.low) else None
    pose, reference = (names, contract.state) if contract.state is not None else (joints, action)
    if reference is not None and pose is not None and len(reference.low) == len(pose):
        position = np.array([float(_value(observed, name)) for name in pose])
        warning = check_pose(reference, position, pose)
        if warning is not None:
            warnings.append(warning)
    return warnings


def _value(observed: Mapping[str, Any], name: str) -> Any:
    return observed[name] if name in observed else observed[name + POSITION]

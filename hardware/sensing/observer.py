"""Observations of a robot and its cameras, by the names and shapes that a policy was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebt_policy.errors import UserError

STATE, ENVIRONMENT = "observation.state", "observation.environment_state"
PICTURES = "observation.images."
# A simulated robot may show its objects as floats of this name; a real one cannot.
OBJECTS = "environment_state."

Shapes = Mapping[str, tuple[int, ...]]


class Observer:
    """Selects the policy's inputs from {name: float} and {camera: picture}. Pictures stay uint8 and become (3, H, W)."""

    def __init__(
        self, needs: Shapes, observed: Mapping[str, Any], action_size: int, joints: Sequence[str]
    ) -> None:
        """needs: the policy's features {name: shape}. observed: the robot's `observation_features`, cameras among them.
        joints: names of the action's joints, in its order. Raises UserError where robot and policy do not fit.
        """
        self.states = state_numbers(observed)
        self.objects = [name for name, kind in observed.items() if kind is float and _object(name)]
        cameras = {name: shape for name, shape in observed.items() if isinstance(shape, tuple)}
        self.cameras = tuple(name.removeprefix(PICTURES) for name in needs if name.startswith(PICTURES))
        self._needs = tuple(needs)
        if action_size != len(joints):
            raise UserError(
                f"The policy commands {action_size} joints; the robot has {len(joints)} ({', '.join(joints)}). "
                "Choose the robot that it was trained on."
            )
        offered = {STATE: (len(self.states),), ENVIRONMENT: (len(self.objects),)}
        offered |= {PICTURES + name: (shape[2], *shape[:2]) for name, shape in cameras.items()}
        for name, shape in needs.items():
            if name.startswith(PICTURES) and name not in offered:
                raise UserError(
                    f"The policy sees a camera '{name.removeprefix(PICTURES)}'; the robot has "
                    f"{', '.join(cameras) or 'none'}. Name it so in --robot.cameras."
                )
            if offered.get(name) != tuple(shape):
                raise UserError(
                    f"The policy needs '{name}' of shape {tuple(shape)}; the robot gives {offered.get(name, 'none')}. "
                    "Choose the robot, and the camera size, that it was trained with."
                )

    def __call__(
        self, floats: Mapping[str, Any], pictures: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """floats: of the robot's observation. pictures {camera: (H, W, 3) uint8}. -> {feature: value}."""
        found: dict[str, np.ndarray] = {}
        for name in self._needs:
            if name == STATE:
                found[name] = np.array([floats[key] for key in self.states], np.float32)
            elif name == ENVIRONMENT:
                found[name] = np.array([floats[key] for key in self.objects], np.float32)
            else:
                found[name] = pictures[name.removeprefix(PICTURES)].transpose(2, 0, 1)
        return found


def state_numbers(observed: Mapping[str, Any]) -> list[str]:
    """Names of the numbers in the policy's state, in its order, of a robot's `observation_features`."""
    return [name for name, kind in observed.items() if kind is float and not _object(name)]


def _object(name: str) -> bool:
    return name.startswith(OBJECTS)

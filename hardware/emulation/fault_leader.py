"""The operator's leader of the simulated deployment for fault injection: it swings, and fails when told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lerobot.teleoperators.config import TeleoperatorConfig
from lerobot.teleoperators.teleoperator import Teleoperator

AMPLITUDE, RATE = 20.0, 0.5  # degrees and swings per second of the operator's hand


class FaultyLeader(Teleoperator):
    """A leader with motors. The operator swings all its joints about the pose in which he got it, unless a fault is injected.

    lost: why it cannot be read, "" if it can. change(action): what comes instead.
    """

    config_class, name = TeleoperatorConfig, "faulty_leader"

    def __init__(
        self, joints: Sequence[str], now: Callable[[], float]
    ) -> None:  # LeRobot's own set-up would make folders
        self._names, self._now, self.id = tuple(f"{name}.pos" for name in joints), now, "faulty"
        self.lost = ""
        self.change: Callable[[dict[str, float]], dict[str, float]] = lambda action: action
        self._pose: np.ndarray = np.full(len(self._names), 30.0)
        self._torque, self._free, self._connected = False, 0.0, True

    @property
    def action_features(self) -> dict[str, type]:
        return dict.fromkeys(self._names, float)

    @property
    def feedback_features(self) -> dict[str, type]:
        return self.action_features

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None:
        if self.lost:
            raise ConnectionError(self.lost)
        self._connected = True

    def disconnect(self) -> None:
        self._connected = False

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def enable_torque(self) -> None:
        self._pose, self._torque = self._at, True

    def disable_torque(self) -> None:
        if self._torque:
            self._torque, self._free = False, self._now()

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        self._pose = np.array([feedback[name] for name in self._names])

    def get_action(self) -> dict[str, float]:
        if self.lost or not self._connected:
            raise ConnectionError(self.lost or "not connected")
        return self.change(dict(zip(self._names, map(float, self._at), strict=True)))

    @property
    def _at(self) -> np.ndarray:
        if self._torque:
            return self._pose
        return self._pose + AMPLITUDE * np.sin(2 * np.pi * RATE * (self._now() - self._free))

"""A LeRobot teleoperator for tests: a leader of the fake arm's joints, with or without motors, that can fail."""

from collections.abc import Callable
from typing import Any

import numpy as np
from lerobot.teleoperators.teleoperator import Teleoperator
from lerobot.teleoperators.utils import TeleopEvents

JOINTS = ("shoulder", "elbow", "gripper")
START = np.array([40.0, -30.0, 90.0])  # far from the fake arm's


class FakeLeader(Teleoperator):
    """hand(t): how the operator moves it from where it was when he got it, (3,); it stays where its motors left it otherwise.

    reads(t): whether its bus works. reply(t, action): what comes instead of the truth. wants(t): its own button; None: it has none.
    """

    name = "fake_leader"

    def __init__(self, now: Callable[[], float], motors: bool = False) -> None:  # LeRobot would make folders
        self._now, self.id = now, "fake"
        self.hand: Callable[[float], np.ndarray] = lambda t: np.zeros(3)
        self.reads: Callable[[float], bool] = lambda t: True
        self.reply: Callable[[float, dict], dict] = lambda t, action: action
        self.wants: Callable[[float], bool] | None = None
        self.at = START.copy()
        self.torque = False
        self.calls: list[str] = []
        self.feedback: list[np.ndarray] = []
        self._free = 0.0  # since when
        self._connected = False
        if motors:
            self.enable_torque, self.disable_torque = self._enable, self._disable

    @property
    def action_features(self) -> dict[str, Any]:
        return {f"{name}.pos": float for name in JOINTS}

    @property
    def feedback_features(self) -> dict[str, Any]:
        return self.action_features if hasattr(self, "enable_torque") else {}

    @property
    def is_connected(self) -> bool:
        return self._connected

    is_calibrated = True

    def connect(self, calibrate: bool = True) -> None:
        self.calls.append("connect")
        if not self.reads(self._now()):
            raise ConnectionError("no such port")
        self._connected = True

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def disconnect(self) -> None:
        self.calls.append("disconnect")
        self._connected = False

    def _enable(self) -> None:
        self.torque = True

    def _disable(self) -> None:
        if self.torque:
            self.torque, self._free = False, self._now()

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        assert self.torque
        self.at = np.array(list(feedback.values()))
        self.feedback.append(self.at)

    def get_action(self) -> dict[str, float]:
        if not self.reads(self._now()) or not self._connected:
            raise ConnectionError("no status packet")
        at = self.at if self.torque else self.at + self.hand(self._now()) - self.hand(self._free)
        action = dict(zip(self.action_features, map(float, at), strict=True))
        return self.reply(self._now(), action)

    def get_teleop_events(self) -> dict:
        return {} if self.wants is None else {TeleopEvents.IS_INTERVENTION: self.wants(self._now())}

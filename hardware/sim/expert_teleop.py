"""A scripted operator for the twin, as a LeRobot `Teleoperator`: it behaves as a leader arm with motors.

While its torque is on it stays at the pose that it was sent to. When its torque is switched off, an expert (`envs.experts`) takes
it from there and does the task. It sees the twin through its observations, in a simulation of its own that never moves by itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lerobot.teleoperators.teleoperator import Teleoperator
from lerobot.teleoperators.utils import TeleopEvents

from ebt_policy.envs.aloha import AlohaSimulator
from ebt_policy.envs.experts import Expert, expert
from ebt_policy.errors import UserError
from ebt_policy.hardware.sim.config_expert_teleop import ExpertTeleopConfig
from ebt_policy.hardware.sim.sim_robot import JOINTS, SimRobot

_POSITION = ".pos"


class ExpertTeleop(Teleoperator):
    """Call `attach` before it is connected: LeRobot's interface tells a teleoperator nothing of its robot."""

    config_class = ExpertTeleopConfig
    name = "ebt_expert"

    def __init__(self, config: ExpertTeleopConfig) -> None:
        super().__init__(config)
        self.config = config
        self._twin: SimRobot | None = None
        self._connected = False
        self._simulator: AlohaSimulator | None = None
        self._expert: Expert | None = None  # at work
        self._takeovers = 0
        self._pose: dict[str, float] = {}
        self._asked_at: float | None = None  # seconds of the twin
        self._began_at = 0.0
        self._tick: int | None = None  # of the twin, for which the last action was chosen

    def attach(self, twin: SimRobot) -> None:
        """The twin that it operates. Raises UserError where the twin does not show the objects."""
        if not twin.config.environment_state or twin.config.poses_in_state:
            raise UserError(
                "The scripted operator (--teleop.type=ebt_expert) must see the objects: leave --robot.environment_state at true "
                "and --robot.poses_in_state at false."
            )
        self._twin = twin

    @property
    def action_features(self) -> dict[str, type]:
        return {name + _POSITION: float for name in next(iter(JOINTS.values()))}

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
        """Raises UserError where it was not attached to a twin."""
        if self._twin is None:
            raise UserError(
                "The scripted operator (--teleop.type=ebt_expert) works on the twin alone, in `ebt-policy deploy`: "
                "give --robot.type=ebt_sim."
            )
        self._connected = True
        self._rest()

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def disconnect(self) -> None:
        self._connected, self._expert = False, None
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def enable_torque(self) -> None:
        """It is asked: it stays where it is, or where `send_feedback` sends it."""
        self._rest()
        self._asked_at = self._now

    def disable_torque(self) -> None:
        """The expert takes over, if it was asked; else nothing is left to do."""
        asked, self._asked_at = self._asked_at is not None, None
        if not asked:
            self._rest()
            return
        twin, task = self._robot, self._robot.config.task.partition("+")[0]
        if self._simulator is None:
            self._simulator = AlohaSimulator(task.removeprefix("aloha_"))
            self._simulator.reset(0)
        self._look(self._simulator)
        self._expert, self._began_at, self._tick = expert(task), self._now, twin.ticks
        self._expert.reset(self._simulator, self.config.seed + self._takeovers)
        self._takeovers += 1

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        self._pose = {name: float(feedback.get(name, value)) for name, value in self._pose.items()}

    def get_action(self) -> dict[str, float]:
        """The next action of the script at each tick of the twin; the pose at rest where no script runs."""
        script, ticks = self._expert, self._robot.ticks
        if script is not None and ticks != self._tick and self._simulator is not None:
            self._tick = ticks
            self._look(self._simulator)
            action = script.act()
            if action is None:
                self._expert = None
            else:
                self._pose = dict(zip(self._pose, map(float, action[0]), strict=True))
        return dict(self._pose)

    def get_teleop_events(self) -> dict[TeleopEvents, bool]:
        """Whether it drives, or is about to."""
        waited = None if self._asked_at is None else self._now - self._asked_at
        answers = waited is not None and waited >= self.config.answers_after_s
        limit = self.config.hands_back_after_s
        works = self._expert is not None and (limit is None or self._now - self._began_at < limit)
        return {TeleopEvents.IS_INTERVENTION: answers or works}

    @property
    def _robot(self) -> SimRobot:
        assert self._twin is not None  # `connect` has looked
        return self._twin

    @property
    def _now(self) -> float:
        """Seconds of the twin."""
        return self._robot.clock.now()

    def _rest(self) -> None:
        seen = self._robot.get_observation()
        self._expert, self._asked_at = None, None
        self._pose = {name: float(seen[name]) for name in self.action_features}

    def _look(self, simulator: AlohaSimulator) -> None:
        """Brings its own simulation into the state of the twin."""
        seen = self._robot.get_observation()
        objects = [value for name, value in seen.items() if name.startswith("environment_state.")]
        simulator.show(np.array([seen[name] for name in self.action_features]), np.array(objects))

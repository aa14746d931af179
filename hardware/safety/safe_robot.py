"""A LeRobot robot behind the safety filter, for every LeRobot command: rollout, teleoperate, record, replay."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lerobot.robots.robot import Robot
from lerobot.robots.utils import make_robot_from_config

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.events import EventLog
from ebt_policy.hardware.safety.filter import SafetyConfig, SafetyEvent, SafetyFilter, State
from ebt_policy.hardware.safety.limits import JointLimits

_POSITION = ".pos"
logger = logging.getLogger(__name__)


class SafeRobot(Robot):
    """Observes as its robot does; commands pass through a SafetyFilter first, and what is sent is returned.

    LeRobot's loops send one command a tick, so the filter is ticked by them. When they stop, nothing more is sent and the
    servos stay at the last position that the filter allowed. Needs actions that are joint positions (`NAME.pos`).
    """

    config_class = SafeRobotConfig
    name = "ebt_safe"

    def __init__(
        self,
        config: SafeRobotConfig,
        robot: Robot | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[SafetyEvent], None] | None = None,
    ) -> None:
        """robot: an existing one instead of that of the config. on_event: must not block."""
        super().__init__(config)
        self.config, self._clock = config, clock
        self.robot = _made(config.robot) if robot is None else robot
        self.filter: SafetyFilter | None = None
        self.events: deque[SafetyEvent] = deque(maxlen=100)
        self._on_event = on_event
        self._log: EventLog | None = None
        self.joints = tuple(
            k.removesuffix(_POSITION) for k in self.robot.action_features if k.endswith(_POSITION)
        )
        others = [k for k in self.robot.action_features if not k.endswith(_POSITION)]
        if others or not self.joints:
            raise UserError(
                f"The safety filter guards joint positions (NAME.pos); {self.robot} is commanded by "
                f"{', '.join(self.robot.action_features) or 'nothing'}."
            )

    @property
    def observation_features(self) -> dict:
        return self.robot.observation_features

    @property
    def action_features(self) -> dict:
        return self.robot.action_features

    @property
    def cameras(self) -> Mapping[str, Any]:
        """LeRobot's commands look for it."""
        return getattr(self.robot, "cameras", {})

    @property
    def is_connected(self) -> bool:
        return self.robot.is_connected

    @property
    def is_calibrated(self) -> bool:
        return self.robot.is_calibrated

    def calibrate(self) -> None:
        self.robot.calibrate()

    def configure(self) -> None:
        self.robot.configure()

    def connect(self, calibrate: bool = True) -> None:
        """Connects the robot, reads its limits and where it stands. Raises UserError where it cannot be guarded."""
        self.robot.connect(calibrate=calibrate)
        try:
            self._arm()
        except BaseException:
            self.robot.disconnect()
            raise

    def _arm(self) -> None:
        config = self.config
        if config.event_log:
            self._log = EventLog(Path(config.event_log))
        ranges = joint_ranges(self.robot, self.joints) | {
            name: (config.low[name], config.high[name]) for name in config.low if name in config.high
        }
        missing = [name for name in self.joints if name not in ranges]
        if missing:
            raise UserError(
                f"{self.robot} does not say how far {', '.join(missing)} may move. Give --robot.low and --robot.high for them."
            )
        limits = JointLimits.of(
            self.joints,
            [ranges[name][0] for name in self.joints],
            [ranges[name][1] for name in self.joints],
            [config.velocity_of.get(name, config.velocity) for name in self.joints],
            [config.acceleration_of.get(name, config.acceleration) for name in self.joints],
            config.margin,
        )
        safety = SafetyConfig(
            watchdog_s=config.watchdog_s,
            ramp_s=config.ramp_s,
            speed_scale=config.speed_scale,
            start_gate=config.start_gate,
            following_error=config.following_error,
        )
        made = SafetyFilter(limits, 1 / config.fps, safety, self._clock, self._notice)
        self.filter = made
        self.begin()

    def begin(self) -> None:
        """Takes the arm over at rest where it stands, after connecting or when somebody else has moved it."""
        if self.filter is None:
            raise UserError(f"{self} is not connected.")
        observed = self.robot.get_observation()
        self.filter.begin([observed[name + _POSITION] for name in self.joints])

    def get_observation(self) -> dict[str, Any]:
        return self.robot.get_observation()

    def send_action(self, action: Mapping[str, Any]) -> dict[str, Any]:
        """Filters the action, sends what is allowed and returns that. A refused action is answered by holding still."""
        return self.drive([action.get(name + _POSITION, float("nan")) for name in self.joints])

    def drive(
        self, target: Sequence[float] | None, measured: Sequence[float] | None = None
    ) -> dict[str, Any]:
        """One tick of a control loop: sends what the filter makes of `target` (J,), in the order of `joints`; returns it.

        None: there is nothing to do, and without a command for the watchdog's time the arm holds. measured (J,): where the
        arm is, to see that it follows.
        """
        if self.filter is None:
            raise UserError(f"{self} is not connected.")
        if target is not None:
            self.filter.submit(target)
        positions = self.filter.tick(measured)
        allowed = {f"{name}{_POSITION}": float(p) for name, p in zip(self.joints, positions, strict=True)}
        if self.config.shadow:
            return allowed
        try:
            return dict(self.robot.send_action(allowed))
        except BaseException:
            self.filter.undo()
            raise

    def stop(self, reason: str) -> None:
        """Latches a stop: the arm brakes and stays until `reset`. May be called from any thread."""
        if self.filter is not None:
            self.filter.stop(reason)

    def hold(self, reason: str) -> None:
        """The arm brakes and waits for the next command. May be called from any thread."""
        if self.filter is not None:
            self.filter.hold(reason)

    def too_hot(self) -> str:
        """Which motor is hotter than `max_temperature`, "" for none, or where nobody can tell. Costs one reading of the bus."""
        allowed, bus = self.config.max_temperature, getattr(self.robot, "bus", None)
        if allowed is None or not hasattr(bus, "sync_read"):
            return ""
        try:
            found = bus.sync_read("Present_Temperature", normalize=False)
        except Exception:  # no such register, or a fault of the bus, which reading the joints will show
            return ""
        hottest = max(found, key=found.get, default="")
        if not hottest or found[hottest] <= allowed:
            return ""
        return f"motor '{hottest}' has {found[hottest]:g} °C; {allowed:g} are allowed. Let it cool down, and look for what it pushes against"

    @property
    def at_rest(self) -> bool:
        """Whether what is commanded stands still."""
        return self.filter is None or self.filter.at_rest

    def reset(self) -> None:
        """Lifts a stop."""
        if self.filter is not None:
            self.filter.reset()

    @property
    def stopped(self) -> bool:
        return self.filter is not None and self.filter.state is State.STOPPED

    def disconnect(self) -> None:
        """First the arm, then the log, whatever fails on the way."""
        self.filter = None
        try:
            self.robot.disconnect()
        finally:
            if self._log is not None:
                self._log.close()
                self._log = None

    def _notice(self, event: SafetyEvent) -> None:
        # What lasts comes at every tick, and a terminal can be slow: only what is new is printed.
        if not self.events or self.events[-1].kind != event.kind:
            logger.warning("safety: %s: %s", event.kind, event.detail)
        self.events.append(event)
        for listener in (self._on_event, self._log):
            if listener is not None:
                listener(event)


def _made(options: Mapping[str, Any]) -> Robot:
    """The robot that these options describe. Raises UserError where they describe none."""
    import draccus
    from lerobot.robots.config import RobotConfig

    try:
        return make_robot_from_config(draccus.decode(RobotConfig, dict(options)))
    except (draccus.utils.ParsingError, TypeError, ValueError) as error:
        raise UserError(
            f"--robot.robot describes no LeRobot robot ({error}). For example: "
            "--robot.robot='{type: so101_follower, port: /dev/ttyACM0, id: my_arm}'"
        ) from error


def joint_ranges(robot: Robot, joints: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Range of each joint in the units of its actions, where the robot, or LeRobot's motor bus and calibration, say it."""
    from lerobot.motors import MotorNormMode

    bus = getattr(robot, "bus", None)
    found: dict[str, tuple[float, float]] = dict(getattr(robot, "joint_ranges", {}))
    for name in joints:
        motor = getattr(bus, "motors", {}).get(name)
        calibration = getattr(bus, "calibration", {}).get(name)
        if motor is None:
            continue
        if motor.norm_mode is MotorNormMode.RANGE_M100_100:
            found[name] = (-100.0, 100.0)
        elif motor.norm_mode is MotorNormMode.RANGE_0_100:
            found[name] = (0.0, 100.0)
        elif motor.norm_mode is MotorNormMode.DEGREES and calibration is not None:
            # LeRobot measures degrees from the middle of the calibrated range.
            resolution = bus.model_resolution_table[motor.model] - 1
            half = (calibration.range_max - calibration.range_min) / 2 * 360 / resolution
            found[name] = (-half, half)
    return found

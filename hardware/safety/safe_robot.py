"""A LeRobot robot behind the safety filter, for every LeRobot command: rollout, teleoperate, record, replay."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lerobot.robots.robot import Robot
from lerobot.robots.utils import make_robot_from_config

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety import joint_options
from ebt_policy.hardware.safety.arms import (
    Range,
    arms_of,
    cameras_of,
    check_calibrated,
    check_calibration_files,
    joint_ranges,
    temperatures,
)
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.events import EventLog
from ebt_policy.hardware.safety.filter import SafetyConfig, SafetyEvent, SafetyFilter, StopLatch
from ebt_policy.hardware.safety.limits import JointLimits, Positions
from ebt_policy.hardware.safety.policy_match import compare, features_in_order, joints_in_order
from ebt_policy.hardware.safety.readings import ImplausibleReading, JointReadings, confirmed_above
from ebt_policy.hardware.safety.release import release
from ebt_policy.hardware.safety.reply_guard import ReplyGuard, guard_replies
from ebt_policy.inference.robot_contract import RobotContract, check_rate, read_robot_contract

_POSITION = ".pos"
_READS = 5  # tries to read where the arm stands before it is given up: one packet may get lost
_READ_PAUSE_S = 0.02
_FRESH_S = 0.1  # an older observation does not say where the arm is
HEALTH_S = 2.0  # between two looks at the motors' temperatures
logger = logging.getLogger(__name__)


class SafeRobot(Robot):
    """Observations are its robot's; commands pass through a SafetyFilter first, and what is sent is returned.

    LeRobot's loops send one command a tick, and each ticks the filter. When they end, nothing more is sent and the servos
    stay at the last position that the filter allowed. Actions must be joint positions (`NAME.pos`).
    """

    config_class = SafeRobotConfig
    name = "ebt_safe"

    def __init__(
        self,
        config: SafeRobotConfig,
        robot: Robot | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[SafetyEvent], None] | None = None,
        options: str = "--robot",
    ) -> None:
        """robot: an existing one instead of that of the config. on_event: must not block. options: where the user gives
        the options of this class, for messages. Raises UserError where the robot is not commanded by joint positions.
        """
        super().__init__(config)
        self.config, self._clock = config, clock
        self.robot = _made(config.robot) if robot is None else robot
        self.name = (
            self.robot.name
        )  # LeRobot writes it into datasets: the arm is the same with and without the filter
        self.filter: SafetyFilter | None = None
        self.events: deque[SafetyEvent] = deque(maxlen=100)
        self._on_event, self._options = on_event, options
        self._latch = StopLatch()  # a stop outlives the connection
        self._log: EventLog | None = None
        self.contract: RobotContract | None = None  # None: nothing is known of a policy
        self._guards: list[ReplyGuard] = []
        self._readings: JointReadings | None = None  # made when the ranges are known
        self._observed: tuple[float, list[float]] | None = None  # when, and where the joints were
        self._next_health = -math.inf
        self.joints = tuple(
            k.removesuffix(_POSITION) for k in self.robot.action_features if k.endswith(_POSITION)
        )
        others = [k for k in self.robot.action_features if not k.endswith(_POSITION)]
        if others or not self.joints:
            raise UserError(
                f"The safety filter guards joint positions (NAME.pos); {self.robot} is commanded by "
                f"{', '.join(self.robot.action_features) or 'nothing'}."
            )
        joint_options.check_names(self.joints, config, options)
        if config.policy:
            contract = read_robot_contract(checkpoint_folder(config.policy))
            check_rate(contract.fps, config.fps, "--robot.fps and --fps")
            self.expect(contract)

    def expect(self, contract: RobotContract) -> None:
        """Takes over what a policy's checkpoint says of its robot: names come in its order, and `connect` compares the rest.

        Raises UserError where the names are not those of this robot.
        """
        self.joints = joints_in_order(contract, self.joints)
        features_in_order(contract, self.robot.observation_features)
        self.contract = contract

    @property
    def observation_features(self) -> dict[str, Any]:
        """The robot's, in the order of the policy's state where that is known: LeRobot's loops go by this order."""
        features = self.robot.observation_features
        return dict(features) if self.contract is None else features_in_order(self.contract, features)

    @property
    def action_features(self) -> dict[str, Any]:
        """The robot's joints, in the order of the policy's actions where that is known."""
        features = self.robot.action_features
        return {name + _POSITION: features[name + _POSITION] for name in self.joints}

    @property
    def cameras(self) -> Mapping[str, Any]:
        """{name in the observations: camera}, of all arms. LeRobot's commands look for it."""
        return cameras_of(self.robot)

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
        """Connects the robot, reads its limits and where it stands. Nothing is left connected where that fails.

        calibrate: LeRobot may ask for a calibration on the terminal; without it a missing or foreign one is a UserError.
        Raises UserError where the robot cannot be guarded, and what the robot raises.
        """
        if not calibrate:
            check_calibration_files(self.robot)
        try:
            self.robot.connect(calibrate=calibrate)
            check_calibrated(self.robot)
            self._make_filter()
        except BaseException as error:
            try:
                release(self.robot)
            except UserError as left:
                raise UserError(f"{error} {left}") from error
            raise

    def ranges(self) -> dict[str, Range]:
        """{joint: (low, high)} of the joints whose range is known; see `joint_options.ranges`."""
        return joint_options.ranges(self.robot, self.joints, self.config, self._options)

    def limits(self) -> JointLimits:
        """Ranges, less their margins, and highest speeds of all joints. Raises UserError where a range is not known."""
        return joint_options.limits(self.robot, self.joints, self.config, self._options)

    def _make_filter(self) -> None:
        config = self.config
        if config.event_log:
            self._log = EventLog(Path(config.event_log))
        limits = self.limits()
        safety = SafetyConfig(
            watchdog_s=config.watchdog_s,
            ramp_s=config.ramp_s,
            speed_scale=SafetyConfig.speed_scale if config.speed_scale is None else config.speed_scale,
            start_gate=config.start_gate,
            following_error=joint_options.following_errors(self.robot, self.joints, config, self._options),
        )
        self._guards = [guard for arm in arms_of(self.robot) if (guard := guard_replies(arm.bus))]
        self._readings = JointReadings(self.joints, limits.low, limits.high)
        observed = self._read()
        for warning in self.compare(observed):
            self._notice(SafetyEvent(self._clock(), "differs", warning))
        self.filter = SafetyFilter(limits, 1 / config.fps, safety, self._clock, self._notice, self._latch)
        self.begin(observed)

    def compare(self, observed: Mapping[str, Any]) -> list[str]:
        """Warnings about where units, ranges and pose differ from the policy's data; see `policy_match.compare`."""
        if self.contract is None:
            return []
        features = {name: kind for name, kind in self.robot.observation_features.items() if name in observed}
        ranges = joint_ranges(self.robot, self.joints)
        return compare(self.contract, self.joints, ranges, features, observed)

    def begin(self, observed: Mapping[str, Any] | None = None) -> None:
        """Takes over the arm at rest where it stands: after connecting, or when somebody else has moved it.

        observed: its observation of this moment; without one the joints are read, several times if need be. Raises
        UserError where they cannot be read, or a joint is outside its range.
        """
        if self.filter is None:
            raise UserError(f"{self} is not connected.")
        observed = self._read() if observed is None else observed
        self.filter.begin([observed[name + _POSITION] for name in self.joints])

    def _read(self) -> dict[str, Any]:
        """An observation, wherever the joints are now, that the next one agrees with: the filter starts its motion from it, and refuses
        positions outside the range."""
        failed: Exception | None = None
        observed: dict[str, Any] | None = None
        for _ in range(_READS):
            try:
                observed = dict(self.robot.get_observation())
                if self._readings is None:
                    return observed
                self._readings.restart()
                self._readings.check(observed, self._clock())
                observed = dict(self.robot.get_observation())
                self._readings.check(observed, self._clock())
                return observed
            except ImplausibleReading:
                self._distrust()
            except Exception as error:  # each driver raises its own
                failed = error
                time.sleep(_READ_PAUSE_S)
        if observed is not None:
            return observed
        raise UserError(
            f"The joints cannot be read, tried {_READS} times: {failed} Check the arm's power and its cables."
        ) from failed

    def get_observation(self) -> dict[str, Any]:
        """Reads the robot, and again if a joint reports a position that it cannot have.

        Raises ImplausibleReading if it still does, and what the robot raises.
        """
        for read in range(1, _READS + 1):
            observed = dict(self.robot.get_observation())
            if self._readings is None:
                break
            try:
                self._readings.check(observed, self._clock())
                break
            except ImplausibleReading as error:
                self._distrust()
                if read == _READS:
                    raise
                self._notice(SafetyEvent(self._clock(), "implausible", str(error)))
        if self._readings is not None:
            self._observed = self._clock(), [float(observed[name + _POSITION]) for name in self.joints]
        return observed

    def _distrust(self) -> None:
        """What the buses still hold is discarded before they are asked again."""
        for guard in self._guards:
            guard.distrust()

    def send_action(self, action: Mapping[str, Any]) -> dict[str, Any]:
        """Filters the action, sends what is allowed and returns that. After a refused action the arm holds still.

        That the joints follow is seen by the last observation, if it is fresh, and motors' temperatures are looked at: LeRobot's
        loops do neither.
        """
        measured, now = None, self._clock()
        if self._observed is not None and now - self._observed[0] <= _FRESH_S:
            measured = self._observed[1]
        target = [action.get(name + _POSITION, float("nan")) for name in self.joints]
        sent = self.drive(target, measured)
        if now >= self._next_health:
            self._next_health = now + HEALTH_S
            hot = self.too_hot()
            if hot and not self.stopped:
                self.stop(hot)
        return sent

    def drive(
        self, target: Positions | None, measured: Positions | None = None, stamp: float | None = None
    ) -> dict[str, Any]:
        """One tick of a control loop: sends what the filter makes of `target` (J,), in the order of `joints`; returns it.

        target: None where there is nothing to do; without a command for the watchdog's time the arm holds. measured (J,):
        where the arm is, to see that it follows. stamp: the moment for which the target was chosen, in seconds of the clock;
        the filter refuses it when that is too long ago, or before the last one. LeRobot's loops give none.
        """
        if self.filter is None:
            raise UserError(f"{self} is not connected.")
        if target is not None:
            self.filter.submit(target, stamp)
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
        """The arm brakes and stays at rest until `reset`. May be called from any thread, and before connecting."""
        made = self.filter
        if made is not None:
            made.stop(reason)
        else:
            self._latch.set()

    def hold(self, reason: str) -> None:
        """The arm brakes and waits for the next command. May be called from any thread."""
        made = self.filter
        if made is not None:
            made.hold(reason)

    def too_hot(self) -> str:
        """Says which motor is hotter than `max_temperature`; "" for none, or if it cannot be read.

        Reads each bus once, and a second time if a temperature is too high: only what both say is believed.
        """
        allowed = self.config.max_temperature
        if allowed is None:
            return ""
        found = confirmed_above(allowed, lambda: temperatures(self.robot), self._distrust)
        hottest = max(found, key=found.__getitem__, default="")
        if not hottest:
            return ""
        return (
            f"motor '{hottest}' has {found[hottest]:g} °C; {allowed:g} are allowed. Let it cool down, and look for what it "
            "pushes against"
        )

    @property
    def at_rest(self) -> bool:
        """Whether what is commanded stands still."""
        return self.filter is None or self.filter.at_rest

    def rests(self, seconds: float) -> bool:
        """Whether what is commanded has stood still for so long."""
        return self.filter is None or self.filter.rests(seconds)

    def reset(self) -> None:
        """Ends a stop."""
        if self.filter is not None:
            self.filter.reset()
        elif (token := self._latch.token) is not None:
            self._latch.lift(token)

    @property
    def stopped(self) -> bool:
        return self._latch.is_set

    def disconnect(self) -> None:
        """First the arm, then the log, whatever fails on the way. Raises UserError where motors are still powered."""
        self.filter = None
        try:
            release(self.robot)
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


def checkpoint_folder(policy: str) -> Path:
    """The pretrained_model folder of a run, a checkpoint, or shipped:NAME. Raises UserError where there is none."""
    from ebt_policy.inference.runner import find_checkpoint  # imports torch

    return find_checkpoint(policy)


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

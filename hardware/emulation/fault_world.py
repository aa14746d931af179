"""A simulated deployment for fault injection: arm, cameras, policy and clock of one control loop.

Time is simulated, so that every fault befalls the same tick and takes the same time wherever it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot

from ebt_policy.hardware.control.clock import SteppedClock
from ebt_policy.hardware.control.commands import Command, Commands
from ebt_policy.hardware.control.episode import LoopConfig, Outcome
from ebt_policy.hardware.control.loop import ControlLoop
from ebt_policy.hardware.control.observation_source import RobotObservationSource
from ebt_policy.hardware.control.planning import Answer, NoPlan, Plan, PlanRequest
from ebt_policy.hardware.emulation.fault_leader import FaultyLeader
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.safe_robot import SafeRobot
from ebt_policy.hardware.sensing.camera_stream import Frame
from ebt_policy.hardware.sensing.observer import Observer
from ebt_policy.hardware.sensing.streams import Streams
from ebt_policy.hardware.takeover.device import JointDevice
from ebt_policy.hardware.takeover.leader import InlineLeader, Leader
from ebt_policy.hardware.takeover.takeover import LeaderTakeover

HZ, FPS, HORIZON, EXECUTE = 50.0, 25.0, 16, 8
JOINTS = ("base", "elbow", "wrist")
RANGE, VELOCITY, ACCELERATION = 100.0, 120.0, 600.0  # degrees, and per second
WATCHDOG_S = 0.2
LATENCY_S = 0.06  # of a usual plan
# The fault comes when the joints are fastest.
FAULT_AT_S, END_S = 2.5, 8.5
PICTURE_S = 1 / 30


class FaultyArm(Robot):
    """A robot of three joints that reach each command at once, unless a fault is injected."""

    config_class, name = RobotConfig, "faulty_arm"

    def __init__(self, now: Callable[[], float]) -> None:  # LeRobot's own set-up would make folders
        self._now = now
        self.positions: np.ndarray = np.zeros(len(JOINTS))
        self.sent: list[tuple[float, np.ndarray]] = []
        self.read_error = self.send_error = ""
        self.reading: np.ndarray | None = None  # instead of the truth
        self.blocked = False
        self.cameras: dict[str, Any] = {}
        self.temperature = 40
        self.bus = SimpleNamespace(motors={}, calibration={}, sync_read=self._temperatures)

    def _temperatures(self, register: str, normalize: bool) -> dict[str, int]:
        return dict.fromkeys(JOINTS, self.temperature)

    def __str__(self) -> str:
        return "the simulated arm"

    @property
    def observation_features(self) -> dict:
        pictures = dict.fromkeys(("front", "wrist_camera"), (48, 64, 3))
        return self.action_features | pictures

    @property
    def action_features(self) -> dict:
        return {f"{name}.pos": float for name in JOINTS}

    @property
    def joint_ranges(self) -> dict[str, tuple[float, float]]:
        return dict.fromkeys(JOINTS, (-RANGE, RANGE))

    @property
    def is_connected(self) -> bool:
        return True

    @property
    def is_calibrated(self) -> bool:
        return True

    def connect(self, calibrate: bool = True) -> None: ...

    def disconnect(self) -> None: ...

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def get_observation(self) -> dict[str, Any]:
        if self.read_error:
            raise ConnectionError(self.read_error)
        shown = self.positions if self.reading is None else self.reading
        return {f"{name}.pos": float(x) for name, x in zip(JOINTS, shown, strict=True)}

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        if self.send_error:
            raise ConnectionError(self.send_error)
        command = np.array([action[f"{name}.pos"] for name in JOINTS])
        self.sent.append((self._now(), command))
        if not self.blocked:
            self.positions = command
        return dict(action)


class FaultyCamera:
    """Replaces a CameraStream: a new picture every PICTURE_S, unless a fault is injected."""

    max_age_s, frozen_s = 0.15, 1.0

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost: str | None = None
        self.frozen = self.stuck = False
        self.delay_s = 0.0
        self._frame = Frame(np.zeros((48, 64, 3), np.uint8), 0.0, 0)

    def start(self) -> None: ...

    def stop(self) -> bool:
        return True

    def latest(self) -> Frame:
        return self._frame

    def tick(self, now: float) -> None:
        stamp = now - self.delay_s
        if not self.stuck and stamp - self._frame.stamp >= PICTURE_S - 1e-9:
            self._frame = Frame(self._frame.image, stamp, self._frame.sequence + 1)


class FaultyPlanService:
    """Replaces the planner thread: plans swing all joints and come LATENCY_S later. change(plan) returns what comes instead."""

    busy = False

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.latency_s: float = LATENCY_S
        self.change: Callable[[Plan], Answer] = lambda plan: plan
        self._answer: Answer | None = None
        self._due = np.inf

    def submit(self, request: PlanRequest) -> None:
        stamp = request.frames[-1].stamp
        times = stamp + np.arange(HORIZON) / FPS
        swing = 30 * np.sin(2 * np.pi * 0.4 * times)[:, None] * np.array([1.0, -0.7, 0.5])
        self.busy, self._due = True, self._now() + self.latency_s
        try:
            answer = self.change(Plan(swing, stamp, EXECUTE, self.latency_s))
        except RuntimeError as error:  # as `answered` does for a real planner
            answer = NoPlan(f"{type(error).__name__}: {error}")
        self._answer = answer

    def poll(self) -> Answer | None:
        if not self.busy or self._now() < self._due - 1e-9:
            return None
        answer, self._answer, self.busy = self._answer, None, False
        return answer

    def close(self, timeout_s: float = 2.0) -> None: ...


class Cell:
    """A control loop with its simulated arm, cameras, policy, operator and clock."""

    def __init__(self, operator: bool = False) -> None:
        """operator: asks in the first tick, and drives as soon as the leader has the arm's pose."""
        self.clock = SteppedClock(HZ, self._step)
        self.arm = FaultyArm(self.clock.now)
        self.cameras = [FaultyCamera("front"), FaultyCamera("wrist_camera")]
        self.plan_service = FaultyPlanService(self.clock.now)
        self.commands, self.events = Commands(), list[Any]()
        self.leader = FaultyLeader(JOINTS, self.clock.now)
        if operator:
            self.commands.post(Command.TAKE_OVER)  # it asks at once, and takes over at the second
            self.commands.post(Command.TAKE_OVER)
        self.lift_at = END_S
        self.fault: Callable[[Cell], None] = lambda cell: None
        self.lift: Callable[[Cell], None] = lambda cell: None
        self._done: set[str] = set()
        options = SafeRobotConfig(
            robot={},
            fps=HZ,
            velocity=VELOCITY,
            acceleration=ACCELERATION,
            speed_scale=1.0,
            watchdog_s=WATCHDOG_S,
            ramp_s=0.5,
            following_error=0.075,
        )
        self.safe = SafeRobot(options, self.arm, self.clock.now, self.events.append)
        self.safe.connect()
        shapes: dict[str, tuple[int, ...]] = {"observation.state": (len(JOINTS),)}
        shapes |= {f"observation.images.{camera.name}": (3, 48, 64) for camera in self.cameras}
        observer = Observer(shapes, self.arm.observation_features, len(JOINTS), JOINTS)
        streams = Streams(self.cameras, max_skew_s=0.1, clock=self.clock.now)  # type: ignore[arg-type]
        self.loop = ControlLoop(
            self.safe,
            self.plan_service,
            RobotObservationSource(observer, streams, 1 / FPS),
            LoopConfig(fps=FPS, control_hz=HZ, patience_s=1.5),
            self.clock,
            self.commands,
            self.events.append,
            takeover=self._takeover() if operator else None,
        )

    def _takeover(self) -> LeaderTakeover:
        limits = self.safe.limits()
        leader = Leader(self.leader, JointDevice(JOINTS), JOINTS, limits.high - limits.low, HZ)
        return LeaderTakeover(InlineLeader(leader, self.clock), self.safe.limits, self.events.append)

    def run(self, fault: Callable[[Cell], None], lift: Callable[[Cell], None], lasts: float) -> Outcome:
        """Runs END_S seconds, with a fault from FAULT_AT_S on that lasts `lasts` seconds."""
        self.fault, self.lift, self.lift_at = fault, lift, FAULT_AT_S + lasts
        return self.loop.run(END_S)

    def _step(self) -> None:
        now = self.clock.now()
        for camera in self.cameras:
            camera.tick(now)
        acts = [(FAULT_AT_S, "fault", self.fault), (self.lift_at, "lift", self.lift)]
        if self.loop.takeover is not None:  # the time in which a human drives does not count
            acts.append((END_S, "end", lambda cell: cell.commands.post(Command.FAILURE)))
        for at, name, act in acts:
            if now >= at - 1e-9 and name not in self._done:
                self._done.add(name)
                act(self)


@dataclass(frozen=True)
class Motion:
    """How the commands moved.

    held_s: seconds from the fault until they stood still; None if they did not before the fault was lifted. resumed: they
    moved again afterwards. excess: how far they went beyond a limit, as a fraction of the limit; 0 is none.
    """

    held_s: float | None
    resumed: bool
    excess: float


def motion(sent: list[tuple[float, np.ndarray]], since: float, lifted: float) -> Motion:
    """Computes it from the commands (time, positions (J,)) that reached the arm, one per tick. since, lifted: of the fault."""
    times = np.array([time for time, _ in sent])
    positions = np.stack([position for _, position in sent])
    steps, elapsed = np.diff(positions, axis=0), np.diff(times)[:, None]
    # A late tick moves the arm no further than any other; after a lost tick it starts from rest.
    usual = np.clip(elapsed, 1e-9, 1 / HZ)
    speed = steps / usual
    together = (elapsed < 1.5 / HZ).ravel()
    push = (np.diff(speed, axis=0) / usual[1:])[together[1:] & together[:-1]]
    excess = max(
        float(np.abs(positions).max() / RANGE),
        float(np.abs(speed).max(initial=0) / VELOCITY),
        float(np.abs(push).max(initial=0) / ACCELERATION),
    )
    moving = times[1:][np.abs(steps).max(1) > 1e-9]
    during = moving[(moving > since) & (moving <= lifted)]
    still_at = float(during[-1]) if len(during) else since
    held = still_at - since if lifted - still_at > 5 / HZ else None
    return Motion(held, bool((moving > lifted).any()), max(0.0, excess - 1 - 1e-6))


def instead(**changes: Any) -> Callable[[Plan], Plan]:
    """Returns a function that changes these fields of a plan."""
    return lambda plan: replace(plan, **changes)


NOWHERE = Path("/dev/full")  # every write fails: no space left

"""A control loop in simulated time: an arm with two joints and a gripper, and a slow policy."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from fake_arm import FakeArm, FakeArmConfig
from fake_leader import FakeLeader

from ebt_policy.hardware.control.clock import SteppedClock
from ebt_policy.hardware.control.commands import Command, Commands
from ebt_policy.hardware.control.episode import LoopConfig, Outcome, Sent
from ebt_policy.hardware.control.loop import ControlLoop
from ebt_policy.hardware.control.planning import Answer, Observation, Plan, PlanRequest, answered
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.safe_robot import SafeRobot
from ebt_policy.hardware.takeover.device import JointDevice
from ebt_policy.hardware.takeover.leader import InlineLeader, Leader
from ebt_policy.hardware.takeover.takeover import LeaderTakeover

HZ = 50.0
TICK = 1 / HZ
Timed = Callable[[float], object]


def position(time: float) -> np.ndarray:
    """Where the policy of these tests wants the arm at a time: each joint at a speed of its own."""
    return np.array([5.0 * time, 10.0 - 2.0 * time, 50.0 + 4.0 * time])


def stands(told: np.ndarray) -> bool:
    return len(told) > 0 and bool((told == told[0]).all())


def rows(stamp: float, n: int, fps: float) -> np.ndarray:
    return np.array([position(stamp + k / fps) for k in range(n)])


class Arm(FakeArm):
    """Keeps what it is told, with the time; `reads(t)` and `sends(t)` say whether its bus works."""

    simulated = True  # so that a test may leave out limits

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__(FakeArmConfig())
        self._now = now
        self.told: list[tuple[float, np.ndarray]] = []
        self.reads: Callable[[float], bool] = lambda t: True
        self.sends: Callable[[float], bool] = lambda t: True

    def get_observation(self) -> dict:
        if not self.reads(self._now()):
            raise ConnectionError("no status packet")
        return super().get_observation()

    def send_action(self, action: dict) -> dict:
        if not self.sends(self._now()):
            raise ConnectionError("port is gone")
        self.told.append((self._now(), np.array(list(action.values()))))
        return super().send_action(action)

    def went(self, begin: float, end: float = np.inf) -> np.ndarray:
        """What it was told from `begin` to before `end`."""
        return np.array([positions for t, positions in self.told if begin - 1e-6 <= t < end - 1e-6])


class Policy:
    """A planner whose plans lead along `position`; `answer` may be replaced. Keeps what it was asked."""

    needs, action_size = {}, 3

    def __init__(self, n: int = 20, fps: float = HZ, execute: int | None = None) -> None:
        self.n, self.fps, self.execute = n, fps, n if execute is None else execute
        self.asked: list[PlanRequest] = []
        self.answer: Callable[[PlanRequest], Answer] = self.good

    def good(self, request: PlanRequest, **changes) -> Plan:
        stamp = request.frames[-1].stamp
        return Plan(
            **{
                "actions": rows(stamp, self.n, self.fps),
                "stamp": stamp,
                "execute": self.execute,
                "seconds": 0.0,
            }
            | changes
        )

    def plan(self, request: PlanRequest) -> Answer:
        self.asked.append(request)
        return self.answer(request)

    def close(self) -> None:
        """Nothing to give back."""


class SlowPlanService:
    """A PlannerThread in simulated time: `latency(t)` seconds to answer what was asked at t."""

    def __init__(self, planner: Policy, now: Callable[[], float], latency: Callable[[float], float]) -> None:
        self._planner, self._now, self._latency = planner, now, latency
        self._answer: Answer | None = None
        self._ready, self.busy, self.asked_at = 0.0, False, list[float]()

    def submit(self, request: PlanRequest) -> None:
        assert not self.busy
        self._answer = answered(self._planner, request)
        self.asked_at.append(self._now())
        self.busy, self._ready = True, self._now() + self._latency(self._now())

    def poll(self) -> Answer | None:
        if not self.busy or self._now() < self._ready - 1e-6:
            return None
        self.busy = False
        return self._answer

    def close(self, timeout_s: float = 2.0) -> None:
        """No thread to end."""


@dataclass
class World:
    """What happened is in `arm`, `policy`, `events` and `sent`. script: time -> what happens then, beside the loop.

    latency: seconds of a thought, by when it begins. sees(t): why the cameras see nothing, "" where they see.
    """

    policy: Policy = field(default_factory=Policy)
    latency: Callable[[float], float] = lambda t: 0.0
    sees: Callable[[float], str] = lambda t: ""
    script: dict[float, Callable[[], None]] = field(default_factory=dict)
    options: dict[str, float] = field(default_factory=dict)
    safety: dict[str, float | None] = field(default_factory=dict)
    finished: Callable[[], bool] = lambda: False
    motors: bool | None = None  # of the operator's leader; None: there is no leader

    kind = Arm

    def __post_init__(self) -> None:
        config = LoopConfig(**{"fps": HZ, "control_hz": HZ, "patience_s": 1.0} | self.options)
        self.clock = SteppedClock(config.control_hz, self._step)
        self.arm = self.kind(self.clock.now)
        self.events: list = []
        self.sent: list[Sent] = []
        self.commands = Commands()
        # Fast enough to be where it is told at every tick.
        quick = {
            "velocity": 1e4,
            "acceleration": 1e8,
            "margin": 0.0,
            "ramp_s": 0.0,
            "speed_scale": 1.0,
            "watchdog_s": 0.2,
            "start_gate": None,
        }
        safety = SafeRobotConfig(robot={}, fps=config.control_hz, **quick | self.safety)
        self.safe = SafeRobot(safety, self.arm, self.clock.now, self.events.append)
        self.safe.connect()
        self.plan_service = SlowPlanService(self.policy, self.clock.now, self.latency)
        self.loop = ControlLoop(
            self.safe,
            self.plan_service,
            lambda floats, stamp: (
                self.sees(stamp) or Observation({"state": np.array(list(floats.values()))}, stamp)
            ),
            config,
            self.clock,
            self.commands,
            self.events.append,
            self.sent.append,
            self.finished,
            None if self.motors is None else self._leader(self.motors, config.control_hz),
        )

    def _leader(self, motors: bool, hz: float) -> LeaderTakeover:
        self.leader = FakeLeader(self.clock.now, motors)
        self.leader.connect()
        limits = self.safe.limits()
        widths = limits.high - limits.low
        reader = Leader(self.leader, JointDevice(self.safe.joints), self.safe.joints, widths, hz)
        return LeaderTakeover(InlineLeader(reader, self.clock), self.safe.limits, self.events.append)

    def run(self, seconds: float = 2.0) -> Outcome:
        return self.loop.run(seconds)

    def post(self, command: Command) -> Callable[[], None]:
        return lambda: self.commands.post(command)

    def kinds(self) -> list[str]:
        return [event["kind"] if isinstance(event, dict) else event.kind for event in self.events]

    def _step(self) -> None:
        for time in [t for t in self.script if t <= self.clock.now() + 1e-6]:
            self.script.pop(time)()

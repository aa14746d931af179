"""Faults of the servo bus in real time: the control loop on LeRobot's SO-101 driver and emulated servos."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.hardware.control.clock import WallClock
from ebt_policy.hardware.control.episode import LoopConfig, Outcome
from ebt_policy.hardware.control.loop import ControlLoop
from ebt_policy.hardware.control.observation_source import RobotObservationSource
from ebt_policy.hardware.control.planning import Plan, PlannerThread, PlanRequest
from ebt_policy.hardware.emulation.fault_list import ERROR, GO_ON, HOLD
from ebt_policy.hardware.emulation.fault_world import WATCHDOG_S
from ebt_policy.hardware.emulation.feetech_bus import EmulatedBus
from ebt_policy.hardware.emulation.feetech_faults import FaultKind
from ebt_policy.hardware.emulation.feetech_protocol import ErrorBit
from ebt_policy.hardware.emulation.feetech_so101 import JOINTS, driver, in_the_middle
from ebt_policy.hardware.safety.config_safe_robot import SafeRobotConfig
from ebt_policy.hardware.safety.safe_robot import SafeRobot
from ebt_policy.hardware.sensing.observer import Observer
from ebt_policy.hardware.sensing.streams import Streams

HZ, FPS, TICKS = 50.0, 25.0, 16
FAULT_AT_S, LASTS_S, END_S = 2.0, 1.2, 5.0
IMPOSSIBLE = 110.0  # degrees; the arm's range ends at 93
Act = Callable[[EmulatedBus], Any]


@dataclass(frozen=True)
class BusCase:
    """A fault and the reaction expected. lasts: seconds; the loop ends an episode after 1.5 s without the bus."""

    name: str
    reaction: str
    fault: Act
    lasts: float = LASTS_S


CASES = (
    BusCase("bus: one reply lost", GO_ON, lambda bus: bus.faults.add(FaultKind.DROP, [3], packets=1)),
    BusCase("bus: one reply corrupted", GO_ON, lambda bus: bus.faults.add(FaultKind.CORRUPT, [2], packets=1)),
    BusCase("bus: noise on the line, once", GO_ON, lambda bus: bus.faults.add(FaultKind.GARBAGE, packets=1)),
    BusCase(
        "bus: replies of one motor 5 ms late for 1.2 s",
        HOLD,
        lambda bus: bus.faults.add(FaultKind.DELAY, [4], seconds=0.005),
    ),
    BusCase(
        "bus: the adapter stalls for 60 ms, once",
        GO_ON,
        lambda bus: bus.faults.add(FaultKind.STALL, packets=1, seconds=0.06),
    ),
    BusCase("bus: no reply for 1.2 s", HOLD, lambda bus: bus.faults.add(FaultKind.DROP)),
    BusCase("bus: one motor dead for 1.2 s", HOLD, lambda bus: bus.faults.add(FaultKind.DEAD, [3])),
    BusCase("bus: one motor dead for good", ERROR, lambda bus: bus.faults.add(FaultKind.DEAD, [5]), 9.0),
    BusCase(
        "bus: a motor reports overload",
        GO_ON,
        lambda bus: bus.faults.add(FaultKind.ERROR, [2], bits=ErrorBit.OVERLOAD),
    ),
)


class _Swing:
    """A planner without a policy: all joints swing by 15 degrees. It keeps the states that no joint can have."""

    needs: Mapping[str, tuple[int, ...]] = {"observation.state": (len(JOINTS),)}
    action_size = len(JOINTS)

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.impossible: list[np.ndarray] = []

    def plan(self, request: PlanRequest) -> Plan:
        state = request.frames[-1].values["observation.state"]
        if np.abs(state).max() > IMPOSSIBLE:
            self.impossible.append(state)
        stamp = request.frames[-1].stamp
        times = stamp - self._began + np.arange(TICKS) / FPS
        swing = 15 * np.sin(2 * np.pi * 0.4 * times)[:, None] * np.ones(len(JOINTS))
        swing[:, -1] += 50  # the gripper goes from 0 to 100
        return Plan(swing, stamp, TICKS // 2, 0.0)

    def close(self) -> None: ...


@dataclass(frozen=True)
class BusRun:
    """What an episode on the emulated bus did.

    told: events of loop and filter, from the fault on. held_s, resumed: as in `fault_world.Motion`. stopped: the filter's
    stop is latched. impossible: number of states that reached the policy and that no joint can have.
    """

    outcome: Outcome
    told: list[str]
    held_s: float | None
    resumed: bool
    stopped: bool
    impossible: int


def run_bus_case(case: BusCase) -> BusRun:
    """Runs an episode of END_S seconds in real time. Raises ModuleNotFoundError without LeRobot's extra for Feetech servos."""
    events: list[Any] = []
    sent: list[tuple[float, np.ndarray]] = []
    clock = WallClock()
    with tempfile.TemporaryDirectory() as folder, EmulatedBus(line_timing=True) as bus:
        in_the_middle(bus)
        robot = driver(bus.port, Path(folder))
        send = robot.send_action

        def remembered(action: Any) -> Any:
            done = send(action)
            sent.append((clock.now(), np.array(list(action.values()))))
            return done

        robot.send_action = remembered  # type: ignore[method-assign]
        arm = SafeRobot(
            SafeRobotConfig(
                robot={}, fps=HZ, speed_scale=1.0, watchdog_s=WATCHDOG_S, ramp_s=0.3, start_gate=60
            ),
            robot,
            clock.now,
            events.append,
        )
        arm.connect()
        planner = _Swing()
        observer = Observer(planner.needs, robot.observation_features, len(JOINTS), arm.joints)
        loop = ControlLoop(
            arm,
            PlannerThread(planner),
            RobotObservationSource(observer, Streams([], 1.0), 1 / FPS),
            LoopConfig(fps=FPS, control_hz=HZ, patience_s=1.5),
            clock,
            on_event=events.append,
        )
        begin = clock.now()
        faults: list[Any] = []
        timers = [
            threading.Timer(FAULT_AT_S, lambda: faults.append(case.fault(bus))),
            threading.Timer(FAULT_AT_S + case.lasts, bus.faults.lift),
        ]
        for timer in timers:
            timer.start()
        try:
            outcome = loop.run(END_S)
            stopped = arm.stopped
        finally:
            for timer in timers:
                timer.cancel()
            bus.faults.lift()
            loop.plan_service.close()
            arm.disconnect()
    since, lifted = begin + FAULT_AT_S, begin + min(FAULT_AT_S + case.lasts, outcome.seconds)
    moving = [b[0] for a, b in pairwise(sent) if np.abs(b[1] - a[1]).max() > 1e-9]
    during = [at for at in moving if since < at <= lifted]
    still_at = max(during, default=since)
    told = [
        f"{e.kind}: {e.detail}"
        for e in events
        if not isinstance(e, dict) and e.time >= since and e.detail != "the episode is over"
    ]
    held = still_at - since if lifted - still_at > 0.2 else None
    resumed = any(at > lifted for at in moving)
    return BusRun(outcome, told, held, resumed, stopped, len(planner.impossible))

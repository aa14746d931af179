"""`ebt-policy deploy`: composes robot, cameras, policy, safety filter, loop and records from their options."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.robots.robot import Robot
from lerobot.teleoperators.teleoperator import Teleoperator

from ebt_policy import provenance
from ebt_policy.errors import UserError
from ebt_policy.hardware.body import connect, fitted, make_body
from ebt_policy.hardware.config_deploy import DeployConfig, PolicyOptions
from ebt_policy.hardware.control.clock import Clock
from ebt_policy.hardware.control.commands import (
    HELP,
    HELP_TAKEOVER,
    Command,
    Commands,
    from_keys,
    from_signals,
)
from ebt_policy.hardware.control.episode import LoopConfig, Outcome, Sent
from ebt_policy.hardware.control.loop import ControlLoop
from ebt_policy.hardware.control.observation_source import RobotObservationSource
from ebt_policy.hardware.control.planning import InlinePlanService, Planner, PlannerThread, Seeded
from ebt_policy.hardware.planners.make import contract_of, holds, make_planner, named
from ebt_policy.hardware.recording.recording import Recording
from ebt_policy.hardware.safety.events import EventLog
from ebt_policy.hardware.safety.filter import SafetyEvent
from ebt_policy.hardware.safety.safe_robot import SafeRobot
from ebt_policy.hardware.sensing.observer import Observer, state_numbers
from ebt_policy.hardware.sim.sim_robot import SimRobot
from ebt_policy.hardware.takeover.announcer import KINDS, Announcer
from ebt_policy.hardware.takeover.make import make_leader
from ebt_policy.hardware.takeover.takeover import LeaderTakeover

OnPlan = Callable[[Mapping[str, Any]], None]
OnTakeover = Callable[[SafetyEvent], None]
PRIORITY = -15  # "nice" of the loop's thread
SWITCH_S = 5e-4  # Python hands the processor from thread to thread this often: by default only every 5 ms


@dataclasses.dataclass(frozen=True)
class Deployed:
    """All parts of a deployment, connected; nothing moves yet."""

    arm: SafeRobot
    loop: ControlLoop
    clock: Clock
    planner: Planner
    twin: SimRobot | None
    recording: Recording | None


def deploy(
    config: DeployConfig,
    on_plan: OnPlan | None = None,
    on_frame: Callable[[Sent], None] | None = None,
    robot: Robot | None = None,
    teleop: Teleoperator | None = None,
    on_takeover: OnTakeover | None = None,
) -> list[Outcome]:
    """Runs `config.episodes` episodes and writes what happened to the run folder; one line for each is printed.

    on_plan: called with the record of every plan; on_frame: with every tick of the policy; on_takeover: with every
    event of a takeover; they must not block.
    robot, teleop: used instead of those of the options. Raises UserError, before anything moves, for what the user can correct, and
    after the last episode where motors stay powered or recording has failed; that begins no further episode.
    """
    output = Path(config.output)
    commands, outcomes = Commands(), list[Outcome]()
    with deploying(config, commands, on_plan, on_frame, robot, teleop, on_takeover) as deployed:
        takeover = "" if deployed.loop.takeover is None else f". {HELP_TAKEOVER}"
        print(f"{HELP}{takeover}. Ctrl-C ends in order. Events: {output / 'events.jsonl'}")
        with from_signals(commands), from_keys(commands), undisturbed():
            for episode in range(config.episodes):
                if deployed.twin is not None:
                    deployed.twin.reset(config.seed + episode)
                if deployed.recording is not None and deployed.recording.failed:
                    break  # closing it says why
                if episode and not (
                    _obeyed(commands, deployed.arm)
                    and _may_go_on(config, deployed, commands)
                    and _obeyed(commands, deployed.arm)
                ):
                    break
                if isinstance(deployed.planner, Seeded):
                    deployed.planner.seed = config.seed + episode
                outcome = _recorded_to_the_end(config, deployed)
                outcome.success = _judged(outcome, deployed.twin)
                outcomes.append(outcome)
                if deployed.recording is not None:
                    deployed.recording.end(outcome.success)
                print(_line(episode, outcome, deployed.twin), flush=True)
                _write(output / "episodes.json", outcomes)
                if outcome.end == "quit":
                    break
    return outcomes


@contextlib.contextmanager
def deploying(
    config: DeployConfig,
    commands: Commands,
    on_plan: OnPlan | None = None,
    on_frame: Callable[[Sent], None] | None = None,
    robot: Robot | None = None,
    teleop: Teleoperator | None = None,
    on_takeover: OnTakeover | None = None,
) -> Iterator[Deployed]:
    """Connects everything in order, and disconnects in the reverse order, whatever happens."""
    with contextlib.ExitStack() as stack:
        output = Path(config.output)
        output.mkdir(parents=True, exist_ok=True)
        options = provenance.plain(dataclasses.asdict(config)) | {"robot_type": config.robot.type}
        provenance.write_json(output / "run.json", provenance.run_record() | {"config": options})
        log = EventLog(output / "events.jsonl")
        stack.callback(log.close)

        body = make_body(config, log, robot, contract_of(config.policy))
        _check_attended(config, body.twin)
        arm, twin, clock, fps = body.arm, body.twin, body.clock, body.fps
        with_leader = config.teleop is not None or teleop is not None
        planner = make_planner(
            _asking(config.policy, with_leader),
            fps * body.speed,
            None if config.other_fps else config.fps,
            holds(state_numbers(body.features), arm.joints),
        )
        told = getattr(planner, "contract", None)  # a server tells only now what its policy expects
        if told is not None:
            body = fitted(body, named(told, config.policy), config.other_fps)
        connect(arm)
        stack.callback(arm.disconnect)
        if not 0 <= config.smooth_s <= 1:
            raise UserError(f"--smooth_s is {config.smooth_s}; expected seconds from 0 (off) to 1.")
        if config.ask_timeout_s <= 0:
            raise UserError(f"--ask_timeout_s is {config.ask_timeout_s}; expected seconds above 0.")
        leader = make_leader(config, body, commands.post, teleop)
        if leader is not None:
            stack.callback(leader.close)
            if not (config.policy.calibration or getattr(planner, "alarms", False)):
                needed = "serve --calibration" if config.policy.server else "--policy.calibration"
                print(
                    f"Without {needed} the policy raises no alarms: it asks only where it has no plan, or you press t."
                )
            if config.record.root and not body.simulated_time and body.speed < 1:
                print(
                    f"--speed is {body.speed:g}: what you correct is recorded as if the arm had been {1 / body.speed:g} times as fast. "
                    "Move as slowly as the policy does, or give --speed=1."
                )
        announcer = Announcer(leader is not None)
        stack.callback(announcer.close)
        stack.enter_context(body.streams)
        shapes = {name: tuple(shape) for name, shape in planner.needs.items()}
        observer = Observer(shapes, body.features, planner.action_size, arm.joints)
        plan_service = InlinePlanService(planner) if body.simulated_time else PlannerThread(planner)
        stack.callback(plan_service.close)

        recording: Recording | None = None

        def on_event(event: Any) -> None:
            log(event)
            announcer(event)
            if getattr(event, "kind", "") in KINDS:
                if recording is not None:
                    recording.note(dataclasses.asdict(event))
                if on_takeover is not None:
                    on_takeover(event)
            if isinstance(event, Mapping) and event["kind"] == "plan":
                for listener in (on_plan, None if recording is None else recording.note):
                    if listener is not None:
                        listener(event)

        if config.record.root:
            recording = Recording(
                config.record,
                fps,
                observer,
                planner.needs,
                arm.joints,
                arm.name,
                on_event,
                interventions=leader is not None,
                patient=body.simulated_time,
            )
            stack.callback(recording.close)

        def on_sent(sent: Sent) -> None:
            for listener in (on_frame, None if recording is None else recording.add):
                if listener is not None:
                    listener(sent)

        loop = ControlLoop(
            arm,
            plan_service,
            RobotObservationSource(observer, body.streams, 1 / (fps * body.speed), config.streams.aligned),
            LoopConfig(
                fps * body.speed,
                body.control_hz,
                config.streams.actuation_s,
                config.blend_s,
                config.smooth_s,
                np.inf if body.simulated_time else config.deadline_s,
                config.patience_s,
                config.ask_timeout_s,
                LoopConfig.settle_s if twin is None else 0.0,
            ),
            clock,
            commands,
            on_event,
            on_sent,
            (lambda: twin.finished) if twin is not None else (lambda: False),
            None if leader is None else LeaderTakeover(leader, arm.limits, on_event),
        )
        yield Deployed(arm, loop, clock, planner, twin, recording)


def _asking(options: PolicyOptions, with_leader: bool) -> PolicyOptions:
    """With somebody to ask, an alarm asks at once, unless the options say otherwise."""
    if with_leader and options.ladder is None:
        return dataclasses.replace(options, ladder=["ask"])
    return options


def _recorded_to_the_end(config: DeployConfig, deployed: Deployed) -> Outcome:
    """One episode. What was recorded of it is saved also when the program is interrupted."""
    try:
        return deployed.loop.run(config.seconds)
    except BaseException:
        if deployed.recording is not None:
            deployed.recording.end(None)
        raise


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Fewer pauses by Python: no garbage collection, frequent thread switches, and a higher priority where that is allowed."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    thread, niceness = threading.get_native_id(), None
    with contextlib.suppress(AttributeError, OSError):  # not on Windows; elsewhere a matter of rights
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, PRIORITY)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
        sys.setswitchinterval(before)
        if niceness is not None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, thread, niceness)


def _obeyed(commands: Commands, arm: SafeRobot) -> bool:
    """Empties the queue between two episodes: a stop and an end are obeyed, False for the latter. The rest was meant for the episode
    before, and is no answer to a question that nobody had seen.
    """
    while (command := commands.poll()) is not None:
        if command is Command.STOP:
            arm.stop("asked to")
        elif command is Command.QUIT:
            return False
    return True


def _may_go_on(config: DeployConfig, deployed: Deployed, commands: Commands) -> bool:
    """Whether the next episode may begin; asks a human where the scene is real, or a stop is in force."""
    arm = deployed.arm
    real = deployed.twin is None
    if not arm.stopped and (not real or config.unattended):
        return True
    if not sys.stdin.isatty():
        # `deploy` has refused to leave scenes to nobody, so this is a stop.
        print(
            "The arm is stopped, and without a terminal nobody can reset it: the remaining episodes are left out."
        )
        return False
    stopped = "The arm is stopped. " if arm.stopped else ""
    scene = "Put the scene back. " if real else ""
    lifts = "reset the stop and " if arm.stopped else ""
    print(f"{stopped}{scene}r: {lifts}begin the next episode; space: stop; q: quit.", flush=True)
    while True:
        command = commands.poll()
        if command is Command.STOP:
            arm.stop("asked to")
        elif command is Command.RESET:
            arm.reset()
            return True
        elif command is Command.QUIT:
            return False
        time.sleep(0.05)


def _check_attended(config: DeployConfig, twin: SimRobot | None) -> None:
    if twin is None and config.episodes > 1 and not config.unattended and not sys.stdin.isatty():
        raise UserError(
            f"--episodes is {config.episodes}, and without a terminal nobody can say when the scene is ready for the next. "
            "Run it on a terminal, or give --unattended=true: the next episode then begins without asking."
        )


def _judged(outcome: Outcome, twin: SimRobot | None) -> bool | None:
    """Whether it was a success, by the simulated arm or by a human; None where nobody said."""
    if twin is not None:
        return twin.success
    return {"success": True, "failure": False}.get(outcome.end)


def _line(episode: int, outcome: Outcome, twin: SimRobot | None) -> str:
    solved = "" if twin is None else (", solved" if twin.success else ", not solved")
    reason = f" ({outcome.reason})" if outcome.reason else ""
    late = outcome.punctuality
    helped = f"; asked {outcome.asked} times, {outcome.takeovers} takeovers" if outcome.asked else ""
    return (
        f"episode {episode}: {outcome.end}{reason}{solved} after {outcome.seconds:.1f} s{helped}; {outcome.plans} plans of "
        f"{outcome.evaluations:.2f} evaluations, {outcome.no_plans} without; tick jitter (median / 99 % / most) "
        f"{late.jitter}, {late.missed} of {late.ticks} ticks missed; command age {late.age}"
    )


def _write(path: Path, outcomes: list[Outcome]) -> None:
    provenance.write_json(path, provenance.plain([dataclasses.asdict(outcome) for outcome in outcomes]))

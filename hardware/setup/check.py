"""`ebt-policy deploy --check`: looks at everything that a deployment needs, and moves nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from lerobot.robots.robot import Robot

from ebt_policy import provenance
from ebt_policy.hardware.body import Body, make_body
from ebt_policy.hardware.config_deploy import DeployConfig
from ebt_policy.hardware.control.planning import Observation, Plan, Planner, PlanRequest
from ebt_policy.hardware.planners.make import contract_of, make_planner, named
from ebt_policy.hardware.safety.release import release
from ebt_policy.hardware.sensing.observer import PICTURES, Observer
from ebt_policy.hardware.setup import check_arm
from ebt_policy.hardware.setup.checklist import Checklist, Finding, fail, ok, warn
from ebt_policy.hardware.takeover.make import make_leader
from ebt_policy.inference.robot_contract import RobotContract

DECISIONS = 20
ROOM_GB = 1.0  # of disk, beside what is recorded


def check(
    config: DeployConfig, robot: Robot | None = None, write: Callable[[str], None] | None = None
) -> bool:
    """Whether nothing failed; one line for each thing, and one for what to do. robot: instead of that of the options.

    No command is sent. Connecting is LeRobot's, which switches torque on, and off at the end.
    """
    checks = Checklist() if write is None else Checklist(write)
    checks.run("calibration", lambda: _calibration(config))
    planners: list[Planner] = []
    checks.run("policy", lambda: _policy(config, planners))
    planner = planners[0] if planners else None
    bodies: list[Body] = []
    checks.run("robot", lambda: _made(config, robot, planner, bodies))
    if not bodies:
        for name in ("pose", "data", "motors", "rate", "cameras", "fit"):
            checks.skip(name, "there is no robot")
    else:
        body = bodies[0]
        _body(checks, body, config)
        if planner is None:
            checks.skip("fit", "there is no policy")
        else:
            checks.run("fit", lambda: _fit(planner, body))
    if planner is None:
        checks.skip("thinking", "there is no policy")
    else:
        rate = bodies[0].fps * bodies[0].speed if bodies else config.fps or 30.0
        checks.run("thinking", lambda: _thinking(planner, rate, config.deadline_s))
        planner.close()
    checks.run("disk", lambda: _disk(config, bodies[0] if bodies else None))
    checks.run("keys", _keys)
    return checks.passed


def _body(checks: Checklist, body: Body, config: DeployConfig) -> None:
    """Everything that the arm tells. It is let go whatever happens."""
    robot = body.arm.robot
    try:
        checks.run("robot", lambda: check_arm.connected(robot))
        if robot.is_connected:
            checks.run("pose", lambda: check_arm.pose(body))
            checks.run("data", lambda: check_arm.data(body))
            checks.run("motors", lambda: check_arm.health(robot))
            checks.run("rate", lambda: check_arm.reading(body))
            if config.teleop is not None:
                checks.run("leader", lambda: _leader(config, body))
        else:
            for name in ("pose", "data", "motors", "rate", *(["leader"] if config.teleop else [])):
                checks.skip(name, "the robot is not connected")
        checks.run("cameras", lambda: check_arm.cameras(body))
    finally:
        if robot.is_connected:
            checks.run("robot", lambda: _let_go(robot))


def _made(
    config: DeployConfig, robot: Robot | None, planner: Planner | None, bodies: list[Body]
) -> Iterator[Finding]:
    contract = _contract(config, planner)
    body = make_body(config, robot=robot, contract=contract)
    bodies.append(body)
    shadow = ", shadow mode: nothing would be sent" if config.safety.shadow else ""
    yield ok(
        f"{body.arm.robot.name}, {len(body.arm.joints)} joints; control loop at {body.control_hz:g} Hz, policy at {body.fps:g} "
        f"ticks a second, {body.speed:.0%} of its speed{shadow}"
    )
    if config.fps is None and body.twin is None and contract.fps is None:
        yield warn(
            f"--fps was not given; {body.fps:g} is assumed",
            "Give the fps of the dataset that it was trained on.",
        )


def _contract(config: DeployConfig, planner: Planner | None) -> RobotContract:
    """What the policy's checkpoint says of its robot; nothing if the policy cannot be loaded, which another line reports."""
    told: RobotContract | None = getattr(planner, "contract", None)  # a server sends it
    try:
        return contract_of(config.policy) if told is None else named(told, config.policy)
    except Exception:
        return RobotContract()


def _leader(config: DeployConfig, body: Body) -> Finding:
    """The operator's device is connected, fits the arm and can be read; its motors are not switched on."""
    leader = make_leader(config, body, lambda command: None)
    assert leader is not None  # the options name one
    try:
        reading = leader.poll()
    finally:
        leader.close()
    if reading.trouble:
        return fail(f"{leader.name} cannot be read: {reading.trouble}", "Look at its port, power and cables.")
    how = (
        "its motors bring it to the arm's pose"
        if leader.motors
        else "no motors: followed relative to where both are"
    )
    return ok(f"{leader.name}, {how}")


def _let_go(robot: Robot) -> Finding:
    release(robot)
    return ok("disconnected")


def _calibration(config: DeployConfig) -> Finding:
    from ebt_policy.inference.checkpoints import find_checkpoint
    from ebt_policy.monitoring.calibration import read_calibration

    options = config.policy
    if options.server:
        return ok("the server's: see policy")
    if not options.calibration:
        return warn(
            "none: the policy raises no alarms",
            "ebt-policy calibrate --policy ... --dataset ..., then --policy.calibration=FILE",
        )
    digest = provenance.sha256(find_checkpoint(options.path) / "model.safetensors")
    made = read_calibration(Path(options.calibration), digest)
    return ok(
        f"of this checkpoint, from {len(made.scores)} episodes of {made.source}; alarm above {made.threshold:.3f}, calibrated for "
        f"{made.covers} an episode"
    )


def _policy(config: DeployConfig, planners: list[Planner]) -> Iterator[Finding]:
    options = config.policy
    try:
        # Nothing is sent, so any action holds.
        planner = make_planner(options, config.fps or 30.0, hold=lambda state, last: np.zeros(1))
    except Exception as error:
        if not options.calibration:
            raise
        # So that a wrong calibration does not hide what else there is to find.
        planner = make_planner(
            dataclasses.replace(options, calibration=None, stop="budget"), config.fps or 30.0
        )
        yield fail(f"loads only without its calibration: {error}", "")
    planners.append(planner)
    needs = ", ".join(f"{name.removeprefix('observation.')} {shape}" for name, shape in planner.needs.items())
    yield ok(f"loads; needs {needs}; commands {planner.action_size} joints")
    if options.server and not getattr(planner, "alarms", False):
        yield warn(
            "the server has no calibration: the policy raises no alarms",
            "Start it with `ebt-policy serve --calibration FILE`, a file of `ebt-policy calibrate`.",
        )
    welcome = getattr(getattr(planner, "remote", None), "welcome", None)
    if welcome is not None and welcome.fps and config.fps and abs(welcome.fps - config.fps) > 1e-6:
        yield fail(
            f"the server's policy has {welcome.fps:g} ticks a second, --fps is {config.fps:g}",
            f"Give --fps={welcome.fps:g}.",
        )


def _fit(planner: Planner, body: Body) -> Finding:
    shapes = {name: tuple(shape) for name, shape in planner.needs.items()}
    Observer(shapes, body.features, planner.action_size, body.arm.joints)
    return ok("the robot gives what the policy needs, and takes what it commands")


def _thinking(planner: Planner, rate: float, deadline_s: float) -> Finding:
    """Decisions on empty observations, which take as long as any. rate: ticks a second at which plans are played."""
    nothing = {
        name: np.zeros(shape, np.uint8 if name.startswith(PICTURES) else np.float32)
        for name, shape in planner.needs.items()
    }
    seconds, execute = [], 1
    for i in range(DECISIONS):
        begin = time.perf_counter()
        answer = planner.plan(
            PlanRequest((Observation(nothing, i * execute / rate),), deadline_s, reset=not i)
        )
        seconds.append(time.perf_counter() - begin)
        if not isinstance(answer, Plan):
            return fail(f"no plan: {answer.reason}", "Look at the policy, or at the server's log.")
        execute = answer.execute
    median, p99 = np.quantile(seconds, [0.5, 0.99])
    budget = execute / rate
    text = (
        f"{DECISIONS} decisions: median {median * 1e3:.0f} ms, 99 % {p99 * 1e3:.0f} ms; {execute} actions last "
        f"{budget * 1e3:.0f} ms"
    )
    remedy = "Fewer --policy.max_evaluations, --policy.device, --policy.server on a faster computer, or a lower --speed."
    if median > budget:
        return fail(text, remedy)
    if p99 > min(budget, deadline_s):
        return warn(text, remedy)
    return ok(text)


def _disk(config: DeployConfig, body: Body | None) -> Iterator[Finding]:
    """Room for one episode of raw pictures: they are encoded when it is over."""
    pictures = 0.0
    if body is not None and config.record.root:
        shapes = [shape for shape in body.features.values() if isinstance(shape, tuple)]
        pictures = sum(float(np.prod(shape)) for shape in shapes) * body.fps * config.seconds / 1e9
    for folder in dict.fromkeys(filter(None, (config.output, config.record.root))):
        there = Path(folder).absolute()
        while not there.exists():
            there = there.parent
        free, needed = shutil.disk_usage(there).free / 1e9, ROOM_GB + pictures
        text = f"{folder}: {free:.1f} GB free, {needed:.1f} GB wanted"
        if free < needed:
            yield fail(text, "Make room, or name another disk by --output and --record.root.")
        else:
            yield ok(text)


def _keys() -> Finding:
    with contextlib.suppress(ImportError):
        import termios  # noqa: F401

        if sys.stdin is not None and sys.stdin.isatty():
            return ok("this terminal gives single keys: space stops, q quits")
    return warn(
        "no terminal: space and q do nothing",
        "Start it on a terminal; else Ctrl-C ends it in order and the signal USR1 stops the arm.",
    )

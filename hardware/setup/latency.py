"""`ebt-policy deploy --measure_latency`: one joint goes to and fro a little, and what follows is timed.

All is timed on steps: command, measured joint and pictures each go from one rest to another. The arm's delay is that from what
was sent having gone 63 % to the joint having gone 63 %; a camera's, from half of the joint's way to half of the picture's.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.robots.robot import Robot

from ebt_policy import provenance
from ebt_policy.errors import UserError
from ebt_policy.hardware.body import ARM_SPEED, Body, connect, make_body
from ebt_policy.hardware.config_deploy import DeployConfig
from ebt_policy.hardware.control.bus_faults import READ, SEND, BusFaults
from ebt_policy.hardware.control.commands import Command, Commands, from_keys, from_signals
from ebt_policy.hardware.safety.arms import joint_ranges
from ebt_policy.hardware.setup.step_response import Array, crossing, progress_of

STEPS = 10
STEP = 5.0  # units at most
SHARE = 0.03  # of the joint's range at most
BEFORE_S = 0.4  # at rest before a step
AFTER_S = 1.2  # from a step on; the last 0.3 s of it are at rest
REST_S = 0.3
PIXELS = 120  # rows of pictures that are kept, about
WARNING_S = 3.0


@dataclass
class Latency:
    """Seconds, one number a step. first_motion: to a tenth of the way; actuation: to 63 % of it. cameras: by name, from light to
    picture. blind: cameras that did not see the joint move.
    """

    joint: str
    step: float  # in the joint's units
    first_motion: list[float] = field(default_factory=list)
    actuation: list[float] = field(default_factory=list)
    cameras: dict[str, list[float]] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)


@dataclass
class _Samples:
    """times and values of one thing, over all steps."""

    times: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def between(self, begin: float, end: float) -> tuple[Array, np.ndarray]:
        times = np.array(self.times, np.float64)
        chosen = np.flatnonzero((times >= begin) & (times < end))
        return times[chosen], np.array([self.values[i] for i in chosen])


def measure_latency(config: DeployConfig, robot: Robot | None = None, joint: str = "") -> Latency:
    """Measures, prints, and writes latency.json into the output folder. robot: instead of that of the options.
    joint: by default the last but one, a wrist. Raises UserError where nothing moves, or where shadow mode forbids it.
    """
    if config.safety.shadow:
        raise UserError(
            "Latency is measured on a moving joint, and --safety.shadow=true sends nothing. Leave it out."
        )
    # What is measured is the whole latency, not what the present options leave of it.
    streams = dataclasses.replace(config.streams, latency_s={})
    speed = min(config.speed or ARM_SPEED, ARM_SPEED)
    body = make_body(dataclasses.replace(config, streams=streams, speed=speed), robot=robot)
    connect(body.arm)
    try:
        with body.streams:
            found = _measured(body, joint, config.seed)
    finally:
        body.arm.disconnect()
    path = Path(config.output) / "latency.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = dataclasses.asdict(found) | {"control_hz": body.control_hz, "options": options(found, body)}
    provenance.write_json(path, record)
    _print(found, body, path)
    return found


def _measured(body: Body, joint: str, seed: int) -> Latency:
    arm, clock = body.arm, body.clock
    joint = joint or arm.joints[max(len(arm.joints) - 2, 0)]
    if joint not in arm.joints:
        raise UserError(f"The robot has no joint '{joint}'. It has: {', '.join(arm.joints)}.")
    index = arm.joints.index(joint)
    assert arm.filter is not None  # connected
    # As the filter has it: without the margin at the ends.
    low, high = float(arm.filter.limits.low[index]), float(arm.filter.limits.high[index])
    wide = joint_ranges(arm.robot, arm.joints).get(joint, (low, high))
    if body.streams.streams and not body.simulated_time:
        body.streams.wait()
    commands = Commands()
    samples = _Watching(body, joint, commands)
    observed = samples.observation()
    arm.begin(observed)
    start = [float(observed[f"{name}.pos"]) for name in arm.joints]
    size = min(STEP, SHARE * (wide[1] - wide[0]))
    size = size if start[index] < (low + high) / 2 else -size
    print(
        f"Joint '{joint}' will go {size:+.3g} and back, {STEPS // 2} times. Space stops it; q or Ctrl-C ends.",
        flush=True,
    )
    with from_signals(commands), from_keys(commands):
        if not body.simulated_time and body.twin is None:
            time.sleep(WARNING_S)
        samples.hold(start, max(1.5 * arm.config.ramp_s, BEFORE_S))
        begins = []
        for i in range(STEPS):
            if body.twin is not None and i and i % 2 == 0:  # its episodes are short
                body.twin.reset(seed)
                arm.begin()
                samples.hold(start, BEFORE_S)
            target = list(start)
            target[index] += size if i % 2 == 0 else 0.0
            begins.append(clock.now())
            # Of irregular length, so that no camera sees every step at the same moment between two pictures.
            samples.hold(target, AFTER_S + BEFORE_S + 0.1 * (i * 0.618 % 1))
    return _evaluated(samples, begins, Latency(joint, abs(size)))


class _Watching:
    """Drives the arm through the filter and keeps what is seen: commands, the joint, new pictures."""

    def __init__(self, body: Body, joint: str, commands: Commands) -> None:
        self.body, self._key, self._commands = body, f"{joint}.pos", commands
        self.sent, self.joint = _Samples(), _Samples()
        self.pictures: dict[str, _Samples] = {}
        self._sequence: dict[str, int] = {}
        self._bus = BusFaults()

    def observation(self) -> Mapping[str, Any]:
        """The arm's, with positions that are possible."""
        while (observed := self._read()) is None:
            self._wait(self.body.clock.now())
        return observed

    def hold(self, target: list[float], seconds: float) -> None:
        """Goes to `target` (J,) and stays, for so long in all."""
        clock = self.body.clock
        end = clock.now() + seconds
        while (now := clock.now()) < end - 1e-9:
            self._obey()
            observed = self._read()
            read = (now + clock.now()) / 2
            if observed is not None:
                self.joint.times.append(read)
                self.joint.values.append(float(observed[self._key]))
            allowed = self._drive(target)
            if allowed is not None:
                self.sent.times.append(clock.now())
                self.sent.values.append(float(allowed[self._key]))
            if observed is not None:
                self._look(observed, read)
            self._wait(now)

    def _obey(self) -> None:
        """Raises UserError where it is to end, with the arm at rest. After a stop it stays there until somebody ends it."""
        while (command := self._commands.poll()) is not None:
            if command is Command.STOP:
                self.body.arm.stop("asked to")
                print("Stopped. Support the arm; q or Ctrl-C then lets it go.", flush=True)
                while self._commands.poll() is not Command.QUIT:
                    self._rest()
                raise UserError("Stopped as asked. The arm is let go.")
            if command is Command.QUIT:
                self.body.arm.hold("asked to")
                end = self.body.clock.now() + 5.0
                while not self.body.arm.at_rest and self.body.clock.now() < end:
                    self._rest()
                raise UserError("Ended as asked. The arm is let go.")

    def _rest(self) -> None:
        now = self.body.clock.now()
        self._drive(None)
        self._wait(now)

    def _wait(self, begun: float) -> None:
        self.body.clock.sleep_until(begun + 1 / self.body.control_hz)

    def _read(self) -> Mapping[str, Any] | None:
        return self._tried(READ, "read the joints", self.body.arm.get_observation)

    def _drive(self, target: list[float] | None) -> Mapping[str, Any] | None:
        return self._tried(SEND, "send a command", lambda: self.body.arm.drive(target))

    def _tried(self, way: str, what: str, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any] | None:
        """What it gives; None where the bus fails. Lost packets are survived, as in an episode: ending drops the torque.

        Raises UserError where it has failed for the watchdog's time.
        """
        try:
            found = ask()
        except Exception as error:  # each robot raises its own
            _, lasted = self._bus.failed(way, self.body.clock.now())
            tick = 1 / self.body.control_hz  # the last success was one before the first failure
            if lasted > self.body.arm.config.watchdog_s + tick:
                raise UserError(
                    f"For {lasted:.1f} s the bus could not {what}: {error} Look at cables and power. The arm is let go."
                ) from error
            return None
        self._bus.works(way, self.body.clock.now())
        return found

    def _look(self, observed: Any, now: float) -> None:
        for name, value in observed.items():
            if isinstance(value, np.ndarray) and value.ndim == 3:  # a twin shows its pictures itself
                self._keep(name, now, value)
        for stream in self.body.streams.streams:
            frame = stream.latest()
            if frame is not None and frame.sequence != self._sequence.get(stream.name):
                self._sequence[stream.name] = frame.sequence
                self._keep(stream.name, frame.stamp, frame.image)

    def _keep(self, name: str, stamp: float, image: np.ndarray) -> None:
        stride = max(1, image.shape[0] // PIXELS)
        samples = self.pictures.setdefault(name, _Samples())
        samples.times.append(stamp)
        samples.values.append(image[::stride, ::stride, 1].copy())  # green: most of what is bright


def _evaluated(seen: _Watching, begins: list[float], found: Latency) -> Latency:
    for begin in begins:
        window = (begin - BEFORE_S, begin + AFTER_S)
        rests = (begin, begin + AFTER_S - REST_S)
        sent_times, sent = seen.sent.between(*window)
        sent_progress = progress_of(sent_times, sent, *rests)
        times, joint = seen.joint.between(*window)
        joint_progress = progress_of(times, joint, *rests)
        if sent_progress is None or joint_progress is None or abs(joint[-1] - joint[0]) < 0.2 * found.step:
            continue
        for share, delays in ((0.1, found.first_motion), (0.63, found.actuation)):
            commanded, moved = (
                crossing(sent_times, sent_progress, share),
                crossing(times, joint_progress, share),
            )
            if commanded is not None and moved is not None:
                delays.append(moved - commanded)
        half = crossing(times, joint_progress, 0.5)
        for name, samples in seen.pictures.items():
            shown_times, shown = samples.between(*window)
            shown_progress = progress_of(shown_times, shown, *rests) if len(shown) else None
            shown_half = None if shown_progress is None else crossing(shown_times, shown_progress, 0.5)
            if half is not None and shown_half is not None:
                found.cameras.setdefault(name, []).append(shown_half - half)
    if len(found.actuation) < STEPS // 2:
        raise UserError(
            f"Joint '{found.joint}' followed {len(found.actuation)} of {len(begins)} steps of {found.step:.3g}. Is something in its "
            "way, is its torque on, or is the step within its play?"
        )
    # A camera that saw few of them saw something else.
    found.blind = [name for name in seen.pictures if len(found.cameras.get(name, [])) < STEPS // 2]
    found.cameras = {name: delays for name, delays in found.cameras.items() if name not in found.blind}
    return found


def options(found: Latency, body: Body) -> list[str]:
    """What to add to the command line of `deploy`. A latency below 0 is within the error of measurement, and none."""
    streaming = {stream.name for stream in body.streams.streams}
    made = [f"--streams.actuation_s={max(float(np.median(found.actuation)), 0.0):.3f}"]
    cameras = {name: max(float(np.median(d)), 0.0) for name, d in found.cameras.items() if name in streaming}
    if cameras:
        inner = ", ".join(f"{name}: {value:.3f}" for name, value in cameras.items())
        made.append(f"--streams.latency_s='{{{inner}}}'")
    return made


def _print(found: Latency, body: Body, path: Path) -> None:
    rows = [("command to first motion", found.first_motion), ("command to 63 % of the way", found.actuation)]
    rows += [(f"camera {name}", delays) for name, delays in found.cameras.items()]
    for name, delays in rows:
        low, median, high = (1e3 * q for q in np.quantile(delays, [0.1, 0.5, 0.9]))
        print(f"{name:<28} {median:6.0f} ms  (80 % within {low:.0f} to {high:.0f} ms, {len(delays)} steps)")
    for name in found.blind:
        print(
            f"camera {name:<21} not measured: too little changes in its picture. Point it at the wrist, or light it better."
        )
    print(f"Written to {path}. Add to `ebt-policy deploy`:\n  {' '.join(options(found, body))}")

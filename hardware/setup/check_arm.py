"""What `ebt-policy deploy --check` looks at in an arm and its cameras. It reads registers, joints and pictures; it sends nothing.

Each function yields findings for a Checklist, and raises what the robot raises.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from lerobot.robots.robot import Robot

from ebt_policy.errors import UserError
from ebt_policy.hardware.body import Body
from ebt_policy.hardware.safety.arms import Arm, arms_of
from ebt_policy.hardware.sensing.streams import CameraStream, Stale
from ebt_policy.hardware.setup.checklist import Finding, fail, ok, warn

READS = 100
WATCHED_S = 2.0  # cameras are looked at for so long, and longer where freezing takes longer to tell
NEAR_LIMIT_C = 15  # below a motor's own limit of temperature
# Registers of Feetech and Dynamixel motors, by LeRobot's names, in the order in which they are looked for.
_TEMPERATURE_LIMIT = ("Max_Temperature_Limit", "Temperature_Limit")
_VOLTAGE = ("Present_Voltage", "Present_Input_Voltage")  # tenths of a volt
_STATUS = {
    "Status": {0: "voltage", 1: "angle sensor", 2: "too hot", 3: "over current", 5: "overload"},
    "Hardware_Error_Status": {0: "voltage", 2: "too hot", 3: "encoder", 4: "electric shock", 5: "overload"},
}


def connected(robot: Robot) -> Iterator[Finding]:
    """Connects as LeRobot does, but never asks for a calibration on the terminal."""
    robot.connect(calibrate=False)
    motors = [arm.prefix + name for arm in arms_of(robot) for name in arm.motors]
    answer = f": {len(motors)} motors answer ({', '.join(motors)})" if motors else ""
    yield ok(f"connected{answer}")
    if motors:
        yield warn(
            "its torque is on: LeRobot's connecting switches it on, and off again at the end",
            "Support an arm that is not at rest before this ends: without torque it sinks.",
        )
    if robot.is_calibrated:
        yield ok("calibrated" + (": its motors hold what its calibration file says" if motors else ""))
    else:
        kind = getattr(getattr(robot, "config", None), "type", robot.name)
        yield fail(
            "not calibrated, or its motors hold another calibration than the file of its id",
            f"lerobot-calibrate --robot.type={kind} --robot.id={robot.id} with its port. Or give the id it was calibrated under.",
        )


def pose(body: Body) -> Iterator[Finding]:
    """Ranges of all joints, and the present pose within them."""
    arm = body.arm
    ranges = arm.ranges()
    missing = [name for name in arm.joints if name not in ranges]
    if missing:
        yield fail(
            f"the robot does not say how far {', '.join(missing)} may move",
            "Calibrate it, or give --safety.low='{JOINT: ...}' and --safety.high='{JOINT: ...}'.",
        )
    else:
        yield ok(
            "range of every joint: " + ", ".join(f"{n} {a:.4g}..{b:.4g}" for n, (a, b) in ranges.items())
        )
    observed = arm.robot.get_observation()
    outside = []
    for name in arm.joints:
        position = float(observed[f"{name}.pos"])
        low, high = ranges.get(name, (-math.inf, math.inf))
        if not low <= position <= high:
            outside.append(f"{name} at {position:.4g}")
    if outside:
        yield fail(f"outside its range: {', '.join(outside)}", "Move the arm by hand, or calibrate it again.")
    else:
        yield ok("the arm stands within its ranges")
    if not missing:
        arm.limits()  # raises what would end a deployment


def data(body: Body) -> Iterator[Finding]:
    """Joint names, units and present pose, against those of the policy's training data."""
    arm = body.arm
    warnings = arm.compare(arm.robot.get_observation())
    for warning in warnings:
        yield warn(warning, "")
    if not warnings:
        yield ok(f"names, units and pose are those of the policy's data; its order: {', '.join(arm.joints)}")


def health(robot: Robot) -> Iterator[Finding]:
    """Temperature, voltage and errors of the motors, against the limits that they hold themselves."""
    known = False
    for arm in arms_of(robot):
        names = _registers(arm.bus)
        known |= bool(names)
        yield from _health(arm, names)
    if not known:
        yield ok("no Feetech or Dynamixel motors: temperature, voltage and errors are not known")


def _health(arm: Arm, names: set[str]) -> Iterator[Finding]:
    """names: of its registers."""
    if "Present_Temperature" in names:
        yield _temperature(arm, names)
    voltage = next((name for name in _VOLTAGE if name in names), None)
    if voltage is not None:
        yield _voltage(arm, voltage)
    status = next((name for name in _STATUS if name in names), None)
    if status is not None:
        found = _read(arm, status)
        errors = [
            f"{motor}: {', '.join(_STATUS[status].get(bit, f'bit {bit}') for bit in range(8) if value >> bit & 1)}"
            for motor, value in found.items()
            if value
        ]
        if errors:
            yield fail(
                f"motors report errors: {'; '.join(errors)}",
                "Free the arm, let it cool, switch its power off and on, and look again.",
            )
        else:
            yield ok(_of(arm) + "no motor reports an error")


def _read(arm: Arm, register: str) -> dict[str, Any]:
    """{motor, by its name in the whole robot: raw value}."""
    return {arm.prefix + name: value for name, value in arm.bus.sync_read(register, normalize=False).items()}


def _of(arm: Arm) -> str:
    """Which arm it is, where there are several."""
    return f"{arm.prefix.rstrip('_')}: " if arm.prefix else ""


def _registers(bus: Any) -> set[str]:
    """Those that all motors of the bus have."""
    if not hasattr(bus, "sync_read") or not getattr(bus, "model_ctrl_table", None):
        return set()
    return set.intersection(*(set(bus.model_ctrl_table[motor.model]) for motor in bus.motors.values()))


def _temperature(arm: Arm, names: set[str]) -> Finding:
    found = _read(arm, "Present_Temperature")
    register = next((name for name in _TEMPERATURE_LIMIT if name in names), None)
    limits = _read(arm, register) if register else dict.fromkeys(found, 70)
    hottest = min(found, key=lambda motor: limits[motor] - found[motor])
    text = f"hottest for its limit: {hottest}, {found[hottest]} °C of {limits[hottest]} °C"
    room = limits[hottest] - found[hottest]
    if room <= 0:
        return fail(text, "Switch the power off and let it cool.")
    if room < NEAR_LIMIT_C:
        return warn(text, "Let it rest: a motor that overheats lets go.")
    return ok(text)


def _voltage(arm: Arm, register: str) -> Finding:
    found = _read(arm, register)
    # Reading one motor raises where it reports an error, and that is what is looked for; reading all does not.
    lows, highs = (_read(arm, f"{end}_Voltage_Limit") for end in ("Min", "Max"))
    for motor, value in found.items():
        low, high = lows[motor], highs[motor]
        if not low <= value <= high:
            return fail(
                f"{motor} has {value / 10:.1f} V; its limits are {low / 10:.1f} to {high / 10:.1f} V",
                "Check the power supply: its voltage has to be that of the motors, 5 V to 7.4 V or 12 V by version.",
            )
    return ok(
        f"{_of(arm)}supply {min(found.values()) / 10:.1f} to {max(found.values()) / 10:.1f} V, within the motors' limits"
    )


def reading(body: Body, reads: int = READS) -> Iterator[Finding]:
    """How fast joints can be read, one after the other."""
    period, seconds, failed = 1 / body.control_hz, [], 0
    for _ in range(reads):
        begin = time.perf_counter()
        try:
            body.arm.robot.get_observation()
        except Exception:
            failed += 1
        seconds.append(time.perf_counter() - begin)
    median, p99 = np.quantile(seconds, [0.5, 0.99])
    text = (
        f"{reads} reads of the joints: median {median * 1e3:.1f} ms, 99 % {p99 * 1e3:.1f} ms; a tick at "
        f"{body.control_hz:g} Hz has {period * 1e3:.1f} ms"
    )
    if failed:
        yield fail(f"{failed} of {text}; these failed", "Check cables and power; a USB hub may be the cause.")
    elif body.simulated_time:
        yield ok(text + " (simulated: none of it counts)")
    elif median > period:
        yield fail(text, f"Set --control_hz to at most {0.7 / median:.0f}, or use a faster bus.")
    elif p99 > 0.7 * period:
        yield warn(
            text, "Commands need their part of the tick too. Lower --control_hz, or stop other programs."
        )
    else:
        yield ok(text)


def cameras(body: Body) -> Iterator[Finding]:
    """All together, as when deployed: each its rate, size and freshness, then their skew. Starts and stops them."""
    streams = body.streams.streams
    if not streams:
        shown = [name for name, shape in body.features.items() if isinstance(shape, tuple)]
        yield ok(f"pictures come with the joints: {', '.join(shown)}" if shown else "the robot has none")
        return
    running: list[CameraStream] = []
    try:
        for stream in streams:
            try:
                stream.start()
                running.append(stream)
            except UserError as error:
                yield fail(str(error), "")
        yield from _watched(body, running)
    finally:
        for stream in reversed(running):
            stream.stop()


def _watched(body: Body, running: list[CameraStream]) -> Iterator[Finding]:
    time.sleep(0.5)  # LeRobot's own threads fill their first picture
    frames, begin = {stream.name: stream.frames for stream in running}, time.monotonic()
    time.sleep(max([WATCHED_S, *(1.2 * s.frozen_s for s in running if s.frozen_s is not None)]))
    seconds = time.monotonic() - begin
    for stream in running:
        frame, rate = stream.latest(), (stream.frames - frames[stream.name]) / seconds
        wanted = getattr(stream.camera, "fps", None) or 0.0
        text = f"{stream.name}: {rate:.1f} pictures a second, {wanted:g} were asked for"
        if stream.lost is not None or frame is None:
            yield fail(f"{text}; {stream.lost or 'no picture yet'}", "Check its cable, power and options.")
            continue
        shape, expected = frame.image.shape, body.features.get(stream.name)
        if expected is not None and tuple(expected) != shape:
            yield fail(
                f"{stream.name}: pictures of {shape}, {expected} were asked for", "Set its width and height."
            )
        elif stream.frozen:
            yield fail(
                f"{stream.name}: frozen, the same picture again and again", "Unplug it and plug it in again."
            )
        elif rate < 0.5 * wanted:
            yield fail(text, "Give it a USB port of its own, more light, fourcc: MJPG, or a lower fps.")
        elif rate < 0.9 * wanted:
            yield warn(text, "Give it a USB port of its own, more light, or fourcc: MJPG.")
        else:
            yield ok(f"{text}; {shape[1]}x{shape[0]}, failed reads: {stream.failed}")
    if len(running) == len(body.streams.streams):
        seen = body.streams.snapshot()
        if isinstance(seen, Stale):
            yield fail(str(seen), "")
        else:
            yield ok(f"oldest picture {seen.oldest_age_s * 1e3:.0f} ms old, {seen.skew_s * 1e3:.0f} ms apart")

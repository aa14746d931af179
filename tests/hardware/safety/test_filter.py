"""Every fault causes its reaction, in time."""

import sys
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety import filter as safety_filter
from ebt_policy.hardware.safety.filter import SafetyConfig, SafetyFilter, State
from ebt_policy.hardware.safety.limits import JointLimits

LIMITS = JointLimits.of(["shoulder", "elbow"], [-90, -45], [90, 45], [180, 90], [720, 360])
PERIOD = 0.02


class Arm:
    """A filter with a clock of its own, ticking at 50 Hz and checking every command that it sends."""

    def __init__(self, **options) -> None:
        self.now, self.events = 100.0, []
        config = SafetyConfig(**{"speed_scale": 1.0, "ramp_s": 0.0, "start_gate": None} | options)
        self.filter = SafetyFilter(LIMITS, PERIOD, config, lambda: self.now, self.events.append)
        self.filter.begin([0.0, 0.0])
        self.sent, self.speed = np.zeros(2), np.zeros(2)

    def tick(self, times: int = 1, late: float = 0.0) -> np.ndarray:
        for _ in range(times):
            self.now += PERIOD + late
            command = self.filter.tick()
            speed = (command - self.sent) / PERIOD
            assert np.isfinite(command).all()
            assert (command >= LIMITS.low - 1e-6).all() and (command <= LIMITS.high + 1e-6).all()
            assert (np.abs(speed) <= LIMITS.velocity + 1e-6).all()
            assert (np.abs(speed - self.speed) <= LIMITS.acceleration * PERIOD + 1e-6).all()
            self.sent, self.speed = command, speed
        return self.sent

    def follow(self, target, ticks: int) -> np.ndarray:
        for _ in range(ticks):
            self.filter.submit(target)
            self.tick()
        return self.sent

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]


def test_it_goes_where_it_is_told():
    arm = Arm()
    assert np.allclose(arm.follow([30, -20], 100), [30, -20], atol=0.01)
    assert arm.filter.state is State.MOVING and not arm.events


def test_nothing_moves_before_a_command():
    arm = Arm()
    assert not arm.tick(50).any() and arm.filter.state is State.WAITING


def test_no_command_for_the_watchdogs_time_holds():
    arm = Arm(watchdog_s=0.1)
    arm.follow([80, 40], 10)
    since, position = 0.0, arm.sent
    while arm.filter.state is State.MOVING:
        arm.tick()
        since += PERIOD
    assert since <= 0.1 + 2 * PERIOD and arm.kinds == ["hold"]
    arm.tick(20)
    assert arm.filter.at_rest and (arm.sent > position).all()
    arm.filter.submit([80, 40])
    arm.tick()
    assert arm.filter.state is State.MOVING  # commands lead out of a hold


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ([np.nan, 0], "refused_malformed"),
        ([np.inf, 0], "refused_malformed"),
        ([1.0], "refused_malformed"),
        ([[1.0, 2.0]], "refused_malformed"),
        (["a", "b"], "refused_malformed"),
        (None, "refused_malformed"),
        ([1e9, -1e9], "clipped"),
    ],
)
def test_bad_targets(target, kind: str):
    arm = Arm()
    arm.follow([5, 5], 20)
    accepted = arm.filter.submit(target)
    assert accepted == (kind == "clipped") and arm.kinds == [kind]
    arm.tick(30)


def test_refused_commands_are_no_sign_of_life():
    arm = Arm(watchdog_s=0.1)
    arm.follow([20, 20], 10)
    for _ in range(10):
        arm.filter.submit([np.nan, np.nan])
        arm.tick()
    assert arm.filter.state is State.HOLDING


def test_reordered_stale_and_future_commands_are_refused():
    arm = Arm(stale_s=0.3)
    assert arm.filter.submit([1, 1], stamp=arm.now - 0.1)
    assert not arm.filter.submit([9, 9], stamp=arm.now - 0.2)
    assert not arm.filter.submit([9, 9], stamp=arm.now + 5)
    assert not arm.filter.submit([9, 9], stamp=float("nan"))
    arm.now += 1
    assert not arm.filter.submit([9, 9], stamp=arm.now - 0.4)
    assert arm.kinds == ["refused_reordered", "refused_clock", "refused_clock", "refused_stale"]


def test_a_stop_is_latched():
    arm = Arm()
    arm.follow([80, 40], 15)
    arm.filter.stop("key")
    assert not arm.filter.submit([0, 0])
    arm.tick(40)
    assert arm.filter.at_rest and arm.filter.state is State.STOPPED
    rest = arm.sent
    arm.filter.stop("again")
    arm.filter.reset()
    assert np.array_equal(arm.tick(5), rest) and arm.filter.state is State.WAITING
    arm.follow(rest + 1, 5)
    assert arm.filter.state is State.MOVING
    assert arm.kinds[0] == "stop" and arm.kinds.count("stop") == 1


def interleaved(act: Callable[[], object], other: Callable[[], object], line: int) -> bool:
    """Calls act(), and other() before the line-th line that it runs; returns whether there were so many."""
    ran = [0]

    def trace(frame: FrameType, event: str, argument: object):
        if event == "line" and frame.f_code.co_filename == safety_filter.__file__:
            ran[0] += 1
            if ran[0] == line:
                sys.settrace(None)
                other()
        return trace

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)
    return ran[0] >= line


@pytest.mark.parametrize("before", ["waiting", "moving", "holding", "stopped"])
@pytest.mark.parametrize("act", ["submit", "hold", "tick", "begin", "reset"])
def test_a_stop_of_another_thread_is_never_lost_whenever_it_comes(act: str, before: str):
    # A stop that comes before `reset` has looked, which it does in its first two lines, is one that it lifts.
    line, again = 3 if act == "reset" else 1, True
    while again:
        arm = Arm()
        if before != "waiting":
            arm.follow([20, 20], 5)
        if before in ("holding", "stopped"):
            (arm.filter.hold if before == "holding" else arm.filter.stop)("before")
        arguments = {"submit": [[10, 10]], "hold": ["test"], "begin": [[0.0, 0.0]]}.get(act, [])
        again = interleaved(
            lambda arm=arm, arguments=arguments: getattr(arm.filter, act)(*arguments),
            lambda arm=arm: arm.filter.stop("another thread"),
            line,
        )
        if again:
            assert arm.filter.state is State.STOPPED, f"a stop before line {line} of {act} was lost"
            for _ in range(50):
                arm.now += PERIOD
                arm.filter.tick()
            assert arm.filter.at_rest and not arm.filter.submit([10, 10])
        line += 1
    assert line > 3


def test_the_start_gate_refuses_far_targets_and_only_at_the_start():
    arm = Arm(start_gate=20.0)
    assert not arm.filter.submit([50, 0])
    assert not arm.tick(10).any() and "refused_start_gate" in arm.kinds
    assert arm.filter.submit([15, 0])
    arm.tick()
    assert arm.filter.submit([50, 0])


def test_speed_ramps_in_and_is_scaled():
    arm = Arm(ramp_s=1.0, speed_scale=0.25)
    speeds = []
    for _ in range(80):
        arm.filter.submit([90, 45])
        arm.tick()
        speeds.append(arm.speed.copy())
    speeds = np.array(speeds)
    assert (np.diff(speeds[:45], axis=0) > -1e-9).all()
    assert (speeds[10] < 0.25 * 0.25 * LIMITS.velocity).all()
    assert np.allclose(speeds.max(0), 0.25 * LIMITS.velocity, rtol=0.05)


def test_a_blocked_joint_stops():
    arm = Arm(following_error=5.0)
    arm.follow([40, 0], 20)
    arm.filter.submit([40, 0])
    arm.now += PERIOD
    arm.filter.tick(measured=[0.0, 0.0])
    assert arm.filter.state is State.STOPPED and "shoulder" in arm.events[-1].detail


def test_late_ticks_do_not_jump():
    arm = Arm()
    arm.follow([80, 40], 5)
    before = arm.sent
    arm.now += 3.0
    arm.filter.submit([80, 40])
    after = arm.filter.tick()
    assert (np.abs(after - before) <= LIMITS.velocity * PERIOD + 1e-9).all()


def test_a_clock_that_stands_still_moves_nothing():
    arm = Arm()
    arm.follow([80, 40], 5)
    arm.filter.tick()
    assert np.array_equal(arm.filter.tick(), arm.sent)


def test_an_arm_outside_its_limits_is_refused_or_led_back():
    safety = SafetyFilter(LIMITS, PERIOD)
    with pytest.raises(UserError, match="'shoulder' stands at 200"):
        safety.begin([200, 0])
    with pytest.raises(UserError, match="NaN"):
        safety.begin([np.nan, 0])
    with pytest.raises(UserError, match="begin was not called"):
        safety.tick()
    assert not safety.submit([0, 0])


@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=2, max_size=2),
            st.floats(-1.0, 0.5),  # the command's age
            st.floats(0, 0.1),  # how late the tick is
            st.sampled_from(["", "", "", "stop", "reset", "hold"]),
        ),
        max_size=60,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_sequence_of_commands_ticks_and_stops_leaves_the_limits(steps):
    arm = Arm(ramp_s=0.3, speed_scale=0.8)
    for target, age, late, act in steps:
        arm.filter.submit(target, stamp=arm.now - age)
        if act:
            getattr(arm.filter, act)(*([] if act == "reset" else ["test"]))
        arm.tick(late=late)


def test_targets_that_come_slowly_are_followed_evenly():
    arm = Arm(watchdog_s=0.5)
    speeds = []
    for tick in range(100):
        if tick % 5 == 0:  # at 10 Hz, 30 degrees a second
            arm.filter.submit([30 * tick * PERIOD, 0])
        arm.tick()
        speeds.append(arm.speed[0])
    assert np.ptp(speeds[30:]) < 0.1 and speeds[-1] == pytest.approx(30, abs=0.1)


def test_targets_that_cease_are_followed_one_more_period_and_then_it_brakes():
    arm = Arm(watchdog_s=0.5)
    for tick in range(40):
        arm.filter.submit([60 * tick * PERIOD, 0])
        arm.tick()
    last, before = 60 * 39 * PERIOD, arm.sent[0]
    arm.tick(20)
    assert before < arm.sent[0] <= last + 60 * PERIOD + 60**2 / (2 * 720) + 1e-6
    assert arm.filter.at_rest and arm.filter.state is State.MOVING
    arm.filter.submit([last, 0])  # the next one leads out, as gently as a first one
    arm.tick(20)
    assert arm.sent[0] == pytest.approx(last, abs=0.01)

"""Commands never leave their limits, and reach their targets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebt_policy.errors import UserError
from ebt_policy.hardware.safety.limits import JointLimits, braking_step, limited_step, stopping_speed

LIMITS = JointLimits.of("abc", [-100, -50, 0], [100, 50, 10], [200, 50, 5], [800, 100, 40])
DT, SLACK = 0.02, 1e-6


def run(targets: np.ndarray, dts: np.ndarray, limits: JointLimits = LIMITS) -> None:
    """targets (K, N, J): N arms, K ticks; checks every command of every arm."""
    position = np.clip(targets[0], limits.low, limits.high)
    velocity, before = np.zeros_like(position), position
    for target, dt in zip(targets, dts, strict=True):
        speed = np.clip((target - before) / DT, -limits.velocity, limits.velocity)
        moved, faster = limited_step(position, velocity, target, speed, limits, float(dt))
        assert (moved >= limits.low - SLACK).all() and (moved <= limits.high + SLACK).all()
        assert (np.abs(faster) <= limits.velocity + SLACK).all()
        assert (np.abs(moved - position) <= limits.velocity * dt + SLACK).all()
        assert (np.abs(faster - velocity) <= limits.acceleration * dt + SLACK).all()
        position, velocity, before = moved, faster, target


def adversaries(ticks: int, arms: int, rng: np.random.Generator) -> np.ndarray:
    """Random walks, jumps between the ends, far outside, sines at the worst frequencies, and standing still."""
    span = LIMITS.high - LIMITS.low
    middle = (LIMITS.high + LIMITS.low) / 2
    time = np.arange(ticks)[:, None, None]
    kinds = [
        middle + np.cumsum(rng.normal(size=(ticks, arms, 3)), 0) * span / 20,
        middle + span * rng.choice([-0.5, 0.5], size=(ticks, arms, 3)),
        middle + span * rng.choice([-1e6, 0, 1e6], size=(ticks, arms, 3)),
        middle + span * np.sin(time * rng.uniform(0.01, 3, (1, arms, 3))),
        middle + span * np.sign(np.sin(time * rng.uniform(0.01, 1, (1, arms, 3)))) / 2,
        np.repeat(rng.uniform(LIMITS.low, LIMITS.high, (1, arms, 3)), ticks, 0),
    ]
    return np.concatenate(kinds, 1)


def test_no_command_of_a_million_leaves_its_limits():
    rng = np.random.default_rng(0)
    ticks, arms = 1000, 60
    targets = adversaries(ticks, arms, rng)  # 6 kinds x 60 arms x 1000 ticks x 3 joints
    assert targets.size > 1_000_000
    run(targets, np.full(ticks, DT))
    run(targets, rng.uniform(0, DT, ticks))  # ticks that come early, however irregular


@given(st.lists(st.floats(-1e3, 1e3), min_size=30, max_size=30), st.floats(1e-4, 0.1))
@settings(max_examples=200, deadline=None)
def test_whatever_the_targets(targets: list[float], dt: float):
    run(np.array(targets).reshape(10, 1, 3), np.full(10, dt))


def test_a_target_at_rest_is_reached_without_overshoot():
    position, velocity = np.array([-90.0, 40.0, 1.0]), np.zeros(3)
    target = np.array([80.0, -30.0, 9.0])
    direction = np.sign(target - position)
    for _ in range(400):
        position, velocity = limited_step(position, velocity, target, np.zeros(3), LIMITS, DT)
        assert (direction * (target - position) > -1e-6).all()
    assert np.allclose(position, target, atol=1e-3)


def test_a_moving_target_is_followed_without_lag():
    position, velocity = np.zeros(3) + LIMITS.low + 5, np.zeros(3)
    speed = np.array([50.0, 10.0, 1.0])
    for k in range(60):
        target = LIMITS.low + 5 + speed * DT * k
        position, velocity = limited_step(position, velocity, target, speed, LIMITS, DT)
    assert np.allclose(position, target, atol=0.1)


def test_braking_ends_at_rest_inside():
    position, velocity = np.array([90.0, -45.0, 9.0]), np.zeros(3)
    position = np.array([0.0, 0.0, 5.0])
    for _ in range(12):
        position, velocity = limited_step(position, velocity, LIMITS.high, np.zeros(3), LIMITS, DT)
    ticks = 0
    while velocity.any():
        before = velocity
        position, velocity = braking_step(position, velocity, LIMITS, DT)
        assert (np.abs(velocity - before) <= LIMITS.acceleration * DT + SLACK).all()
        ticks += 1
    assert ticks <= 26 and (position <= LIMITS.high).all()


def test_the_stopping_speed_stops_in_the_gap():
    a, gap = np.array([100.0]), np.array([3.0])
    v = stopping_speed(gap, a, DT)
    travelled = v * DT
    while v > 0:
        v = np.maximum(v - a * DT, 0)
        travelled += v * DT
    assert travelled <= gap


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 5.0, "high": 5.0}, "'a' has no range"),
        ({"velocity": 0.0}, "velocity limit of joint 'a'"),
        ({"acceleration": float("nan")}, "acceleration limit of joint 'a'"),
        ({"margin": 0.5}, "margin"),
    ],
)
def test_bad_limits_are_named(change: dict, message: str):
    given_limits = {"low": -1.0, "high": 1.0, "velocity": 1.0, "acceleration": 1.0} | change
    with pytest.raises(UserError, match=message):
        JointLimits.of(["a", "b"], **given_limits)


def test_a_margin_narrows_the_range():
    limits = JointLimits.of(["a"], -100, 100, 1, 1, margin=0.05)
    assert (limits.low[0], limits.high[0]) == (-90, 90)

"""Clocks: the simulated one loses no step, the real one never wakes early."""

import time

import numpy as np
import pytest

from ebt_policy.hardware.control.clock import SteppedClock, WallClock


def test_simulated_time_takes_whole_ticks_and_loses_none():
    steps = []
    clock = SteppedClock(50, lambda: steps.append(clock.now()))
    clock.sleep_until(0.019)
    assert not steps and clock.now() == 0.019
    t = 0.0
    for _ in range(10_000):  # sums of a rounded period
        t += 0.02
        clock.sleep_until(t)
    assert len(steps) == 10_000 and steps[0] == pytest.approx(0.02) and clock.now() == pytest.approx(200)
    clock.sleep_until(1.0)  # long ago
    assert clock.now() == pytest.approx(200) and len(steps) == 10_000
    clock.sleep_until(200.01)
    clock.restart()
    clock.sleep_until(200.025)
    assert len(steps) == 10_000
    clock.sleep_until(200.03)
    assert len(steps) == 10_001


def test_the_wall_clock_never_wakes_early():
    clock = WallClock()
    late, spent = [], time.process_time()
    for k in range(60):
        due = clock.now() + 0.0003 * (k + 1)
        clock.sleep_until(due)
        late.append(clock.now() - due)
    assert min(late) >= 0
    assert np.median(late) < 0.005  # generous: of a machine that may be busy
    assert time.process_time() - spent < 0.25  # of .55 s
    clock.sleep_until(clock.now() - 1)

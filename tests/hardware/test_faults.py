"""Every fault in the list causes its reaction in time, and no command leaves its limits."""

import numpy as np
import pytest

from ebt_policy.hardware.emulation.fault_bench import run_case, table
from ebt_policy.hardware.emulation.fault_list import CASES
from ebt_policy.hardware.emulation.fault_world import HZ, VELOCITY, motion


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_loop_reacts_to_a_fault_as_demanded(case):
    row = run_case(case)
    assert row.passed, row


def test_there_are_as_many_faults_as_promised():
    assert len({case.name for case in CASES}) == len(CASES) >= 20


def test_motion_sees_what_is_beyond_a_limit():
    fine = [(k / HZ, np.full(3, 0.05 * k)) for k in range(50)]
    assert motion(fine, 0.5, 0.9).excess == 0
    jump = [*fine[:25], (25 / HZ, np.full(3, 2 * VELOCITY / HZ + 1.2)), *fine[26:]]
    assert motion(jump, 0.5, 0.9).excess > 0


def test_motion_says_when_the_commands_stood_still():
    stops = [(k / HZ, np.full(3, 0.05 * min(k, 30))) for k in range(100)]
    moved = motion(stops, 0.5, 1.5)
    assert moved.held_s == pytest.approx(0.1) and not moved.resumed
    assert motion([(k / HZ, np.full(3, 0.05 * k)) for k in range(100)], 0.5, 1.5).held_s is None


def test_a_row_that_fails_says_what_was_expected():
    from dataclasses import replace

    row = replace(run_case(CASES[0]), expected="goes on")
    assert not row.passed and "expected: goes on" in table([row])

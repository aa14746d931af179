"""The action schedule: which action is due when, late plans, and the transition from one plan to the next."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from ebt_policy.hardware.control.schedule import Schedule

PERIOD, BLEND = 0.1, 0.25
values = st.floats(-1, 1, allow_subnormal=False)
lengths = st.integers(1, 8)
seeds = st.integers(0, 2**32 - 1)


def unhurried(examples: int = 100) -> settings:
    """On a busy machine any example may take long."""
    return settings(deadline=None, max_examples=examples)


def plan(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (n, 2))


@unhurried()
@given(st.floats(0, 1e6), lengths, seeds, st.sampled_from([1 / 30, 0.02, 0.1]))
def test_each_action_is_due_bit_for_bit_at_its_time(seen: float, n: int, seed: int, period: float):
    schedule, rows = Schedule(period), plan(n, seed)
    assert schedule.merge(plan(20, seed + 1), seen - 3 * period, seen) == 3
    assert schedule.merge(rows, seen, seen) == 0  # in no time: it replaces the other at once
    time = seen
    for k, row in enumerate(rows):
        assert np.array_equal(schedule.at(seen + k * period), row)
        assert np.array_equal(schedule.at(time), row)  # sums of periods are not quite multiples of it
        time += period
    assert schedule.at(time) is None


@unhurried()
@given(lengths, st.floats(0, 1), seeds)
def test_a_straight_line_lies_between_two_actions(n: int, share: float, seed: int):
    schedule, rows = Schedule(PERIOD), plan(n + 1, seed)
    schedule.merge(rows, 5.0, 5.0)
    for k in range(n):
        expected = (1 - share) * rows[k] + share * rows[k + 1]
        assert schedule.at(5.0 + (k + share) * PERIOD) == pytest.approx(expected, abs=1e-6)


@unhurried()
@given(lengths, seeds)
def test_there_is_nothing_to_do_before_and_after_a_plan_and_once_cleared(n: int, seed: int):
    schedule = Schedule(PERIOD)
    assert schedule.at(0.0) is None
    assert schedule.end == -np.inf
    schedule.merge(plan(n, seed), 5.0, 5.0)
    assert schedule.end == pytest.approx(5.0 + n * PERIOD)
    assert schedule.at(5.0 - 1e-3) is None
    # The last action is due for one period.
    assert np.array_equal(schedule.at(schedule.end - 1e-3), plan(n, seed)[-1])
    assert schedule.at(schedule.end) is None
    schedule.clear()
    assert schedule.at(5.0) is None
    assert schedule.end == -np.inf


@unhurried()
@given(lengths, lengths, st.floats(0, 5), seeds)
def test_a_plan_wholly_in_the_past_changes_nothing(n: int, old: int, beyond: float, seed: int):
    schedule = Schedule(PERIOD, BLEND)
    schedule.merge(plan(old, seed), 5.0, 5.0)
    times = np.linspace(4.9, 6.0, 56)
    before = [schedule.at(t) for t in times]
    now = 5.0 + beyond
    assert schedule.merge(plan(n, seed + 1), now - n * PERIOD - beyond, now) == n
    for t, value in zip(times, before, strict=True):
        assert np.array_equal(schedule.at(t), value) if value is not None else schedule.at(t) is None


@unhurried()
@given(st.integers(2, 8), st.floats(0.01, 0.7), st.booleans(), seeds)
def test_late_actions_are_never_executed(n: int, delay: float, busy: bool, seed: int):
    """Whatever they were; only the line towards the first that is in time begins at the last that is not."""
    now = 5.0 + delay
    late = min(int(np.ceil(delay / PERIOD - 1e-9)), n)
    first, second = Schedule(PERIOD, BLEND), Schedule(PERIOD, BLEND)
    for schedule, other in ((first, 0.0), (second, 1e6)):
        rows = plan(n, seed)
        rows[: max(late - 1, 0)] += other
        if busy:
            schedule.merge(plan(30, seed + 1), 4.0, 4.0)
        assert schedule.merge(rows, 5.0, now) == late
    for t in np.linspace(now, 5.0 + (n + 1) * PERIOD, 40):
        a, b = first.at(t), second.at(t)
        assert (a is None) == (b is None)
        if a is not None and delay < n * PERIOD:
            assert np.abs(a).max() <= 1
            assert b == pytest.approx(a, abs=1e-9)


arrivals = st.lists(
    st.tuples(st.floats(0.0, 0.4), st.floats(0.01, 0.6), st.integers(1, 8), seeds), min_size=1, max_size=8
)


@unhurried(60)
@given(arrivals)
@example([(0.0, 0.01, 8, 0), (0.3, 0.15, 2, 1)])  # the second is in its last period when it comes
@example([(0.0, 0.01, 8, 0), (0.3, 0.12, 1, 1)])  # all there is of the second
def test_plans_that_come_late_take_over_without_a_jump(arrivals: list[tuple[float, float, int, int]]):
    """gap to the last arrival, lateness, actions and seed of each; the steepest of them bounds how fast the arm goes."""
    schedule, now, steepest = Schedule(PERIOD, BLEND), 10.0, 0.0
    for gap, lateness, n, seed in arrivals:
        now += gap
        rows = plan(n, seed)
        before, old_end = schedule.at(now), schedule.end
        assume(abs(lateness - n * PERIOD) > 1e-6)
        late = schedule.merge(rows, now - lateness, now)
        if lateness > n * PERIOD:
            assert (late, schedule.end) == (n, old_end)
            continue
        slope = np.abs(np.diff(rows, axis=0)).max() / PERIOD if n > 1 else 0.0
        if before is None:
            steepest = slope
        else:
            assert schedule.at(now) == pytest.approx(before, abs=1e-6)  # an old plan covers it: no jump
            # Two plans in -1..1 are at most 2 apart, and change over in as long as it was late.
            steepest = max(steepest, slope) + 2 / min(BLEND, lateness)
        assert schedule.end == pytest.approx(now - lateness + n * PERIOD)
        times = np.arange(now, schedule.end - 2e-9, 1e-3)
        found = np.array([schedule.at(t) for t in times])
        assert np.abs(found).max() <= 1 + 1e-9  # never outside of what was planned
        assert np.abs(np.diff(found, axis=0)).max(initial=0) <= steepest * 1e-3 + 1e-6
        # After the change-over it is the new plan, and nothing else.
        for t in times[times > now + BLEND]:
            line = [np.interp(t, now - lateness + PERIOD * np.arange(n), column) for column in rows.T]
            assert schedule.at(t) == pytest.approx(line, abs=1e-6)


def played(schedule: Schedule, ticks: int) -> np.ndarray:
    return np.array([schedule.smoothed(5.0 + k * PERIOD) for k in range(ticks)])


def test_smoothing_is_the_mean_of_as_much_before_as_after():
    """By hand: at both ends less is known, or the last action goes on."""
    schedule = Schedule(PERIOD, smooth_s=2 * PERIOD)
    schedule.merge(np.array([[0.0], [3.0], [0.0], [5.0], [2.0]]), 5.0, 5.0)
    assert played(schedule, 5)[:, 0] == pytest.approx([0.0, 1.0, 2.0, (3 + 0 + 5 + 2 + 2) / 5, 11 / 5])


@unhurried()
@given(st.integers(2, 12), seeds, st.floats(0.0, 0.6))
def test_smoothing_follows_a_straight_line_without_delay_and_stays_within_the_plan(
    n: int, seed: int, smooth_s: float
):
    schedule, line = Schedule(PERIOD, smooth_s=smooth_s), np.linspace([0.0, 1.0], [1.0, -1.0], 3 * n)
    schedule.merge(line, 5.0, 5.0)
    reach = int(smooth_s / PERIOD) + 1
    assert played(schedule, 3 * n)[: 3 * n - reach] == pytest.approx(line[: 3 * n - reach], abs=1e-6)
    schedule.clear()
    rows = plan(n, seed)
    schedule.merge(rows, 5.0, 5.0)
    found = played(schedule, n)
    assert np.array_equal(found[0], rows[0])  # nothing of before `clear`
    assert (found >= rows.min(0) - 1e-9).all() and (found <= rows.max(0) + 1e-9).all()
    if smooth_s < PERIOD / 2:
        assert np.array_equal(found, rows)


def test_smoothing_takes_jerk_from_trembling_and_from_a_switch():
    schedule, raw = Schedule(PERIOD, smooth_s=5 * PERIOD), Schedule(PERIOD)
    sent = {}
    for each in (schedule, raw):
        sent[each] = []
        for k in range(60):
            if k % 20 == 0:
                each.merge(plan(25, k), 5.0 + k * PERIOD, 5.0 + k * PERIOD)
            sent[each].append(each.smoothed(5.0 + k * PERIOD))
    smooth, rough = (np.abs(np.diff(sent[each], 3, axis=0)) for each in (schedule, raw))
    assert smooth.mean() < 0.3 * rough.mean() and smooth.max() < 0.5 * rough.max()

"""A plan whose actions are their own ticks shows by how many ticks it was shifted."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ebt_policy.inference.plan_memory import PlanMemory


def ticks_as_actions(begin: int, horizon: int) -> np.ndarray:
    """(1, H, 1): each action is the tick that it is for."""
    return np.arange(begin, begin + horizon, dtype=np.float32)[None, :, None]


@given(begin=st.integers(0, 99), horizon=st.integers(1, 20), elapsed=st.integers(0, 30))
def test_every_action_stays_at_its_tick_and_the_last_is_repeated(begin: int, horizon: int, elapsed: int):
    memory = PlanMemory()
    memory.store(ticks_as_actions(begin, horizon), begin)
    found = memory.at(begin + elapsed)
    if elapsed >= horizon:
        assert found is None
    else:
        now = np.arange(begin + elapsed, begin + elapsed + horizon)
        assert np.array_equal(found[0, :, 0], np.minimum(now, begin + horizon - 1))


def test_rows_have_ticks_of_their_own_and_lack_a_plan_on_their_own():
    memory = PlanMemory()
    chunks = np.concatenate([ticks_as_actions(begin, 4) for begin in (0, 10, 20, 30)])
    chunks[3, 2] = np.nan  # dropped
    memory.store(chunks, np.array([0, 10, 20, 30]))
    found = memory.at(np.array([2, 14, 19, 30]))
    assert found is not None and found[0, :, 0].tolist() == [2, 3, 3, 3]
    assert np.isnan(found[1:]).all()  # past its end, before its begin, dropped
    memory.keep([2, 0])
    found = memory.at(np.array([21, 1]))
    assert found is not None and found[..., 0].tolist() == [[21, 22, 23, 23], [1, 2, 3, 3]]


def test_without_a_plan_there_is_none():
    memory = PlanMemory()
    assert memory.at(0) is None
    memory.store(np.full((2, 4, 1), np.nan, np.float32))
    assert memory.at(0) is None
    memory.store(np.zeros((2, 4, 1), np.float32))
    assert memory.at(0.4) is not None  # ticks are rounded
    memory.forget()
    assert memory.at(0) is None

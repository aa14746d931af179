import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ebt_policy.model.trace import StopReason, Trace

NAN = np.nan


def make_trace() -> Trace:
    """Three samples: one breaks at its last point, one stops after a step, one never starts."""
    return Trace(
        energy=np.array([[4, 2, np.inf], [5, NAN, NAN], [NAN, NAN, NAN]], np.float32),
        residual_rms=np.array([[2, 1, 1], [3, NAN, NAN], [NAN, NAN, NAN]], np.float32),
        step_size=np.array([[0, 1, 0.5], [0, NAN, NAN], [NAN, NAN, NAN]], np.float32),
        evaluations=np.array([3, 1, 0]),
        stop_reason=np.array([StopReason.NOT_FINITE, StopReason.SETTLED, StopReason.NONE], np.int8),
        seconds=0.25,
    )


def assert_equal(first: Trace, second: Trace) -> None:
    for name in ("energy", "residual_rms", "step_size", "evaluations", "stop_reason"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    assert first.seconds == second.seconds


def test_final_energy_is_that_of_the_last_point_with_a_finite_one():
    trace = make_trace()
    np.testing.assert_array_equal(trace.final_energy, np.array([2, 5, NAN], np.float32))
    np.testing.assert_array_equal(trace.energy_drop, np.array([2, 0, NAN], np.float32))
    np.testing.assert_array_equal(trace.steps_taken, [3, 1, 0])


def test_a_row_is_the_same_decision_without_padding():
    trace = make_trace()
    assert [trace.row(i).steps for i in range(3)] == [3, 1, 0]
    for i in range(3):
        row = trace.row(i)
        assert row.batch_size == 1
        np.testing.assert_array_equal(row.final_energy, trace.final_energy[i : i + 1])
        np.testing.assert_array_equal(row.energy_drop, trace.energy_drop[i : i + 1])


def test_json_round_trip_keeps_everything():
    trace = make_trace()
    back = Trace.from_dict(json.loads(json.dumps(trace.to_dict(), allow_nan=False)))
    trace.energy[np.isinf(trace.energy)] = NAN  # JSON has neither
    assert_equal(back, trace)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_trace_without_steps_has_a_cost_and_no_energy(batch_size: int):
    trace = Trace.without_steps(batch_size, evaluations=100, seconds=1.5)
    assert trace.steps == 0 and trace.batch_size == batch_size
    assert np.isnan(trace.final_energy).all() and trace.final_energy.shape == (batch_size,)
    assert (trace.evaluations == 100).all()
    assert_equal(Trace.from_dict(json.loads(json.dumps(trace.to_dict()))), trace)


@given(arrays(np.float32, (3, 5), elements=st.floats(0, 1e6, width=32)))
def test_the_drop_is_from_the_first_to_the_last_energy(energy: np.ndarray):
    counts, zeros = np.full(3, 5), np.zeros((3, 5), np.float32)
    trace = Trace(energy, zeros, zeros, counts, np.zeros(3, np.int8))
    np.testing.assert_array_equal(trace.final_energy, energy[:, -1])
    np.testing.assert_array_equal(trace.energy_drop, energy[:, 0] - energy[:, -1])

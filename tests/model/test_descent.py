"""Descent on energies whose minimum is known: the energy falls, samples are independent, every stopping rule fires."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ebt_policy.model.descent import DescentRule, minimise, proximal
from ebt_policy.model.energy import Evaluation
from ebt_policy.model.trace import StopReason


def bowl(target: Tensor, stiffness: float = 1.0):
    """E = stiffness / 2 ||x - target||^2 with the minus gradient as update."""

    def energy_function(x: Tensor, rows: Tensor) -> Evaluation:
        away = x - target[rows]
        return Evaluation(0.5 * stiffness * away.square().sum((1, 2)), -stiffness * away)

    return energy_function


def chunks(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, 4, 2, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(stiffness=st.floats(0.1, 1.9), step_size=st.floats(0.1, 1.0), seed=st.integers(0, 99))
def test_energy_falls_on_every_step_that_does_not_overshoot_twofold(
    stiffness: float, step_size: float, seed: int
) -> None:
    rule = DescentRule(step_size=step_size, max_evaluations=6)
    _, trace = minimise(bowl(chunks(5, seed), stiffness), torch.zeros(5, 4, 2), rule)
    assert (trace.energy[:, 1:] <= trace.energy[:, :-1]).all()
    assert (trace.evaluations == 6).all()


def test_a_full_step_of_a_denoiser_gives_its_answer_for_one_evaluation() -> None:
    target = chunks(3)
    chunk, trace = minimise(bowl(target), torch.zeros(3, 4, 2), DescentRule(max_evaluations=1))
    torch.testing.assert_close(chunk, target)
    assert trace.evaluations.tolist() == [1, 1, 1]


def test_a_sample_does_not_depend_on_its_batch_mates() -> None:
    target = chunks(6)
    rule = DescentRule(step_size=0.5, max_evaluations=20, settled=0.05)
    start = 3 * chunks(6, seed=1) * torch.arange(6)[:, None, None]  # each needs another number of steps
    together, trace = minimise(bowl(target, 0.5), start, rule)
    assert len(set(trace.evaluations.tolist())) > 1
    for i in range(6):
        alone, own = minimise(bowl(target[i : i + 1], 0.5), start[i : i + 1], rule)
        torch.testing.assert_close(alone[0], together[i])
        assert own.evaluations[0] == trace.evaluations[i]
        assert own.stop_reason[0] == trace.stop_reason[i]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (DescentRule(max_evaluations=3), StopReason.BUDGET),
        (DescentRule(step_size=0.5, max_evaluations=50, settled=0.01), StopReason.SETTLED),
        (DescentRule(step_size=0.5, max_evaluations=50, energy=0.01), StopReason.ENERGY),
        (DescentRule(max_evaluations=50, deadline=0.0), StopReason.DEADLINE),
    ],
)
def test_the_trace_names_the_rule_that_fired_first(rule: DescentRule, reason: StopReason) -> None:
    low = torch.zeros(2)
    _, trace = minimise(bowl(chunks(2)), torch.zeros(2, 4, 2), rule, reading=lambda: low, clock=lambda: 1.0)
    assert (trace.stop_reason == reason).all()


def test_only_samples_whose_last_plan_is_still_right_stop_early() -> None:
    energies = torch.tensor([0.5, 2.0, torch.nan])  # the third has no last plan
    rule = DescentRule(step_size=0.5, max_evaluations=5, energy=1.0)
    _, trace = minimise(bowl(chunks(3)), torch.zeros(3, 4, 2), rule, reading=lambda: energies)
    assert trace.evaluations.tolist() == [1, 5, 5]


def test_an_answer_that_stays_the_same_is_settled_at_the_second_evaluation() -> None:
    # With stiffness 1 the update leads all the way: the answer is the target from the first evaluation on.
    rule = DescentRule(step_size=0.5, max_evaluations=50, settled=0.01)
    _, trace = minimise(bowl(chunks(3)), torch.zeros(3, 4, 2), rule)
    assert trace.evaluations.tolist() == [2, 2, 2]


def test_what_was_expected_settles_at_the_first_evaluation() -> None:
    target = chunks(3)
    expected = target.clone()
    expected[1] += 1.0
    expected[2] = torch.nan  # no plan from before
    expected[0, 2:] += 1.0  # beyond the ticks that count
    rule = DescentRule(step_size=0.5, max_evaluations=50, settled=0.01, settled_ticks=2)
    _, trace = minimise(bowl(target), torch.zeros(3, 4, 2), rule, expected=expected)
    assert trace.evaluations.tolist() == [1, 2, 2]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_without_a_finite_energy_there_is_no_answer_and_batch_mates_do_not_notice(value: float) -> None:
    target = chunks(3)

    def broken_for_the_second(x: Tensor, rows: Tensor) -> Evaluation:
        found = bowl(target)(x, rows)
        found.energy[rows == 1] = value
        return found

    start, rule = chunks(3, seed=1), DescentRule(max_evaluations=5)
    chunk, trace = minimise(broken_for_the_second, start, rule)
    usual, _ = minimise(bowl(target), start, rule)
    assert torch.isnan(chunk[1]).all() and trace.stop_reason[1] == StopReason.NOT_FINITE
    assert torch.equal(chunk[[0, 2]], usual[[0, 2]])


def test_a_broken_evaluation_after_a_good_one_ends_the_descent_at_the_good_one() -> None:
    target, calls = chunks(2), []

    def breaks(x: Tensor, rows: Tensor) -> Evaluation:
        calls.append(x)
        found = bowl(target)(x, rows)
        return found if len(calls) == 1 else Evaluation(found.energy * torch.nan, found.update * torch.nan)

    chunk, trace = minimise(breaks, torch.zeros(2, 4, 2), DescentRule(max_evaluations=9))
    torch.testing.assert_close(chunk, target)
    assert trace.evaluations.tolist() == [2, 2]
    assert trace.stop_reason.tolist() == [StopReason.NOT_FINITE] * 2


def test_extra_energies_compose_and_cost_no_evaluation() -> None:
    def limit(x: Tensor) -> Tensor:
        return 1e3 * (x - 0.5).clamp(min=0).square().sum((1, 2))

    target = torch.full((2, 4, 2), 0.9)
    free, _ = minimise(bowl(target), torch.zeros(2, 4, 2), DescentRule(max_evaluations=2))
    bound, trace = minimise(bowl(target), torch.zeros(2, 4, 2), DescentRule(max_evaluations=2), extra=[limit])
    assert free.max() > 0.85
    assert bound.max() < 0.52
    assert (trace.evaluations <= 2).all()


def test_proximal_never_raises_its_own_value() -> None:
    centre = chunks(4)

    def extra(x: Tensor) -> Tensor:
        return 50 * (x[:, 1:] - x[:, :-1]).square().sum((1, 2))

    result = proximal(centre, [extra])
    value = 0.5 * (result - centre).square().sum((1, 2)) + extra(result)
    assert (value <= extra(centre)).all()


def test_no_sample_stops_before_its_fewest_evaluations() -> None:
    rule = DescentRule(step_size=0.5, max_evaluations=50, min_evaluations=4, settled=10.0)
    _, trace = minimise(bowl(chunks(3)), torch.zeros(3, 4, 2), rule)
    assert trace.evaluations.tolist() == [4, 4, 4]


def test_the_energy_in_the_trace_is_the_sum_with_the_callers_energies() -> None:
    target, start = chunks(2), torch.full((2, 4, 2), 0.7)

    def extra(x: Tensor) -> Tensor:
        return 3 * x.square().sum((1, 2))

    _, trace = minimise(bowl(target), start, DescentRule(max_evaluations=1), extra=[extra])
    expected = 0.5 * (start - target).square().sum((1, 2)) + extra(start)
    torch.testing.assert_close(torch.from_numpy(trace.energy[:, 0]), expected)

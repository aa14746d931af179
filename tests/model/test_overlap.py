"""The overlap with the chunk before: what is fixed stays fixed bit for bit, the pull is a proximal step and falls as LeRobot's does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot.configs.types import RTCAttentionSchedule
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from torch import Tensor

from ebt_policy.model.descent import DescentRule, minimise, proximal
from ebt_policy.model.energy import Evaluation
from ebt_policy.model.overlap import SCHEDULES, Overlap

B, H, A = 3, 16, 2


def chunks(seed: int) -> Tensor:
    return torch.randn(B, H, A, generator=torch.Generator().manual_seed(seed))


def shifted(known: int, seed: int = 0) -> Tensor:
    """The chunk before, of which `known` actions are left, the last one repeated."""
    chunk = chunks(seed)
    return torch.cat([chunk[:, :known], chunk[:, known - 1 : known].expand(-1, H - known, -1)], 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@settings(max_examples=40, deadline=None)
@given(fixed=st.integers(0, H + 2), known=st.integers(1, H), end=st.one_of(st.none(), st.integers(0, H)))
def test_weights_are_lerobots(schedule: str, fixed: int, known: int, end: int | None) -> None:
    last = known if end is None else min(known, end)
    theirs = RTCProcessor(RTCConfig(prefix_attention_schedule=RTCAttentionSchedule(schedule.upper())))
    weights = Overlap.of(shifted(known), fixed, end, schedule).weights
    expected = theirs.get_prefix_weights(fixed, last, H)
    torch.testing.assert_close(weights, expected.expand(B, -1))


@settings(max_examples=40, deadline=None)
@given(
    fixed=st.integers(0, H),
    known=st.integers(1, H),
    schedule=st.sampled_from(SCHEDULES),
    evaluations=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_what_is_fixed_comes_back_bit_for_bit_from_every_descent(
    fixed: int, known: int, schedule: str, evaluations: int, seed: int
) -> None:
    previous, target = shifted(known, seed), chunks(seed + 1)
    seen: list[Tensor] = []

    def energy(x: Tensor, rows: Tensor) -> Evaluation:
        seen.append(x)
        away = x - target[rows]
        return Evaluation(0.5 * away.square().sum((1, 2)), -away)

    overlap = Overlap.of(previous, fixed, schedule=schedule)
    limits = (lambda x: 50 * x.square().sum((1, 2)),)  # a caller's energy does not move it either
    chunk, _ = minimise(energy, chunks(99), DescentRule(max_evaluations=evaluations), limits, overlap=overlap)
    kept = min(fixed, known)
    for x in (*seen, chunk):
        assert torch.equal(x[:, :kept], previous[:, :kept])
    free = overlap.weights == 0
    without, _ = minimise(energy, chunks(99), DescentRule(max_evaluations=1), overlap=overlap)
    torch.testing.assert_close(without[free], target[free])  # nothing else is pulled


def test_the_pull_is_the_proximal_step_of_a_quadratic_energy() -> None:
    overlap = Overlap.of(shifted(12), 0)
    weight = overlap.weights.clamp(max=0.9)
    stiffness = weight / (1 - weight)
    energy = 0.5 * stiffness[..., None]
    by_steps = proximal(chunks(5), (lambda x: (energy * (x - overlap.values).square()).sum((1, 2)),), 400)
    pulled = Overlap(overlap.values, weight).pull(chunks(5))
    torch.testing.assert_close(pulled, by_steps, rtol=1e-3, atol=1e-3)


def test_a_row_without_a_chunk_before_is_free() -> None:
    previous = shifted(10)
    previous[1] = torch.nan
    pulled = Overlap.of(previous, 4).pull(chunks(3))
    assert torch.equal(pulled[1], chunks(3)[1])
    assert torch.equal(pulled[0, :4], previous[0, :4])

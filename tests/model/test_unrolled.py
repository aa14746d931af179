"""The paper's recipe: where its descent ends, and that acting is what was trained."""

import pytest
import torch
from core_fixtures import Perfect, make_batch, make_policy

from ebt_policy.model.descent import Terms
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import StopReason
from ebt_policy.model.unrolled import unrolled, unrolled_descent

PLAIN = {
    "objective": "unrolled",
    "start": "noise",
    "unrolled_momentum": 0.0,
    "unrolled_langevin": (0.0, 0.0),
    "unrolled_temperature": None,
}


def test_descent_of_the_oracle_comes_close_to_the_chunk() -> None:
    config = make_policy(**PLAIN).config
    chunk = make_batch(64)["action"]
    _error, metrics = unrolled(Perfect(chunk), None, chunk, config)
    assert metrics["mse_last_step"] < 0.01 * metrics["mse_first_step"] + 1e-3
    landed, trace = unrolled_descent(Perfect(chunk), None, torch.randn_like(chunk), config, 2)
    torch.testing.assert_close(landed, chunk)
    assert trace.energy.shape == (64, 2) and (trace.energy[:, 1] < 1e-9).all()


class Flat:
    """An energy without slope: descent stays where it starts."""

    def gradient(self, chunk, context, create_graph=False):
        return chunk.new_zeros(len(chunk)), torch.zeros_like(chunk)


@pytest.mark.parametrize(("start", "bounds"), [("noise", (0.85, 1.05)), ("warm", (0.2, 0.45))])
def test_training_starts_where_acting_does(start: str, bounds: tuple[float, float]) -> None:
    """From noise, or from the demonstration with a share of noise that is uniform: its mean square is a third of noise's."""
    config = make_policy(**PLAIN | {"start": start, "unrolled_steps": 1, "unrolled_extra_steps": 0}).config
    chunk = torch.zeros(512, 16, 2)
    _, metrics = unrolled(Flat(), None, chunk, config)
    assert bounds[0] < metrics["mse_first_step"] < bounds[1]


@pytest.mark.parametrize("change", [{}, {"unrolled_momentum": 0.9}])
def test_acting_takes_the_steps_that_were_trained(change: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    options = PLAIN | {"head": "scalar", "unrolled_temperature": 1.0} | change
    policy = make_policy(**options, unrolled_steps=3, unrolled_extra_steps=0)
    batch = make_batch(4)
    context = policy.model.context({k: batch[k] for k in policy.config.observation_features()})
    chunk = batch["action"]
    start = torch.randn_like(chunk)
    landed, _ = unrolled_descent(policy.model, context, start, policy.config, 3)
    monkeypatch.setattr(torch, "randn_like", lambda x: start)
    # The step size that training draws around its mean: here its mean.
    monkeypatch.setattr(torch, "rand", lambda n, device: torch.full((n,), (1 - 1 / 1.5) / (1.5 - 1 / 1.5)))
    _, metrics = unrolled(policy.model, context, chunk, policy.config)
    torch.testing.assert_close(metrics["mse_last_step"], (landed - chunk).square().mean())


def test_a_callers_energy_bounds_the_chunk() -> None:
    config = make_policy(**PLAIN).config
    chunk = torch.ones_like(make_batch(4)["action"])
    terms = Terms((lambda x: 50 * x.square().sum((1, 2)),))
    landed, _ = unrolled_descent(Perfect(chunk), None, torch.randn_like(chunk), config, 2, terms)
    assert landed.abs().max() < 0.5


def test_a_deadline_ends_it_after_the_evaluation_under_way() -> None:
    config = make_policy(**PLAIN).config
    chunk = make_batch(2)["action"]
    ticks = iter([0.0, 1.0, 2.0])
    _, trace = unrolled_descent(
        Perfect(chunk), None, torch.randn_like(chunk), config, 6, deadline=1.0, clock=lambda: next(ticks)
    )
    assert (trace.evaluations == 2).all() and (trace.stop_reason == StopReason.DEADLINE).all()


def test_the_papers_recipe_starts_from_unit_noise() -> None:
    policy = make_policy(**PLAIN)
    drawn = Noise.from_seeds([0, 1]).normal((1, 16, 2))[:, 0]
    torch.testing.assert_close(policy._start(2, Noise.from_seeds([0, 1]), None, torch.device("cpu")), drawn)

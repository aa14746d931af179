"""The cosine between a step and the descent direction, on energies where it is known."""

import pytest
import torch
from core_fixtures import make_batch, make_policy
from torch import Tensor

from ebt_policy.eval.benchmarks.energy_descent import cosines, descent, rose
from ebt_policy.model.trace import Trace


class Flat:
    """D is a linear map of flat chunks; E = 1/2 ||x - D||^2."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def denoise(self, x: Tensor, context: None) -> Tensor:
        return (x.flatten(1) @ self.matrix.T).view_as(x)

    def gradient(self, x: Tensor, context: None) -> tuple[Tensor, Tensor]:
        away = (x - self.denoise(x, context)).flatten(1)
        return 0.5 * away.square().sum(1), (away - away @ self.matrix).view_as(x)


def test_a_projection_steps_along_minus_the_gradient_and_a_shear_does_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 2, 1)
    onto_first = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(cosines(Flat(onto_first), x, None), torch.ones(5))
    shear = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    assert (cosines(Flat(shear), x, None) < 0.95).any()


@pytest.mark.parametrize("noise_levels", [None, (0.15, 2.0)])
def test_every_kind_of_point_has_a_median_and_a_5th_percentile(
    noise_levels: tuple[float, float] | None,
) -> None:
    policy = make_policy(noise_levels=noise_levels)
    batch = make_batch(8)
    with torch.no_grad():
        context = policy.model.context(policy._observations(batch))
    found = descent(policy.model, context, batch["action"], noise_levels)
    assert {"demonstration", "iterate 4", "answer after 2"} <= found.keys()
    assert all(-1 <= low <= median <= 1.0001 for median, low in found.values())


def test_gradient_steps_follow_the_gradient() -> None:
    policy = make_policy(descends="gradient")
    batch = make_batch(4)
    with torch.no_grad():
        context = policy.model.context(policy._observations(batch))
    evaluation = policy.model.evaluate(batch["action"], context)
    energy, gradient = policy.model.gradient(batch["action"], context)
    torch.testing.assert_close(evaluation.update, -gradient)
    torch.testing.assert_close(evaluation.energy, energy.detach())


def test_rose_counts_the_steps_that_did_not_lower_the_energy() -> None:
    def one(energies: list[float]) -> Trace:
        steps = [(torch.tensor([energy]), torch.ones(1), torch.ones(1)) for energy in energies]
        return Trace.from_steps(steps, torch.tensor([len(energies)]), torch.zeros(1))

    assert rose([one([2, 1]), one([3, 4, 2])]) == pytest.approx(1 / 3)

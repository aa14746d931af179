"""Own iterates: how far they go and what is left of the noise; and when a step is minus the energy's gradient."""

import torch
from core_fixtures import make_batch, make_policy
from torch import Tensor

from ebt_policy.model.objectives import denoise, noised
from ebt_policy.model.own_iterates import SHORTEST_STEP, pull_back, rolled


class Oracle:
    """D = a, where the context is a."""

    def denoise(self, x: Tensor, context: Tensor) -> Tensor:
        return context


def test_half_of_the_batch_is_stepped_and_half_of_that_again() -> None:
    torch.manual_seed(0)
    chunk = make_batch(64)["action"]
    config = make_policy().config
    start, g = noised(chunk, config)
    x, noise = rolled(Oracle(), chunk, start, 1 - g, 3)
    left = ((x - chunk).square().sum((1, 2)) / (start - chunk).square().sum((1, 2))).sqrt()
    torch.testing.assert_close(left, (noise / (1 - g)).flatten(), atol=1e-4, rtol=1e-4)
    assert (left[32:] == 1).all()
    for rows, steps in ((slice(16, 32), 1), (slice(8, 16), 2), (slice(0, 8), 3)):
        assert (left[rows] <= (1 - SHORTEST_STEP) ** steps).all()


def test_iterates_come_without_a_graph_and_their_loss_with_one() -> None:
    policy = make_policy(iterates=2)
    batch = make_batch(8)
    context = policy.model.context(policy._observations(batch))
    x, _ = rolled(policy.model, context, batch["action"], torch.ones(8, 1, 1), 2)
    assert not x.requires_grad
    error, _ = denoise(policy.model, context, batch["action"], policy.config)
    assert error.requires_grad


class Linear:
    """D(x) = M x on flat chunks."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix

    def denoise(self, x: Tensor, context: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.T).view_as(x)


def test_pull_back_is_the_transposed_jacobian_along_the_step() -> None:
    torch.manual_seed(0)
    matrix, x = torch.randn(6, 6), torch.randn(5, 3, 2)
    step = x.flatten(1) @ (matrix - torch.eye(6)).T
    expected = ((step / step.norm(dim=1, keepdim=True)) @ matrix).square().sum(1)
    torch.testing.assert_close(pull_back(Linear(matrix), x, x), expected)


def test_a_projection_is_pulled_back_to_nothing_so_its_step_is_minus_the_gradient() -> None:
    projection = torch.diag(torch.tensor([1.0, 1.0, 0, 0, 0, 0]))
    x = torch.randn(5, 3, 2)
    torch.testing.assert_close(pull_back(Linear(projection), x, x), torch.zeros(5))


def test_the_penalty_turns_steps_towards_minus_the_gradient() -> None:
    policy = make_policy(iterates=2, curl_weight=1.0).train()
    batch = make_batch(64)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    values = []
    for _ in range(60):
        loss, metrics = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(metrics["curl"])
    assert sum(values[-10:]) < 0.5 * sum(values[:10])

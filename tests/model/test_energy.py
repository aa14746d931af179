"""The energy: its heads, its gradient, and that samples are independent."""

import pytest
import torch
from core_fixtures import make_batch, make_policy


@pytest.mark.parametrize("head", ["residual", "scalar"])
def test_gradient_agrees_with_finite_differences(head: str) -> None:
    model = make_policy(head=head, objective="matching").model.double()
    observations = {k: v.double() for k, v in make_batch(3).items() if k.startswith("observation")}
    context = model.context(observations).detach()
    chunk = make_batch(3)["action"].double()
    direction = torch.randn(chunk.shape, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    _, gradient = model.gradient(chunk, context)

    # Energies are summed in float32, so the step is large and the tolerance loose.
    step = 1e-2
    rise = model.energy(chunk + step * direction, context) - model.energy(chunk - step * direction, context)
    torch.testing.assert_close(
        (gradient * direction).sum((1, 2)).float(), (rise / (2 * step)).float(), rtol=0.02, atol=2e-3
    )


@pytest.mark.parametrize("head", ["residual", "scalar"])
def test_energy_of_a_sample_does_not_depend_on_its_batch_mates(head: str) -> None:
    model = make_policy(head=head, objective="matching").model
    batch = make_batch(5)
    context = model.context({k: v for k, v in batch.items() if k.startswith("observation")}).detach()
    together, gradient = model.gradient(batch["action"], context)
    for i in range(5):
        alone, own = model.gradient(batch["action"][i : i + 1], context[i : i + 1])
        torch.testing.assert_close(alone[0], together[i])
        torch.testing.assert_close(own[0], gradient[i])


def test_residual_energy_is_half_the_squared_distance_to_the_proposal() -> None:
    model = make_policy().model
    batch = make_batch(4)
    context = model.context({k: v for k, v in batch.items() if k.startswith("observation")}).detach()
    evaluation = model.evaluate(batch["action"], context)
    torch.testing.assert_close(evaluation.update, model.denoise(batch["action"], context) - batch["action"])
    torch.testing.assert_close(evaluation.energy, model.energy(batch["action"], context))
    assert (evaluation.energy >= 0).all()


def test_the_update_of_a_gradient_head_goes_downhill() -> None:
    model = make_policy(head="scalar", objective="matching").model
    batch = make_batch(3)
    context = model.context({k: v for k, v in batch.items() if k.startswith("observation")}).detach()
    evaluation = model.evaluate(batch["action"], context)
    later = model.evaluate(batch["action"] + 1e-3 * evaluation.update, context)
    assert (later.energy < evaluation.energy).all()

"""Objectives: what each is minimised by, and that each trains the energy on a problem whose answer is known."""

import pytest
import torch
from core_fixtures import Perfect, make_batch, make_policy
from torch import Tensor

from ebt_policy.model.objectives import denoise, matching, noised


@pytest.mark.parametrize("objective", [denoise, matching])
def test_the_oracle_has_no_loss(objective) -> None:
    config = make_policy(objective=objective.__name__).config
    chunk = make_batch(8)["action"]
    error, _ = objective(Perfect(chunk), None, chunk, config)
    torch.testing.assert_close(error, torch.zeros_like(error), atol=1e-8, rtol=0)


def test_interpolation_covers_the_range_from_noise_to_data() -> None:
    torch.manual_seed(0)
    chunk = make_batch(4000)["action"]
    _, n = noised(chunk, make_policy(noise_levels=None).config)
    assert n.min() < 0.01 and n.max() > 0.99
    assert abs(float(n.mean()) - 0.5) < 0.02


def test_added_noise_keeps_the_demonstration_and_lies_between_its_levels() -> None:
    torch.manual_seed(0)
    chunk = make_batch(4000)["action"]
    x, n = noised(chunk, make_policy(noise_levels=(0.2, 1.5)).config)
    level = n / (1 - n)
    assert 0.2 <= level.min() < 0.21 and 1.48 < level.max() <= 1.5
    noise = (x - chunk) / level
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01
    sizes = torch.stack([level.flatten(), (x - chunk).square().mean((1, 2)).sqrt()])
    assert torch.corrcoef(sizes)[0, 1] > 0.9  # each sample has a level of its own


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "denoise"},
        {"objective": "matching"},
        {"objective": "matching", "head": "scalar"},
        {"objective": "unrolled", "head": "scalar", "unrolled_steps": 2, "unrolled_extra_steps": 0},
        {"objective": "denoise", "noise_levels": None},
    ],
    ids=lambda options: "-".join(str(v) for v in options.values()),
)
def test_training_lowers_the_loss_on_one_batch(options: dict) -> None:
    policy = make_policy(**options).train()
    batch = make_batch(32)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    losses = []
    for _ in range(120):
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_flow_weighting_has_mean_one() -> None:
    policy = make_policy(noise_levels=None)
    chunk = make_batch(20000)["action"]

    class OffByOne(Perfect):
        def denoise(self, x: Tensor, context: Tensor) -> Tensor:
            return self.chunk + 1

    torch.manual_seed(0)
    error, _ = denoise(OffByOne(chunk), None, chunk, policy.config)
    assert abs(error.mean().item() - 1) < 0.05
    assert error.max() > 3  # little noise counts for more


def test_observation_noise_is_for_training_alone() -> None:
    policy = make_policy(observation_noise=0.5)
    batch = make_batch(4)

    def loss() -> float:
        torch.manual_seed(0)
        return policy.loss(batch)[0].item()

    quiet = loss()
    assert loss() == quiet
    policy.config.observation_noise = 0.0
    assert loss() == quiet  # in evaluation mode it made no difference
    vector, picture = torch.zeros(2000, 2, 3), torch.zeros(2, 2, 3, 8, 8)
    policy.config.observation_noise = 0.1
    torch.manual_seed(0)
    assert abs(policy._perturbed(vector).std().item() - 0.1) < 0.01
    assert policy._perturbed(picture) is picture


def test_masked_padding_has_no_influence_on_the_loss() -> None:
    policy = make_policy(mask_padding=True)
    batch = make_batch(4)
    batch["action_is_pad"][:, 10:] = True
    torch.manual_seed(0)
    before, _ = policy.loss(batch)
    changed = batch | {"action": batch["action"].clone()}
    changed["action"][:, 10:] += 5.0
    torch.manual_seed(0)
    after, _ = policy.loss(changed | {"action_is_pad": torch.zeros_like(batch["action_is_pad"])})
    assert after > 2 * before  # without the mask, the same entries decide the loss
    batch["action_is_pad"][:] = True
    torch.manual_seed(0)
    nothing, _ = policy.loss(batch)
    assert nothing.item() == 0.0


def test_compiled_matching_gives_the_same_gradients() -> None:
    """The energy's gradient is in the loss, so the compiler has to trace a derivative and then differentiate it."""
    policy, batch = make_policy(objective="matching", layers=1).train(), make_batch(4)

    def gradients(loss) -> list[Tensor]:
        torch.manual_seed(0)
        policy.zero_grad()
        loss(batch)[0].backward()
        return [p.grad.clone() for p in policy.parameters() if p.grad is not None]

    for ours, theirs in zip(
        gradients(torch.compile(policy.loss, backend="aot_eager")), gradients(policy.loss), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)

"""Objectives: what each is minimised by, and that each trains the energy on a problem whose answer is known."""

from pathlib import Path

import pytest
import torch
from core_fixtures import Perfect, make_batch, make_policy
from torch import Tensor

from ebt_policy.model.objectives import denoise, flow, matching, noised, verifier


@pytest.mark.parametrize("objective", [denoise, matching])
def test_the_oracle_has_no_loss(objective) -> None:
    config = make_policy(objective=objective.__name__).config
    chunk = make_batch(8)["action"]
    error, _ = objective(Perfect(chunk), None, chunk, config)
    torch.testing.assert_close(error, torch.zeros_like(error), atol=1e-8, rtol=0)


def test_flow_of_the_oracle_lands_on_the_chunk_in_any_number_of_steps() -> None:
    chunk = make_batch(4)["action"]
    for steps in (1, 2, 7):
        torch.testing.assert_close(flow(Perfect(chunk), None, torch.randn_like(chunk), steps), chunk)


def test_noise_levels_cover_the_range_from_noise_to_data() -> None:
    torch.manual_seed(0)
    _, g = noised(make_batch(4000)["action"], make_policy().config)
    assert g.min() < 0.01 and g.max() > 0.99
    assert abs(float(g.mean()) - 0.5) < 0.02


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "denoise"},
        {"objective": "matching"},
        {"objective": "matching", "head": "scalar", "matching_target": "truncated"},
        {"objective": "unrolled", "head": "scalar", "unrolled_steps": 2, "unrolled_extra_steps": 0},
        {"objective": "denoise", "verifier_weight": 0.1},
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


def test_two_step_fine_tuning_comes_closer_to_the_teacher() -> None:
    policy = make_policy(objective="two_step").train()
    batch = make_batch(64)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    losses = []
    for _ in range(100):
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert not any("teacher" in name for name in policy.state_dict())


def test_the_teacher_is_the_policy_at_its_path_whatever_was_trained_since(tmp_path: Path) -> None:
    make_policy().save_pretrained(tmp_path)
    student = make_policy(objective="two_step", teacher_path=str(tmp_path))
    expected = {name: value.clone() for name, value in student.model.state_dict().items()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    teacher = student._frozen_teacher()
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_flow_weighting_has_mean_one() -> None:
    policy = make_policy(noise_weighting="flow", zero_start_share=0.0)
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


def test_the_verifier_gives_the_expert_the_lowest_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make_batch(6)
    config = make_policy(verifier_weight=1.0, verifier_negatives=4, verifier_temperature=0.05).config

    class Oracle(Perfect):
        def energy(self, x: Tensor, context: Tensor) -> Tensor:
            return (x - self.chunk.repeat(5, 1, 1)).square().sum((1, 2))  # of the expert and four corrupted

    torch.manual_seed(0)
    monkeypatch.setattr(torch, "rand", torch.ones)  # all corrupted chunks are far from the expert's
    loss, metrics = verifier(Oracle(batch["action"]), torch.zeros(6, 1), batch["action"], config)
    assert loss < 0.1 and metrics["verifier_accuracy"] == 1

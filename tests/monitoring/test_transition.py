"""The transition energy is low where the world answers as in training and high where it does not."""

from pathlib import Path

import pytest
import torch

from ebt_policy.errors import UserError
from ebt_policy.monitoring.transition import TransitionEnergy, train_transition


def world(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A point that moves by the mean action; one coordinate is noisy, one constant."""
    features = torch.randn(n, 3, generator=generator)
    features[:, 2] = 0.5
    actions = torch.randn(n, 4, 2, generator=generator)
    following = features.clone()
    following[:, 0] += actions.mean((1, 2))
    following[:, 1] += 0.5 * torch.randn(n, generator=generator)
    return features, actions, following


@pytest.fixture(scope="module")
def energy() -> TransitionEnergy:
    return train_transition(*world(4000, torch.Generator().manual_seed(0)), "abc", steps=600)


def test_it_rises_when_the_world_does_not_answer(energy: TransitionEnergy):
    features, actions, following = world(500, torch.Generator().manual_seed(1))
    usual = energy(features, actions, following)
    pushed = following.clone()
    pushed[:, 0] += 0.5
    assert (energy(features, actions, pushed) > usual.quantile(0.95)).float().mean() > 0.95
    stuck = energy(features, actions, features)
    assert stuck.median() > usual.median()
    # What is noisy in training is no surprise of the same size.
    noisy = following.clone()
    noisy[:, 1] += 0.5
    assert energy(features, actions, noisy).median() < energy(features, actions, pushed).median()


def test_it_returns_from_its_folder_and_belongs_to_one_checkpoint(energy: TransitionEnergy, tmp_path: Path):
    energy.save(tmp_path)
    again = TransitionEnergy.load(tmp_path, "abc")
    sample = world(10, torch.Generator().manual_seed(2))
    assert torch.equal(again(*sample), energy(*sample))
    with pytest.raises(UserError, match="another checkpoint"):
        TransitionEnergy.load(tmp_path, "xyz")
    with pytest.raises(UserError, match="no transition energy"):
        TransitionEnergy.load(tmp_path / "nothing")


def test_the_mean_is_that_of_small_and_of_large_changes() -> None:
    features, actions, _ = world(4000, torch.Generator().manual_seed(0))
    change = torch.stack([actions.mean((1, 2)), 0.01 * actions[:, 0, 0], 0 * actions[:, 0, 0]], 1)
    trained = train_transition(features, actions, features + change, "abc", steps=600)
    told = trained.net(torch.cat([features, actions.flatten(1)], 1))[:, :3]
    for i in (0, 1):
        assert (told - change)[:, i].square().mean().sqrt() < 0.2 * change[:, i].square().mean().sqrt()
    moved = features + change
    moved[:, 2] += 1.0
    assert torch.isfinite(trained(features, actions, moved)).all()

"""The distilled network has small errors on training data and large ones elsewhere, and belongs to one checkpoint."""

from pathlib import Path

import pytest
import torch

from ebt_policy.errors import UserError
from ebt_policy.monitoring import distillation
from ebt_policy.monitoring.distillation import Distillation, train_distillation
from ebt_policy.monitoring.learned_signals import LearnedSignals, beside, learned


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(distillation, "STEPS", 400)
    return 0.1 * torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))


def test_unseen_features_score_higher(seen: torch.Tensor):
    made = train_distillation(seen, "abc")
    usual, unseen = made(seen[:200]), made(seen[:200] + torch.tensor([2.0, 0, 0, 0]))
    assert usual.shape == (200,) and (usual >= 0).all()
    assert (unseen > usual.quantile(0.95)).float().mean() > 0.95


def test_saved_beside_a_calibration_it_is_the_same(
    seen: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(distillation, "STEPS", 20)
    made = train_distillation(seen, "abc")
    folder = beside(tmp_path / "calibration.json")
    LearnedSignals(rnd=made).save(folder)
    read = LearnedSignals.load(folder, learned(("energy", "rnd")), "abc")
    assert read.names == {"rnd"} and read.rnd is not None and torch.equal(read.rnd(seen), made(seen))
    with pytest.raises(UserError, match="another checkpoint"):
        Distillation.load(folder, "abd")
    with pytest.raises(UserError, match="holds no transition energy"):
        LearnedSignals.load(folder, ["transition"], "abc")

"""logpZO is low on training data and high elsewhere."""

import pytest
import torch

from ebt_policy.eval.failures.novelty import log_density_of_noise
from ebt_policy.monitoring import distillation


def test_unseen_scenes_score_higher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distillation, "STEPS", 400)
    generator = torch.Generator().manual_seed(0)
    seen = 0.1 * torch.randn(2000, 4, generator=generator)
    score = log_density_of_noise(seen)
    usual, unseen = score(seen[:200]), score(seen[:200] + torch.tensor([2.0, 0, 0, 0]))
    assert usual.shape == (200,) and (usual >= 0).all()
    assert (unseen > usual.quantile(0.95)).float().mean() > 0.95

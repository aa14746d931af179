"""Novelty of an observation by random network distillation.

A network learns to predict the output of a random network on the demonstrations; elsewhere its error is large
(Burda et al., arXiv 1810.12894; RND-OE of FIPER, arXiv 2510.09459). Legend: M samples, B batch, S feature vector size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebt_policy.monitoring.saved_net import load_net, save_net

WIDTH, STEPS, BATCH = 256, 3000, 256


@dataclass(frozen=True)
class DistillationConfig:
    """features: size S of the input. outputs: of the networks. checkpoint_sha256: of the policy that gives the features."""

    features: int
    checkpoint_sha256: str
    outputs: int = 64


class Distillation(nn.Module):
    """Features (B, S) -> squared prediction error (B,)."""

    def __init__(self, config: DistillationConfig) -> None:
        super().__init__()
        self.config = config
        self.target = small_net(config.features, config.outputs).requires_grad_(False)
        self.copy = small_net(config.features, config.outputs)

    def forward(self, features: Tensor) -> Tensor:
        return (self.copy(features) - self.target(features)).square().sum(1)

    def save(self, folder: Path) -> None:
        save_net(self, folder, "rnd")

    @classmethod
    def load(cls, folder: Path, checkpoint_sha256: str | None = None) -> Distillation:
        """From a folder of `save`; see load_net."""
        return load_net(
            lambda facts: cls(DistillationConfig(**_present_names(facts))),
            folder,
            "rnd",
            "distilled net",
            checkpoint_sha256,
        )


def _present_names(facts: dict[str, Any]) -> dict[str, Any]:
    """Files of version 0.1 call the input size `scene` and the output size `features`."""
    if "scene" not in facts:
        return facts
    return {{"scene": "features", "features": "outputs"}.get(k, k): v for k, v in facts.items()}


def train_distillation(features: Tensor, checkpoint_sha256: str, seed: int = 0) -> Distillation:
    """Trains on features (M, S). Takes ten seconds on one core."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Distillation(DistillationConfig(features.shape[1], checkpoint_sha256))
        fit(made.copy, lambda rows: made(features[rows]).mean(), len(features))
    return made.eval()


def small_net(inputs: int, outputs: int) -> nn.Module:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs)
    )


def fit(net: nn.Module, loss: Callable[[Tensor], Tensor], samples: int) -> None:
    """Minimises loss(rows (BATCH,)) over STEPS batches of row numbers below `samples`; the net is frozen afterwards."""
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        value = loss(torch.randint(samples, (BATCH,)))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    net.requires_grad_(False).eval()

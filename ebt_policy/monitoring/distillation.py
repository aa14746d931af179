"""How unlike the demonstrations what is seen is: random network distillation.

A net learns on the demonstrations' scenes to answer as another one with random weights does; where it has seen nothing it
cannot (Burda et al., arXiv 1810.12894; RND-OE of FIPER, arXiv 2510.09459). Legend: M samples, B batch, S scene size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ebt_policy.monitoring.saved_net import load_net, save_net

WIDTH, STEPS, BATCH = 256, 3000, 256


@dataclass(frozen=True)
class DistillationConfig:
    """scene: size S. checkpoint_sha256: the policy whose normalisation and encoder it uses."""

    scene: int
    checkpoint_sha256: str
    features: int = 64


class Distillation(nn.Module):
    """Scenes (B, S) -> (B,), non-negative: the squared error of the copy."""

    def __init__(self, config: DistillationConfig) -> None:
        super().__init__()
        self.config = config
        self.target = small_net(config.scene, config.features).requires_grad_(False)
        self.copy = small_net(config.scene, config.features)

    def forward(self, scenes: Tensor) -> Tensor:
        return (self.copy(scenes) - self.target(scenes)).square().sum(1)

    def save(self, folder: Path) -> None:
        save_net(self, folder, "rnd")

    @classmethod
    def load(cls, folder: Path, checkpoint_sha256: str | None = None) -> Distillation:
        """From a folder of `save`; see load_net."""
        return load_net(
            lambda facts: cls(DistillationConfig(**facts)), folder, "rnd", "distilled net", checkpoint_sha256
        )


def train_distillation(scenes: Tensor, checkpoint_sha256: str, seed: int = 0) -> Distillation:
    """Fits it to scenes (M, S). Ten seconds on one core."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Distillation(DistillationConfig(scenes.shape[1], checkpoint_sha256))
        fit(made.copy, lambda rows: made(scenes[rows]).mean(), len(scenes))
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

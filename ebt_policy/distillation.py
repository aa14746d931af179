"""How unlike the demonstrations what is seen is: random network distillation.

A net learns on the demonstrations' scenes to answer as another one with random weights does; where it has seen nothing it
cannot (Burda et al., arXiv 1810.12894; RND-OE of FIPER, arXiv 2510.09459). Legend: M samples, B batch, S scene size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ebt_policy.errors import UserError
from ebt_policy.provenance import write_json

WIDTH, STEPS, BATCH = 256, 3000, 256
_WEIGHTS, _FACTS = "rnd.safetensors", "rnd.json"


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
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous().cpu() for k, v in self.state_dict().items()}, folder / _WEIGHTS)
        write_json(folder / _FACTS, asdict(self.config))

    @classmethod
    def load(cls, folder: Path, checkpoint_sha256: str | None = None) -> Distillation:
        """From a folder of `save`. Raises UserError where there is none, or it belongs to another checkpoint."""
        try:
            made = cls(DistillationConfig(**json.loads((folder / _FACTS).read_text())))
            made.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"{folder} holds no distilled net that can be read: {error}") from error
        if checkpoint_sha256 not in (None, made.config.checkpoint_sha256):
            raise UserError(
                f"The distilled net in {folder} was made for another checkpoint. Calibrate again."
            )
        return made.eval()


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

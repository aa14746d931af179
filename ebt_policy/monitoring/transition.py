"""Transition energy: negative log-likelihood of the next observation, up to a constant.

After EBWM (arXiv 2406.08862), an energy over (context, next state): E(o, a, o') = 1/2 sum ((s' - mu(s, a)) / sigma(s, a))^2
with s the feature vector of o, a Gaussian fitted by maximum likelihood on the policy's own demonstrations. It is high when
an action did not have its usual effect: a slip, a push, a blocked camera.

Legend: B batch, T observation steps, n ticks executed of a chunk, A action dimension, S feature vector size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ebt_policy.language.encoders import OBS_TASK
from ebt_policy.monitoring.saved_net import load_net, save_net

BETA = 0.5  # of the loss: without it the mean is hardly trained where the spread is still wide
_SMALLEST = 1e-3  # RMS change of a feature, normalised units: one that never moves is not divided by less
_LOG_SIGMA = (-7.0, 2.0)  # bounds: a coordinate that never moves must not make the energy infinite


@dataclass(frozen=True)
class TransitionConfig:
    """features, actions: sizes S and n * A. checkpoint_sha256: the policy whose normalisation and encoder it uses."""

    features: int
    actions: int
    checkpoint_sha256: str
    width: int = 256


class TransitionEnergy(nn.Module):
    """E(s, a, s') -> (B,), non-negative. On the training data its mean is half the number of features."""

    def __init__(self, config: TransitionConfig) -> None:
        super().__init__()
        self.config = config
        self.net = nn.Sequential(
            nn.Linear(config.features + config.actions, config.width),
            nn.SiLU(),
            nn.Linear(config.width, config.width),
            nn.SiLU(),
            nn.Linear(config.width, 2 * config.features),
        )

    def _standardised(self, features: Tensor, actions: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """(s' - mu) / sigma and log sigma, both (B, S)."""
        change, log_sigma = self.net(torch.cat([features, actions.flatten(1)], 1)).chunk(2, 1)
        log_sigma = log_sigma.clamp(*_LOG_SIGMA)
        return (following - features - change) * torch.exp(-log_sigma), log_sigma

    def forward(self, features: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """features (B, S), actions (B, n, A), following (B, S): the features n ticks later -> (B,)."""
        return 0.5 * self._standardised(features, actions, following)[0].square().sum(1)

    def loss(self, features: Tensor, actions: Tensor, following: Tensor) -> Tensor:
        """Negative log-likelihood (B,) up to a constant, each feature weighted by its sigma^(2 BETA) as it is now: beta-NLL
        (Seitzer et al., arXiv 2203.09168)."""
        z, log_sigma = self._standardised(features, actions, following)
        weight = torch.exp(2 * BETA * log_sigma).detach()
        return (weight * (0.5 * z.square() + log_sigma)).sum(1)

    @torch.no_grad()
    def rescale(self, scale: Tensor) -> None:
        """From changes divided by `scale` (S,), as they were trained on, to changes as they are."""
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        change, log_sigma = slice(None, len(scale)), slice(len(scale), None)
        last.weight[change] *= scale[:, None]
        last.bias[change] *= scale
        last.bias[log_sigma] += scale.log()

    def save(self, folder: Path) -> None:
        save_net(self, folder, "transition")

    @classmethod
    def load(cls, folder: Path, checkpoint_sha256: str | None = None) -> TransitionEnergy:
        """From a folder of `save`; see load_net."""
        return load_net(
            # Files of version 0.1 call the feature size `scene`.
            lambda facts: cls(
                TransitionConfig(**{"features" if k == "scene" else k: v for k, v in facts.items()})
            ),
            folder,
            "transition",
            "transition energy",
            checkpoint_sha256,
        )


def feature_vector(policy: Any, observations: dict[str, Tensor], encoded: Tensor | None = None) -> Tensor:
    """Input of the learned signals, from normalised observations (B, T, ...): (B, S).

    policy: a ChunkPolicy. The vectors of the last frame; if it has cameras, the output of the policy's encoder, which is
    `encoded` (B, S) where it is known already.
    """
    names = list(policy.config.observation_features())
    if any(observations[name].ndim > 3 for name in names):
        if encoded is not None:
            return encoded
        return getattr(policy, "model", policy).encoder({name: observations[name] for name in names})
    return torch.cat([observations[name][:, -1] for name in names if name != OBS_TASK], 1)


def train_transition(
    features: Tensor,
    actions: Tensor,
    following: Tensor,
    checkpoint_sha256: str,
    steps: int = 3000,
    batch_size: int = 256,
    seed: int = 0,
) -> TransitionEnergy:
    """Trains on transitions: features (M, S), actions (M, n, A), following (M, S). Takes half a minute on one core."""
    change = following - features
    scale = change.square().mean(0).sqrt().clamp(min=_SMALLEST)  # beta-NLL compares the spreads of features
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = TransitionConfig(features.shape[1], actions[0].numel(), checkpoint_sha256)
        energy = TransitionEnergy(config)
        optimiser = torch.optim.AdamW(energy.parameters(), 1e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            rows = torch.randint(len(features), (batch_size,))
            target = features[rows] + change[rows] / scale
            loss = energy.loss(features[rows], actions[rows], target).mean()
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(energy.parameters(), 1.0)
            optimiser.step()
            schedule.step()
    energy.rescale(scale)
    return energy.eval()

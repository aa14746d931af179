"""Training objectives: functions of (energy, context, expert chunk) -> one loss per action entry, and metrics.

Legend: B batch, H horizon, A action dimension, F one forward pass of the trunk. Costs are per training step; a
diffusion policy costs 3F (one forward, one backward).

| objective | cost | what it learns                                                                              |
|-----------|------|---------------------------------------------------------------------------------------------|
| denoise   | 3F   | D(x, o) straight away; the energy is its squared residual. Acting needs no autograd.         |
| matching  | 6F   | the energy's gradient, so that a gradient step of length one lands on the chunk; any head.   |
| unrolled  | 6KF  | K descent steps to the chunk, from noise (EBT-Policy's recipe) or from the noised chunk.      |
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.model.energy import EnergyTransformer
from ebt_policy.model.noise import with_noise
from ebt_policy.model.unrolled import unrolled

FLOW_FLOOR = 0.05
FLOW_MEAN = math.atan(FLOW_FLOOR**-0.5) * FLOW_FLOOR**-0.5  # of 1 / (n^2 + floor) for n uniform in [0, 1]
# (model, context, chunk (B, H, A), config) -> squared error of each entry (B, H, A), metrics
Objective = Callable[[EnergyTransformer, Tensor, Tensor, EBTConfig], tuple[Tensor, dict[str, Tensor]]]


def noised(chunk: Tensor, config: EBTConfig) -> tuple[Tensor, Tensor]:
    """A demonstration with noise, x (B, H, A), and its share of noise n (B, 1, 1), drawn anew for each sample.

    With `noise_levels` x = a + s eps, s = n / (1 - n) between them. At one level s the best denoiser's step D(x) - x is s^2
    times the gradient of the log density of noised demonstrations (Tweedie's formula; Vincent 2011), so its fixed points are
    that density's modes. The level is no input of the model: near the data the lowest one is the likeliest.
    Without them x = (1 - n) a + n eps, n in [0, 1].
    """
    low, high = config.noise_shares
    n = low + (high - low) * torch.rand(len(chunk), 1, 1, device=chunk.device)
    return with_noise(chunk, torch.randn_like(chunk), n, config.noise_levels is not None), n


def weight(n: Tensor) -> Tensor:
    """Weight of the loss by the share of noise n: flow matching's 1 / (n^2 + .05), scaled to mean 1. Equal weights learn faster
    and end worse (docs/experiments.md)."""
    return 1 / (n.square() + FLOW_FLOOR) / FLOW_MEAN


def denoise(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """||D(x, o) - a||^2 from a noised demonstration x."""
    x, n = noised(chunk, config)
    error = (model.denoise(x, context).float() - chunk).square()
    return weight(n) * error, {"mse": error.detach().mean()}


def matching(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """||x - dE/dx - a||^2 from a noised demonstration x: denoising score matching of the energy itself."""
    x, n = noised(chunk, config)
    energy, gradient = model.gradient(x, context, create_graph=True)
    error = (x - gradient - chunk).square()
    return weight(n) * error, {"mse": error.detach().mean(), "energy": energy.detach().mean()}


OBJECTIVES: dict[str, Objective] = {"denoise": denoise, "matching": matching, "unrolled": unrolled}

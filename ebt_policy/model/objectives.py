"""Training objectives: functions of (energy, context, expert chunk) -> one loss per action entry, and metrics.

Legend: B batch, H horizon, A action dimension, F one forward pass of the trunk. Costs are per training step; a
diffusion policy costs 3F (one forward, one backward).

| objective | cost | what it learns                                                                              |
|-----------|------|---------------------------------------------------------------------------------------------|
| denoise   | 3.3F | D(x, o) straight away; the energy is its squared residual. Acting needs no autograd. A tenth |
|           |      | of the cost teaches the read-out of the expected error.                                      |
| matching  | 6F   | the energy's gradient, so that a gradient step of length one lands on the chunk; any head.   |
| unrolled  | 6KF  | K descent steps from noise to the chunk (EBT-Policy's recipe); mean-seeking, since start     |
|           |      | and target are independent and the loss is squared.                                          |
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
# Of the read-out's loss. Small, since Adam does not mind and the loss that is shown should remain that of the actions.
READOUT_WEIGHT = 1e-4
READOUT_SHARE = 4  # one sample of so many trains it
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


def weight(n: Tensor, config: EBTConfig) -> Tensor:
    """Weight of the loss by the share of noise n."""
    return (
        1 / (n.square() + FLOW_FLOOR) / FLOW_MEAN if config.noise_weighting == "flow" else torch.ones_like(n)
    )


def denoise(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """||D(x, o) - a||^2 from a noised demonstration x."""
    x, n = noised(chunk, config)
    answer = model.denoise(x, context).float()
    error = (answer - chunk).square()
    loss, metrics = weight(n, config) * error, {"mse": error.detach().mean()}
    if model.error_readout is not None:
        k = -(-len(chunk) // READOUT_SHARE)
        missed = readout_loss(model, context[:k], x[:k], answer[:k], chunk[:k])
        loss = torch.cat([loss[:k] + READOUT_WEIGHT * missed[:, None, None], loss[k:]])
        metrics["readout"] = missed.detach().mean()
    return loss, metrics


def readout_loss(
    model: EnergyTransformer, context: Tensor, x: Tensor, answer: Tensor, chunk: Tensor
) -> Tensor:
    """Squared error (B,) of the predicted logarithm of the squared error, where acting reads it: after a step of random
    length, at least half of the way, from x to D(x, o), the answer. x, answer, chunk (B, H, A).
    """
    assert model.error_readout is not None
    with torch.no_grad():
        step = 0.5 + 0.5 * torch.rand(len(x), 1, 1, device=x.device)
        tokens = model.trunk.tokens(x + step * (answer - x), context)
        missed = (model.trunk.output(tokens).float() - chunk).square().mean((1, 2)).clamp(min=1e-8).log()
    return (model.error_readout(tokens).float() - missed).square()


def matching(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """||x - dE/dx - a||^2 from a noised demonstration x: denoising score matching of the energy itself."""
    x, n = noised(chunk, config)
    energy, gradient = model.gradient(x, context, create_graph=True)
    error = (x - gradient - chunk).square()
    return weight(n, config) * error, {"mse": error.detach().mean(), "energy": energy.detach().mean()}


OBJECTIVES: dict[str, Objective] = {"denoise": denoise, "matching": matching, "unrolled": unrolled}

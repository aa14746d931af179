"""Training objectives: functions of (energy, context, expert chunk) -> one loss per action entry, and metrics.

Legend: B batch, H horizon, A action dimension, F one forward pass of the trunk. Costs are per training step; a
diffusion policy costs 3F (one forward, one backward).

| objective  | cost | what it learns                                                                            |
|------------|------|-------------------------------------------------------------------------------------------|
| denoise    | 3F   | D(x, o) straight away; the energy is its squared residual. Sampling needs no autograd.     |
| matching   | 6F   | the energy's gradient as a denoising field; any head.                                      |
| unrolled   | 6KF  | K descent steps from noise to the chunk (EBT-Policy's recipe); mean-seeking, since start   |
|            |      | and target are independent and the loss is squared.                                        |
| two_step   | 6F + teacher | fine-tune: two evaluations land where the model's own many-step descent lands.     |
| verifier   | + (1 + n)F x 3 | InfoNCE over expert and corrupted chunks, added to any of the above.             |
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.model.energy import EnergyTransformer
from ebt_policy.model.own_iterates import pull_back, rolled
from ebt_policy.model.unrolled import unrolled

FLOW_FLOOR = 0.05
CURL_EVERY = 16  # the penalty looks at one row of so many
CURL_CLEAN = 0.3  # share of these that are demonstrations without noise
FLOW_MEAN = math.atan(FLOW_FLOOR**-0.5) * FLOW_FLOOR**-0.5  # of 1 / (s^2 + floor) for s uniform in [0, 1]
# (model, context, chunk (B, H, A), config) -> squared error of each entry (B, H, A), metrics
Objective = Callable[[EnergyTransformer, Tensor, Tensor, EBTConfig], tuple[Tensor, dict[str, Tensor]]]


def noised(chunk: Tensor, config: EBTConfig) -> tuple[Tensor, Tensor]:
    """A demonstration with noise, x (B, H, A), and g (B, 1, 1), the share of the demonstration in it.

    Without `noise_levels` x = g a + (1 - g) eps, g in [0, 1]. With them x = a + s eps, s = (1 - g) / g in that range: the
    demonstration keeps its scale, so that the point to which the denoiser pulls stays where it is (Tweedie: D(x) - x is
    s^2 times the gradient of the log density of noised demonstrations), and below the lowest level nothing is trained.
    """
    u = torch.rand(len(chunk), 1, 1, device=chunk.device)
    noise = torch.randn_like(chunk)
    if config.noise_levels is None:
        g = 1 - (1 - u).pow(config.noise_power)
        return g * chunk + (1 - g) * noise, g
    low, high = (level / (1 + level) for level in config.noise_levels)
    share = low + (high - low) * u
    return chunk + share / (1 - share) * noise, 1 - share


def denoise(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """||D(x, o) - a||^2 from a noised chunk, or, for a share of the batch, from the zero chunk.

    The zero start makes one and two evaluations precise; the noised starts train the denoiser around the data.
    The noise level is not an input of the model: it is visible in x.
    """
    x, g = noised(chunk, config)
    zero = torch.rand(len(chunk), 1, 1, device=chunk.device) < config.zero_start_share
    x = torch.where(zero, 0.0, x)
    x, noise = rolled(model, context, x, 1 - g, config.iterates)
    error = (model.denoise(x, context).float() - chunk).square()
    if config.noise_weighting == "flow":
        weight = 1 / (noise.square() + FLOW_FLOOR) / FLOW_MEAN
        error = error * torch.where(zero, 1.0, weight)
    per_sample = error.detach().mean((1, 2))
    share = zero.float().flatten()
    return error, {
        "mse_from_zero": (per_sample * share).sum() / share.sum().clamp(min=1),
        "mse_from_noise": (per_sample * (1 - share)).sum() / (1 - share).sum().clamp(min=1),
    }


def curl(model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig) -> Tensor:
    """Mean of ||J^T u||^2 (`own_iterates.pull_back`) at own iterates and demonstrations: a scalar, zero where steps are
    minus the gradient. On a part of the batch, because second derivatives cost about three times a training step.
    """
    some = slice(None, None, CURL_EVERY)
    chunk, context = chunk[some], context[some]
    x, g = noised(chunk, config)
    x, _ = rolled(model, context, x, 1 - g, config.iterates)
    clean = torch.rand(len(x), 1, 1, device=x.device) < CURL_CLEAN
    return pull_back(model, context, torch.where(clean, chunk, x)).mean()


def matching(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """||dE/dx - target||^2 (denoising gradient matching).

    linear: target (1 - g)(eps - a) = x - a, so one step of size 1 lands on the chunk. truncated: (eps - a) c(g) with
    c = 1 up to g = 0.8 and falling to 0 (Equilibrium Matching, arXiv 2510.02300).
    """
    x, g = noised(chunk, config)
    away = (x - chunk) / (1 - g).clamp(min=1e-6)  # eps - a
    scale = (1 - g) if config.matching_target == "linear" else ((1 - g) / 0.2).clamp(max=1.0)
    energy, gradient = model.gradient(x, context, create_graph=True)
    return (gradient - scale * away).square(), {"energy": energy.detach().mean()}


def two_step(
    model: EnergyTransformer,
    context: Tensor,
    chunk: Tensor,
    config: EBTConfig,
    teacher: EnergyTransformer,
    teacher_context: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """||x2 - x*||^2: two evaluations from noise against the frozen teacher's many-step sample from the same noise."""
    noise = torch.randn_like(chunk)
    with torch.no_grad():
        target = flow(teacher, teacher_context, noise, config.teacher_steps)
    x = flow(model, context, noise, 2)
    return (x - target).square(), {"teacher_mse": (target - chunk).square().mean()}


def flow(model: EnergyTransformer, context: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Straight-line descent from noise (B, H, A): step k goes 1 / (steps - k) of the way to D(x, o)."""
    x = noise
    for k in range(steps):
        x = x + (model.denoise(x, context).float() - x) / (steps - k)
    return x


def verifier(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """InfoNCE loss: the expert's chunk against noised chunks and one of another sample. Returns a scalar and metrics."""
    n = config.verifier_negatives
    batch = len(chunk)
    scale = torch.rand(n, batch, 1, 1, device=chunk.device) * 0.5
    corrupted = chunk + scale * torch.randn(n, *chunk.shape, device=chunk.device)
    corrupted[0] = chunk.roll(1, 0)  # the chunk of another observation: plausible, but wrong here
    candidates = torch.cat([chunk[None], corrupted]).flatten(0, 1)
    repeated = context.expand(n + 1, *context.shape).flatten(0, 1)
    energies = model.energy(candidates, repeated).view(n + 1, batch).T  # (B, 1 + n)
    target = torch.zeros(batch, dtype=torch.long, device=chunk.device)
    loss = F.cross_entropy(-energies / config.verifier_temperature, target)
    return loss, {"verifier_accuracy": (energies.argmin(1) == 0).float().mean()}


OBJECTIVES: dict[str, Objective] = {"denoise": denoise, "matching": matching, "unrolled": unrolled}

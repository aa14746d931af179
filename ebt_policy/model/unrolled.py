"""The recipe of EBT-Policy (arXiv 2510.27545): training through the descent steps, and acting with the same steps.

Legend: B batch, H horizon, A action dimension.
"""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.model.descent import NO_TERMS, Terms
from ebt_policy.model.energy import EnergyTransformer
from ebt_policy.model.noise import with_noise
from ebt_policy.model.trace import StopReason, Trace


def unrolled(
    model: EnergyTransformer, context: Tensor, chunk: Tensor, config: EBTConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """EBT-Policy's training (arXiv 2510.27545): descend from a start, compare every iterate with the expert's chunk.

    start=noise, as published: from noise that is independent of the chunk. start=warm: from the chunk with a random share of noise, as
    acting starts from the last plan with noise.

    Nesterov momentum, Langevin noise annealed on a cosine, a step size that is randomised and grows with the energy.
    Repairs of the published code: the input is normalised for each sample, not over the batch; the energy is a sum, so step
    sizes are near 1 and not near 1000; exp(E) is clamped and detached.
    """
    extra = int(torch.randint(0, config.unrolled_extra_steps + 1, ()))
    steps = config.unrolled_steps + extra
    x, velocity = torch.randn_like(chunk), torch.zeros_like(chunk)
    if config.start == "warm":
        x = with_noise(chunk, x, torch.rand(len(chunk), 1, 1, device=chunk.device), keep_scale=False)
    high, low = config.unrolled_langevin
    total, errors = torch.zeros_like(chunk), []
    for k in range(steps):
        anneal = 0.5 * (1 + math.cos(math.pi * k / max(1, steps - 1)))
        x = _normalised(x.detach()) + (low + (high - low) * anneal) * torch.randn_like(x)
        jitter = 1 / 1.5 + torch.rand(len(x), device=x.device) * (1.5 - 1 / 1.5)
        x, velocity, *_ = _nesterov(model, context, x, velocity.detach(), config, jitter, create_graph=True)
        error = (x - chunk).square()
        errors.append(error.detach().mean())
        total = total + error
    return total / steps, {"mse_first_step": errors[0], "mse_last_step": errors[-1]}


def unrolled_descent(
    model: EnergyTransformer,
    context: Tensor,
    start: Tensor,
    config: EBTConfig,
    steps: int,
    terms: Terms = NO_TERMS,
    deadline: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Tensor, Trace]:
    """Acting as `unrolled` was trained: its steps from `start` (B, H, A) without noise and without a test that the energy
    falls, which that training does not ask for. `terms`: a proximal step after each, as in `minimise`.

    Stops after `steps` evaluations or when the clock passes `deadline`, its time; the other stopping rules are about a
    falling energy. Returns the chunk (B, H, A) and the trace.
    """
    x, velocity, log, reason = start, torch.zeros_like(start), [], StopReason.BUDGET
    for _ in range(steps):
        x = _normalised(x)
        x, velocity, energy, gradient, size = _nesterov(model, context, x, velocity, config)
        x = terms.proximal(x)
        rms = gradient.square().mean((1, 2)).sqrt()
        log.append((energy, rms, size))
        if deadline is not None and clock() >= deadline:
            reason = StopReason.DEADLINE
            break
    # Without a finite energy there is no answer, as in `minimise`.
    x = torch.where(torch.isfinite(log[-1][0])[:, None, None], x, torch.nan)
    used = torch.full((len(x),), len(log), device=x.device)
    return x, Trace.from_steps(log, used, torch.full_like(used, int(reason)))


def _normalised(x: Tensor) -> Tensor:
    return x / x.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1.0)


def _nesterov(
    model: EnergyTransformer,
    context: Tensor,
    x: Tensor,
    velocity: Tensor,
    config: EBTConfig,
    jitter: Tensor | float = 1.0,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One step of (b, H, A): the new x and velocity, and the energy (b,), gradient (b, H, A) and step size (b,) it took."""
    ahead = (x + config.unrolled_momentum * velocity).detach()
    energy, gradient = model.gradient(ahead, context, create_graph=create_graph)
    size = config.unrolled_step_size * jitter * torch.ones_like(energy)
    if config.unrolled_temperature is not None:
        mean_energy = energy.detach() / x[0].numel()
        size = size * (mean_energy / config.unrolled_temperature).clamp(-2, 2).exp()
    velocity = config.unrolled_momentum * velocity - size.detach()[:, None, None] * gradient
    return x + velocity, velocity, energy.detach(), gradient, size.detach()

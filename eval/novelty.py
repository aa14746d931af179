"""Failure detectors that look at observations alone, as baselines: random network distillation and logpZO.

Both are trained on the scenes (M, S) of the demonstrations and give each further scene one positive number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH, STEPS, BATCH = 256, 3000, 256
Score = Callable[[Tensor], Tensor]  # scenes (B, S) -> (B,)


def random_distillation(scenes: Tensor, seed: int = 0) -> Score:
    """How badly a trained net copies a random one (Burda et al., arXiv 1810.12894; RND-OE of FIPER, arXiv 2510.09459)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = scenes.shape[1]
        target = _net(size, 64).requires_grad_(False)
        copy = _net(size, 64)

        def error(x: Tensor) -> Tensor:
            return (copy(x) - target(x)).square().sum(1)

        _fit(copy, lambda rows: error(scenes[rows]).mean(), len(scenes))
    return torch.no_grad()(error)


def log_density_of_noise(scenes: Tensor, steps: int = 10, seed: int = 0) -> Score:
    """Squared length of the noise that a flow would have made the scene from (logpZO, arXiv 2503.08558).

    The flow is trained from noise to scenes, and integrated backwards in `steps` Euler steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = scenes.shape[1]
        mean, scale = scenes.mean(0), scenes.std(0).clamp(min=1e-3)
        data = (scenes - mean) / scale
        net = _net(size + 1, size)

        def loss(rows: Tensor) -> Tensor:
            x1, x0, t = data[rows], torch.randn(len(rows), size), torch.rand(len(rows), 1)
            return (net(torch.cat([t * x1 + (1 - t) * x0, t], 1)) - (x1 - x0)).square().mean()

        _fit(net, loss, len(scenes))

    def score(x: Tensor) -> Tensor:
        z = (x - mean) / scale
        for k in range(steps, 0, -1):
            z = z - net(torch.cat([z, z.new_full((len(z), 1), k / steps)], 1)) / steps
        return 0.5 * z.square().sum(1)

    return torch.no_grad()(score)


def _net(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(inputs, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, outputs)
    )


def _fit(net: nn.Module, loss: Callable[[Tensor], Tensor], samples: int) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        value = loss(torch.randint(samples, (BATCH,)))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
    net.requires_grad_(False).eval()

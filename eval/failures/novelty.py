"""logpZO: a baseline failure detector that uses the observation only.

It is trained on the features (M, S) of the demonstrations and gives each further features one positive number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ebt_policy.monitoring.distillation import fit, small_net

Score = Callable[[Tensor], Tensor]  # features (B, S) -> (B,)


def log_density_of_noise(features: Tensor, steps: int = 10, seed: int = 0) -> Score:
    """Squared length of the noise that a flow would have made the features from (logpZO, arXiv 2503.08558).

    The flow is trained from noise to features, and integrated backwards in `steps` Euler steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = features.shape[1]
        mean, scale = features.mean(0), features.std(0).clamp(min=1e-3)
        data = (features - mean) / scale
        net = small_net(size + 1, size)

        def loss(rows: Tensor) -> Tensor:
            x1, x0, t = data[rows], torch.randn(len(rows), size), torch.rand(len(rows), 1)
            return (net(torch.cat([t * x1 + (1 - t) * x0, t], 1)) - (x1 - x0)).square().mean()

        fit(net, loss, len(features))

    def score(x: Tensor) -> Tensor:
        z = (x - mean) / scale
        for k in range(steps, 0, -1):
            z = z - net(torch.cat([z, z.new_full((len(z), 1), k / steps)], 1)) / steps
        return 0.5 * z.square().sum(1)

    return torch.no_grad()(score)

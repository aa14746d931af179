"""Training points where acting goes: the policy's own iterates, from a noised demonstration on.

A denoiser that has seen noised demonstrations alone is nearly the identity on its own answers, so iterating it drifts
along a flat valley. Trained on its own iterates, with the demonstration as their answer, it pulls them back.
Legend: B batch, H horizon, A action dimension.
"""

import torch
from torch import Tensor

from ebt_policy.model.energy import EnergyTransformer

SHORTEST_STEP = 0.5  # of the way to D(x, o); the longest is all of it


def rolled(
    model: EnergyTransformer, context: Tensor, x: Tensor, noise: Tensor, iterates: int
) -> tuple[Tensor, Tensor]:
    """x (B, H, A) and its share of noise (B, 1, 1), both after 0 to `iterates` steps x <- x + s (D(x, o) - x).

    Half of the batch is stepped once, half of that twice and so on, which costs less than one forward pass together; s
    is drawn anew for each. The points come without a graph, so the loss at them costs one forward and one backward.
    """
    rows = len(x)
    for _ in range(iterates):
        rows //= 2
        if rows == 0:
            break
        with torch.no_grad():
            step = SHORTEST_STEP + (1 - SHORTEST_STEP) * torch.rand(rows, 1, 1, device=x.device)
            moved = x[:rows] + step * (model.denoise(x[:rows], context[:rows]).float() - x[:rows])
        x = torch.cat([moved, x[rows:]])
        noise = torch.cat([noise[:rows] * (1 - step), noise[rows:]])
    return x, noise


def pull_back(model: EnergyTransformer, context: Tensor, x: Tensor) -> Tensor:
    """||J^T u||^2 (B,), J the Jacobian of D at x and u the direction of the step D(x, o) - x.

    The gradient of 1/2 ||x - D||^2 is (1 - J^T)(x - D): where this is zero, the step is exactly minus the gradient.
    Its gradient is a second derivative: not in half precision, and not through the fused attention kernels.
    """
    answer, pull, *_ = torch.func.vjp(lambda point: model.denoise(point, context).float(), x)
    step = (answer - x).detach()
    length = step.square().sum((1, 2), keepdim=True).sqrt().clamp(min=1e-6)
    (pulled,) = pull(step / length)
    return pulled.square().sum((1, 2))

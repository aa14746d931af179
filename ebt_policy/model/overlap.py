"""Real-time chunking: a new chunk keeps what the robot will do while the policy thinks, and follows on from it.

After Black et al. 2025 (arXiv 2506.07339). They guide a flow by a gradient; an energy is minimised with the old actions clamped.
Legend: B samples, H horizon, A action dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SCHEDULES = ("zeros", "linear", "exp", "ones")


@dataclass(frozen=True)
class Overlap:
    """The energy sum_i lambda_i / 2 ||x_i - values_i||^2 that pulls a chunk x to the one before it.

    values (B, H, A): the chunk before, shifted to now. weights (B, H): lambda / (1 + lambda), in 0..1; 1 keeps an action as it is.
    """

    values: Tensor
    weights: Tensor

    @classmethod
    def of(cls, previous: Tensor, fixed: int, end: int | None = None, schedule: str = "linear") -> Overlap:
        """previous (B, H, A): the chunk before, shifted to now, its last action repeated; rows of NaN where there is none.

        fixed: leading actions that are kept. From there on weights fall to 0 at `end`, by LeRobot's schedules: zeros (nothing
        is pulled), linear, exp or ones. end: None, where the chunk before ends. At most as many as it has are used.
        """
        known = planned(previous).sum(1)  # (B,)
        last = known if end is None else known.clamp(max=end)
        first = last.clamp(max=fixed)
        index = torch.arange(previous.shape[1], device=previous.device)
        # As LeRobot's RTCProcessor.get_prefix_weights, for each row: linspace(1, 0) without its ends.
        falling = (last[:, None] - index) / (last - first + 1)[:, None]
        falling = falling.clamp(0, 1)
        if schedule == "exp":
            falling = falling * torch.expm1(falling) / (torch.e - 1)
        elif schedule == "ones":
            falling = (falling > 0).float()
        elif schedule == "zeros":
            falling = torch.zeros_like(falling)
        weights = torch.where(index < first[:, None], 1.0, falling)
        there = torch.isfinite(previous).all((1, 2))
        return cls(previous.nan_to_num(), weights * there[:, None])

    def to(self, device: torch.device | str) -> Overlap:
        """The same on another device."""
        return Overlap(self.values.to(device), self.weights.to(device))

    def pull(self, chunk: Tensor) -> Tensor:
        """The proximal step of this energy, argmin_x 1/2 ||x - chunk||^2 + E(x): (B, H, A) -> (B, H, A)."""
        weights = self.weights[..., None]
        moved = torch.where(weights > 0, chunk + weights * (self.values - chunk), chunk)
        return torch.where(weights == 1, self.values, moved)  # bit for bit


def planned(chunk: Tensor) -> Tensor:
    """(B, H) which actions of shifted chunks (B, H, A) are the plan's own, and not its last one repeated."""
    repeated = (chunk == chunk[:, -1:]).all(2)
    trailing = repeated.flip(1).cumprod(1).flip(1).bool()
    return ~trailing | (torch.arange(chunk.shape[1], device=chunk.device) == (~trailing).sum(1, keepdim=True))

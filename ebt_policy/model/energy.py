"""Energy of an action chunk: one scalar for each (observation, chunk), and the update that lowers it.

Legend: B batch, H horizon, A action dimension, N context tokens, D width, L layers. Chunks are normalised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.model.encoders import ObservationEncoder
from ebt_policy.model.trunk import Trunk


@dataclass
class Evaluation:
    """Energy (B,) and update (B, H, A) at one point x: D(x, o) - x with a denoiser, minus the gradient otherwise."""

    energy: Tensor
    update: Tensor


class EnergyTransformer(nn.Module):
    """E(context, chunk) -> (B,), without time input. Summed over the chunk, so natural step sizes are near 1.

    residual: E = 1/2 ||x - D(x, o)||^2, bounded below, in squared action units, comparable across observations.
    scalar:   E = sum of a linear read-out of the action tokens; a free offset for each observation.
    """

    def __init__(self, config: EBTConfig) -> None:
        super().__init__()
        self.kind = config.head
        self.descends = config.descends
        self.encoder = ObservationEncoder(config)
        self.trunk = Trunk(config)
        if self.kind == "scalar":
            self.trunk.head = nn.Linear(config.width, 1)
            nn.init.normal_(
                self.trunk.head.weight, std=0.02
            )  # exactly zero would leave no gradient to start from

    @property
    def is_denoiser(self) -> bool:
        """Whether steps follow a denoiser D(x, o): then they need no autograd."""
        return self.kind == "residual" and self.descends == "denoiser"

    def context(self, observations: dict[str, Tensor]) -> Tensor:
        """Encodes the observations, once for each decision: (B, L, 6 + 2 N, D)."""
        return self.encoded_context(observations)[1]

    def encoded_context(self, observations: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The context vector (B, D), and `context` (B, L, 6 + 2 N, D)."""
        encoded = self.encoder.encoded(observations)
        return encoded.vector, self.trunk.context(self.trunk.seen(encoded))

    def denoise(self, chunk: Tensor, context: Tensor) -> Tensor:
        """D(x, o): chunk (B, H, A), context (B, L, 6 + 2 N, D) -> (B, H, A). Residual head only."""
        return self.trunk(chunk, context)

    def energy(self, chunk: Tensor, context: Tensor) -> Tensor:
        """chunk (B, H, A), context (B, L, 6 + 2 N, D) -> (B,), summed in float32."""
        if self.kind == "scalar":
            return self.trunk.head(self.trunk.tokens(chunk, context)).float().sum((1, 2))
        return 0.5 * (chunk - self.trunk(chunk, context).float()).square().sum((1, 2))

    def gradient(self, chunk: Tensor, context: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """Energy (B,) and dE/dchunk (B, H, A). Samples are independent, so the gradient of the sum has one for each.

        Inside a compiled loss it is taken by torch.func, which the compiler traces as part of the forward pass; it cannot
        differentiate through autograd.grad.
        """
        if create_graph and torch.compiler.is_compiling():
            gradient, energy = torch.func.grad(self._energy_sum, has_aux=True)(chunk, context)
            return energy, gradient
        chunk = chunk if chunk.requires_grad else chunk.detach().requires_grad_()
        energy = self.energy(chunk, context)
        (gradient,) = torch.autograd.grad(energy.sum(), chunk, create_graph=create_graph)
        return energy, gradient

    def _energy_sum(self, chunk: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        energy = self.energy(chunk, context)
        return energy.sum(), energy

    def evaluate(self, chunk: Tensor, context: Tensor) -> Evaluation:
        """Energy and update of chunks (B, H, A). Residual head: one forward pass; others: forward and backward."""
        if self.is_denoiser:
            update = self.denoise(chunk, context).float() - chunk
            return Evaluation(0.5 * update.square().sum((1, 2)), update)
        energy, gradient = self.gradient(chunk, context)
        return Evaluation(energy.detach(), -gradient)

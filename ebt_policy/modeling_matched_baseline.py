"""Diffusion, flow matching, two-pass and plain regression on EBT-Policy's own encoder and trunk.

Legend: B batch, T observation steps, H horizon, A action dimension, D width.
"""

import time
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from ebt_policy.chunk_policy import ChunkPolicy
from ebt_policy.configuration_matched_baseline import MatchedBaselineConfig
from ebt_policy.model.encoders import ObservationEncoder
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import Decision, Trace
from ebt_policy.model.trunk import Trunk

TWO_PASS_LEVEL = 0.9  # arXiv 2512.01809, section 4


class MatchedBaselinePolicy(ChunkPolicy):
    """One of the methods of MatchedBaselineConfig."""

    config_class = MatchedBaselineConfig
    name = "matched_baseline"
    config: MatchedBaselineConfig
    alphas_cumprod: Tensor

    def __init__(self, config: MatchedBaselineConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.encoder = ObservationEncoder(config)
        self.trunk = Trunk(config, time_input=config.method != "regression")
        scheduler: Any = DDIMScheduler if config.sampler == "ddim" else DDPMScheduler
        self.scheduler: Any = scheduler(
            num_train_timesteps=config.train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="epsilon",
            clip_sample=True,  # chunks are normalised to [-1, 1]
        )
        self.register_buffer("alphas_cumprod", self.scheduler.alphas_cumprod.clone(), persistent=False)

    def _predict(self, x: Tensor, context: Tensor, level: Tensor) -> Tensor:
        """x (B, H, A), context (B, D), level (B,) in [0, 1] -> (B, H, A) float32."""
        return self.trunk(x, self.trunk.modulation(context, level)).float()

    # -- training --------------------------------------------------------------------------------------------------
    def _loss(self, observations: dict[str, Tensor], chunk: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        context = self.encoder(observations)
        batch, method = len(chunk), self.config.method
        noise = torch.randn_like(chunk)
        if method == "diffusion":
            t = torch.randint(0, self.config.train_timesteps, (batch,), device=chunk.device)
            alpha = self.alphas_cumprod[t][:, None, None]
            x, target = alpha.sqrt() * chunk + (1 - alpha).sqrt() * noise, noise
            level = t / self.config.train_timesteps
        elif method == "flow":
            level = torch.rand(batch, device=chunk.device)
            g = level[:, None, None]
            x, target = g * chunk + (1 - g) * noise, chunk - noise
        elif method == "two_pass":
            refine = torch.rand(batch, device=chunk.device) < 0.5
            level, target = refine.float(), chunk
            noisy = TWO_PASS_LEVEL * chunk + (1 - TWO_PASS_LEVEL) * noise
            x = torch.where(refine[:, None, None], noisy, 0.0)
        else:
            level, x, target = torch.zeros(batch, device=chunk.device), torch.zeros_like(chunk), chunk
        error = (self._predict(x, context, level) - target).square()
        return error, {"mse": error.detach().mean()}

    # -- acting ----------------------------------------------------------------------------------------------------
    def _decide(
        self,
        observations: dict[str, Tensor],
        noise: Noise | None,
        previous: Tensor | None,
        max_evaluations: int | None,
    ) -> Decision:
        began = time.perf_counter()
        config = self.config
        with torch.no_grad():
            context = self.encoder(observations)
            shape = (config.horizon, self.trunk.action_dim)
            random = torch.randn(len(context), *shape) if noise is None else noise.normal(shape)
            chunk = random.to(context.device)
            steps = config.num_inference_steps if max_evaluations is None else max_evaluations
            if config.method == "diffusion":
                chunk = self._diffuse(chunk, context, steps, noise)
            elif config.method == "flow":
                for k in range(steps):
                    chunk = (
                        chunk
                        + self._predict(chunk, context, context.new_full((len(context),), k / steps)) / steps
                    )
            else:
                level = context.new_zeros(len(context))
                chunk, steps = self._predict(torch.zeros_like(chunk), context, level), 1
                if config.method == "two_pass":
                    chunk, steps = self._predict(TWO_PASS_LEVEL * chunk, context, level + 1), 2
        seconds = time.perf_counter() - began
        return Decision(chunk, Trace.without_steps(len(context), evaluations=steps, seconds=seconds))

    def _diffuse(self, chunk: Tensor, context: Tensor, steps: int, noise: Noise | None) -> Tensor:
        """The reverse process with diffusers' schedule; each row draws from its own generator."""
        generators = None if noise is None else noise.generators
        self.scheduler.set_timesteps(steps)
        for t in self.scheduler.timesteps:
            level = context.new_full((len(context),), float(t) / self.config.train_timesteps)
            epsilon = self._predict(chunk, context, level)
            chunk = self.scheduler.step(epsilon, t, chunk, generator=generators).prev_sample
        return chunk

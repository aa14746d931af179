"""Diffusion, flow matching, two-pass and plain regression on EBT-Policy's own encoder and trunk.

Legend: B batch, T observation steps, H horizon, A action dimension.
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
from ebt_policy.model.noise import Noise, with_noise
from ebt_policy.model.overlap import Overlap
from ebt_policy.model.trace import Decision, Trace
from ebt_policy.model.trunk import Seen, Trunk

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
            timestep_spacing=config.timestep_spacing,
        )
        self.register_buffer("alphas_cumprod", self.scheduler.alphas_cumprod.clone(), persistent=False)

    def _seen(self, observations: dict[str, Tensor]) -> Seen:
        """Encodes the observations, once for each decision."""
        return self.trunk.seen(self.encoder.encoded(observations))

    def _predict(self, x: Tensor, seen: Seen, level: Tensor) -> Tensor:
        """x (B, H, A), level (B,) in [0, 1] -> (B, H, A) float32."""
        return self.trunk(x, self.trunk.context(seen, level)).float()

    # -- training --------------------------------------------------------------------------------------------------
    def _loss(self, observations: dict[str, Tensor], chunk: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        seen = self._seen(observations)
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
        error = (self._predict(x, seen, level) - target).square()
        return error, {"mse": error.detach().mean()}

    # -- acting ----------------------------------------------------------------------------------------------------
    def _decide(
        self,
        observations: dict[str, Tensor],
        noise: Noise | None,
        previous: Tensor | None,
        max_evaluations: int | None,
        overlap: Overlap | None,  # None: it does not support it
    ) -> Decision:
        began = time.perf_counter()
        config = self.config
        with torch.no_grad():
            seen = self._seen(observations)
            batch = len(seen.vector)
            steps = config.num_inference_steps if max_evaluations is None else max_evaluations
            if config.method in ("diffusion", "flow"):
                chunk = self._generate(seen, steps, noise, previous)
            else:
                level = seen.vector.new_zeros(batch)
                zero = seen.vector.new_zeros(batch, config.horizon, self.trunk.action_dim)
                chunk, steps = self._predict(zero, seen, level), 1
                if config.method == "two_pass":
                    chunk, steps = self._predict(TWO_PASS_LEVEL * chunk, seen, level + 1), 2
        seconds = time.perf_counter() - began
        return Decision(chunk, Trace.without_steps(batch, evaluations=steps, seconds=seconds), seen.vector)

    def _generate(self, seen: Seen, steps: int, noise: Noise | None, previous: Tensor | None) -> Tensor:
        """Chunks (B, H, A) by diffusion or flow, in `steps` evaluations from wherever each row starts."""
        shape = (self.config.horizon, self.trunk.action_dim)
        batch, device = len(seen.vector), seen.vector.device
        drawn = (torch.randn(batch, *shape) if noise is None else noise.normal(shape)).to(device)
        warm = torch.zeros(batch, dtype=torch.bool, device=device)
        if self.config.start == "warm" and previous is not None:
            warm = torch.isfinite(previous).all((1, 2))
        sample = self._diffuse if self.config.method == "diffusion" else self._flow
        chunk = torch.empty_like(drawn)
        for begin in (False, True):  # rows with a warm start begin at another level than the others
            rows = (warm == begin).nonzero().flatten()
            if len(rows):
                part = None if noise is None else noise.rows(rows.tolist())
                old = previous[rows] if begin and previous is not None else None
                chunk[rows] = sample(drawn[rows], old, seen.rows(rows), steps, part)
        return chunk

    def _flow(
        self, drawn: Tensor, previous: Tensor | None, seen: Seen, steps: int, noise: Noise | None
    ) -> Tensor:
        """Euler steps of equal length from noise, or from the previous chunk with noise, to level 1."""
        begin = 0.0 if previous is None else self.config.warm_start_share
        chunk = drawn if previous is None else with_noise(previous, drawn, 1 - begin, keep_scale=False)
        size = (1 - begin) / steps
        for k in range(steps):
            level = chunk.new_full((len(chunk),), begin + k * size)
            chunk = chunk + size * self._predict(chunk, seen, level)
        return chunk

    def _diffuse(
        self, drawn: Tensor, previous: Tensor | None, seen: Seen, steps: int, noise: Noise | None
    ) -> Tensor:
        """The reverse process with diffusers' schedule; each row draws from its own generator.

        A warm start takes the last `steps` of a longer schedule, as diffusers' image-to-image pipelines do.
        """
        chunk, total = drawn, steps
        if previous is not None:
            total = round(steps / (1 - self.config.warm_start_share))
            total = min(total, self.config.train_timesteps)
        self.scheduler.set_timesteps(total)
        timesteps = self.scheduler.timesteps[-steps:]
        if previous is not None:
            chunk = self.scheduler.add_noise(previous, drawn, timesteps[:1].to(drawn.device))
        generators = None if noise is None else noise.generators
        for t in timesteps:
            level = chunk.new_full((len(chunk),), float(t) / self.config.train_timesteps)
            epsilon = self._predict(chunk, seen, level)
            chunk = self.scheduler.step(epsilon, t, chunk, generator=generators).prev_sample
        return chunk

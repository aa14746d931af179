"""EBTPolicy: the energy-based transformer behind LeRobot's policy interface."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ebt_policy.chunk_policy import ChunkPolicy
from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.inference.left_over import left_over_chunk, overlap_of
from ebt_policy.model import objectives
from ebt_policy.model.contexts import detached_fp32, fp32_grad_enabled
from ebt_policy.model.descent import DescentRule, ExtraEnergy, Terms, minimise
from ebt_policy.model.energy import EnergyTransformer, Evaluation
from ebt_policy.model.noise import Noise, with_noise
from ebt_policy.model.old_plan import OldPlan
from ebt_policy.model.overlap import Overlap
from ebt_policy.model.trace import Decision
from ebt_policy.model.unrolled import unrolled_descent


class EBTPolicy(ChunkPolicy):
    """Acts by minimising E(observation, chunk). Every decision leaves a Trace in `last_trace`.

    `extra_energies` are terms that a caller adds at inference (joint limits, smoothness): functions of normalised
    chunks (b, H, A) -> (b,).
    """

    config_class = EBTConfig
    name = "ebt"
    config: EBTConfig

    def __init__(self, config: EBTConfig, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.model = EnergyTransformer(config)
        self.extra_energies: Sequence[ExtraEnergy] = ()

    # -- training --------------------------------------------------------------------------------------------------
    @property
    def loss_compiles(self) -> bool:
        """Whether training may compile the loss. Not through the unrolled steps: their number is drawn for each batch."""
        return self.config.objective != "unrolled"

    def _loss(self, observations: dict[str, Tensor], chunk: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        if config.objective == "denoise":
            context = self.model.context(observations)
            error, metrics = objectives.denoise(self.model, context, chunk, config)
        else:
            # Gradients of gradients: no half precision, and not the fused attention kernels, which have no second
            # derivative.
            with (
                fp32_grad_enabled(chunk.device.type),
                torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            ):
                context = self.model.context(observations)
                error, metrics = objectives.OBJECTIVES[config.objective](self.model, context, chunk, config)
        return error, {k: v.detach() for k, v in metrics.items()}

    # -- the energy ------------------------------------------------------------------------------------------------
    def energy(self, batch: dict[str, Tensor], chunk: Tensor) -> Tensor:
        """Energy (B,) of normalised chunks (B, H, A) under normalised observations (B, T, ...)."""
        with fp32_grad_enabled(chunk.device.type), torch.no_grad():
            observations = {k: detached_fp32(v) for k, v in self._observations(batch).items()}
            return self.model.energy(detached_fp32(chunk), self.model.context(observations))

    # -- acting ----------------------------------------------------------------------------------------------------
    def supports_rtc(self) -> bool:
        """Real-time chunking, as `lerobot-rollout --inference.type=rtc` asks for it."""
        return True

    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        *,
        ticks: int | None = None,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """As ChunkPolicy's; with one of the two below for real-time chunking, and then (B, H, A): all that was planned.

        inference_delay: actions that the robot executes until this chunk is there. They are kept as they are in
        prev_chunk_left_over (n, A) or (B, n, A), the normalised actions left of the last chunk; those after them are pulled
        to it, less and less, as `config.rtc_config` says, which LeRobot sets. Raises UserError for other shapes and for NaN.
        """
        rtc = self.config.rtc_config
        if (inference_delay is None and prev_chunk_left_over is None) or (rtc and not rtc.enabled):
            return super().predict_action_chunk(batch, ticks=ticks, **kwargs)
        assert self.config.action_feature is not None
        previous = left_over_chunk(
            prev_chunk_left_over, self.config.horizon, self.config.action_feature.shape[0]
        )
        self._memory.forget()  # LeRobot keeps the last chunk
        return self._plan(self._with_time(batch), previous, overlap_of(previous, inference_delay, rtc))

    def rule(self, max_evaluations: int | None = None, deadline: float | None = None) -> DescentRule:
        """The stopping rule that the configuration describes."""
        config = self.config
        budget = config.max_evaluations if max_evaluations is None else max_evaluations
        return DescentRule(
            step_size=self._step_size(budget),
            max_evaluations=budget,
            min_evaluations=min(config.min_evaluations, budget),
            settled=config.stop_settled,
            settled_ticks=config.n_action_steps,
            energy=config.stop_energy,
            deadline=deadline,
        )

    def _step_size(self, budget: int) -> float:
        """Part of the way to D(x, o) that each step but the last goes: one of them leaves `last_noise`.

        Without `noise_levels` all budget - 1 steps together do: such a policy must not go on at little noise.
        """
        config = self.config
        if config.step_size is not None:
            return config.step_size
        if config.head == "scalar" or config.start_noise <= config.last_noise:  # nothing to anneal
            return 1.0
        first, last = config.start_noise, config.last_noise
        if config.noise_levels is not None:
            return 1 - last / (1 - last) * (1 - first) / first  # of the standard deviations s / (1 + s)
        return 1 - (last / first) ** (1 / max(1, budget - 1))

    def _decide(
        self,
        observations: dict[str, Tensor],
        noise: Noise | None,
        previous: Tensor | None,
        max_evaluations: int | None,
        overlap: Overlap | None,
    ) -> Decision:
        began = time.perf_counter()
        config = self.config
        deadline = None if config.deadline_s is None else began + config.deadline_s
        with torch.no_grad():
            encoded, context = self.model.encoded_context(observations)
            start = self._start(len(context), noise, previous, context.device)  # (B, H, A)
            old_plan = OldPlan(self.model, context, previous, config.n_action_steps)

            def energy_function(chunks: Tensor, rows: Tensor) -> Evaluation:
                # All rows while none has stopped: no copy of the context then.
                part = context if len(rows) == len(context) else context[rows]
                if self.model.is_denoiser:
                    return old_plan.beside(chunks, part)
                with torch.enable_grad():
                    return self.model.evaluate(chunks, part)

            expected = previous if config.start == "warm" else None
            rule = self.rule(max_evaluations, deadline)
            if config.objective == "unrolled":
                with torch.enable_grad():
                    chunks, trace = unrolled_descent(
                        self.model,
                        context,
                        start,
                        config,
                        rule.max_evaluations,
                        Terms(self.extra_energies, overlap),
                        deadline,
                    )
            else:
                chunks, trace = minimise(
                    energy_function,
                    start,
                    rule,
                    self.extra_energies,
                    expected=expected,
                    reading=lambda: old_plan.energy,
                    overlap=overlap,
                )
        trace.old_plan_energy = None if old_plan.energy is None else old_plan.energy.cpu().numpy()
        trace.seconds = time.perf_counter() - began
        return Decision(chunks, trace, encoded)

    def _start(
        self, batch: int, noise: Noise | None, previous: Tensor | None, device: torch.device
    ) -> Tensor:
        """Start chunks (B, H, A): zero, noise, or the previous chunk with noise where there is one."""
        config = self.config
        assert config.action_feature is not None
        shape = (config.horizon, config.action_feature.shape[0])
        if config.start == "zero":
            return torch.zeros(batch, *shape, device=device)
        drawn = (torch.randn(batch, *shape) if noise is None else noise.normal(shape)).to(device)
        keep_scale = config.noise_levels is not None
        start = with_noise(torch.zeros_like(drawn), drawn, config.noise_shares[1], keep_scale)
        if config.start == "warm" and previous is not None:
            warm = with_noise(previous, drawn, config.start_noise, keep_scale)
            start = torch.where(torch.isfinite(previous).all((1, 2), keepdim=True), warm, start)
        return start

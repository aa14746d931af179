"""Baselines on the same trunk, data and budget, so that a comparison measures the method and nothing else."""

from dataclasses import dataclass

from lerobot.configs.policies import PreTrainedConfig

from ebt_policy.configuration_chunk import ChunkPolicyConfig

METHODS = ("diffusion", "flow", "two_pass", "regression")


@PreTrainedConfig.register_subclass("matched_baseline")
@dataclass
class MatchedBaselineConfig(ChunkPolicyConfig):
    """diffusion: Diffusion Policy (arXiv 2303.04137): epsilon prediction, squared-cosine schedule, DDPM or DDIM.
    flow: rectified-flow matching with uniform time, Euler steps.
    two_pass: MIP (arXiv 2512.01809): regression, then one refinement from 0.9 of it, trained with noise.
    regression: one pass.
    """

    method: str = "diffusion"
    """[name] diffusion, flow, two_pass or regression, as above."""
    train_timesteps: int = 100
    """[levels] Noise levels that diffusion is trained on."""
    sampler: str = "ddpm"
    """[name] Sampler of diffusion: ddpm or ddim."""
    num_inference_steps: int = 100
    """[evaluations] Of one decision, for diffusion and flow; two_pass always takes 2, regression 1."""
    timestep_spacing: str = "leading"
    """[name] Levels that diffusion visits when it takes fewer than train_timesteps. trailing: from the highest level down, as
    arXiv 2305.08891 advises; leading, diffusers' default: down to the lowest, but not from the highest."""
    start: str = "noise"
    """[name] Where diffusion and flow start. noise, or warm: the previous chunk, shifted to now, at the level of noise that
    leaves warm_start_share of the way behind it; the first decision of an episode starts from noise."""
    warm_start_share: float = 0.5
    """[share] Of the levels, that a warm start skips: at .5 flow starts from half previous chunk, half noise, as EBT does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {METHODS}, found {self.method!r}.")
        if self.sampler not in ("ddpm", "ddim"):
            raise ValueError(f"sampler must be 'ddpm' or 'ddim', found {self.sampler!r}.")
        if self.timestep_spacing not in ("leading", "trailing"):
            raise ValueError(
                f"timestep_spacing must be 'leading' or 'trailing', found {self.timestep_spacing!r}."
            )
        if self.start not in ("noise", "warm"):
            raise ValueError(f"start must be 'noise' or 'warm', found {self.start!r}.")
        if not 0 < self.warm_start_share < 1:
            raise ValueError(f"warm_start_share must lie between 0 and 1, found {self.warm_start_share}.")
        if self.method == "diffusion" and not 1 <= self.num_inference_steps <= self.train_timesteps:
            raise ValueError(
                f"num_inference_steps ({self.num_inference_steps}) must lie between 1 and train_timesteps "
                f"({self.train_timesteps})."
            )

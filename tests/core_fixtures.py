"""Small policies and batches for the tests of the core."""

from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from torch import Tensor

import ebt_policy
from ebt_policy.chunk_policy import ChunkPolicy
from ebt_policy.modeling_ebt import EBTPolicy
from ebt_policy.modeling_matched_baseline import MatchedBaselinePolicy

SHAPES: dict[str, tuple[FeatureType, tuple[int, ...]]] = {
    "observation.state": (FeatureType.STATE, (2,)),
    "observation.environment_state": (FeatureType.ENV, (16,)),
    "observation.images.top": (FeatureType.VISUAL, (3, 40, 48)),
    "observation.images.wrist": (FeatureType.VISUAL, (3, 40, 48)),
}
LOW_DIM = ("observation.state", "observation.environment_state")


def make_policy(kind: str = "ebt", features: tuple[str, ...] = LOW_DIM, **options: Any) -> ChunkPolicy:
    """A tiny policy with random weights, in evaluation mode."""
    torch.manual_seed(0)
    config_class, policy_class = {
        "ebt": (ebt_policy.EBTConfig, EBTPolicy),
        "matched_baseline": (ebt_policy.MatchedBaselineConfig, MatchedBaselinePolicy),
    }[kind]
    config = config_class(
        input_features={name: PolicyFeature(*SHAPES[name]) for name in features},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        device="cpu",
        **(
            {"n_obs_steps": 2, "width": 16, "layers": 2, "attention_heads": 2, "crop_shape": (32, 32)}
            | ({"noise_levels": (0.15, 2.0)} if kind == "ebt" else {})
            | options
        ),
    )
    return policy_class(config).eval()


def make_batch(size: int, features: tuple[str, ...] = LOW_DIM, seed: int = 0) -> dict[str, Tensor]:
    """Normalised windows: observations (B, 2, ...), action (B, 16, 2), no padding."""
    generator = torch.Generator().manual_seed(seed)
    batch = {name: torch.rand(size, 2, *SHAPES[name][1], generator=generator) * 2 - 1 for name in features}
    batch["action"] = torch.rand(size, 16, 2, generator=generator) * 2 - 1
    batch["action_is_pad"] = torch.zeros(size, 16, dtype=torch.bool)
    return batch


def first_frames(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """What an environment gives: observations (B, ...) without time dimension."""
    return {name: value[:, 0] for name, value in batch.items() if name.startswith("observation")}


class Perfect:
    """An oracle that knows the expert's chunk: D = a, E = 1/2 ||x - a||^2."""

    def __init__(self, chunk: Tensor) -> None:
        self.chunk = chunk

    def denoise(self, x: Tensor, context: Tensor) -> Tensor:
        return self.chunk

    def gradient(self, x: Tensor, context: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        away = x - self.chunk
        return 0.5 * away.square().sum((1, 2)), away

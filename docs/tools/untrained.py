"""An untrained policy on random data, and one compiled training step of it: what the timings of this folder measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from torch import Tensor

import ebt_policy
from ebt_policy.modeling_ebt import EBTPolicy

Shapes = Mapping[str, tuple[int, ...]]
PUSHER = {"observation.state": (2,)}


def untrained(shapes: Shapes, **options: Any) -> EBTPolicy:
    """A policy on the CPU for observations of `shapes` and two joints; three numbers in a shape are a camera."""
    return EBTPolicy(
        ebt_policy.EBTConfig(
            input_features={name: PolicyFeature(_kind(name, shape), shape) for name, shape in shapes.items()},
            output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
            device="cpu",
            vision="small",
            noise_levels=(0.15, 2.0),
            **options,
        )
    )


def random_batch(policy: EBTPolicy, shapes: Shapes, samples: int) -> dict[str, Tensor]:
    """Observations in [0, 1] and chunks in [-1, 1]."""
    config = policy.config
    rows = {name: torch.rand(samples, config.n_obs_steps, *shape) for name, shape in shapes.items()}
    return rows | {"action": torch.rand(samples, config.horizon, 2) * 2 - 1}


def training_step(policy: EBTPolicy, batch: dict[str, Tensor]) -> Callable[[bool], None]:
    """The compiled loss of a batch and its gradient, without the optimiser; called with whether bf16 is used."""
    loss = torch.compile(policy.train().loss)

    def step(bf16: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value, _ = loss(batch)
        value.backward()

    return step


def _kind(name: str, shape: tuple[int, ...]) -> FeatureType:
    if len(shape) == 3:
        return FeatureType.VISUAL
    return FeatureType.STATE if name == "observation.state" else FeatureType.ENV

"""CPU time of one training step of `pusht_pixels` (256 samples), with and without context tokens, in fp32 and bf16, measured in turn.

python docs/tools/step_time.py            # prints the table that stands in docs/results.md; weights and pictures are random
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from torch import Tensor

import ebt_policy
from ebt_policy.modeling_ebt import EBTPolicy

SAMPLES, ROUNDS = 256, 12
SHAPES = {"observation.image": (3, 96, 96), "observation.state": (2,)}
PRECISIONS = {"fp32": False, "bf16": True}


def loss_function(context_tokens: bool) -> Callable[[dict[str, Tensor]], tuple[Tensor, dict]]:
    """The compiled loss of an untrained policy like the recipe's."""
    kinds = (FeatureType.VISUAL, FeatureType.STATE)
    config = ebt_policy.EBTConfig(
        input_features={
            n: PolicyFeature(kind, s) for kind, (n, s) in zip(kinds, SHAPES.items(), strict=True)
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        device="cpu",
        vision="small",
        noise_levels=(0.15, 2.0),
        context_tokens=context_tokens,
    )
    return torch.compile(EBTPolicy(config).train().loss)


def main() -> None:
    torch.set_num_threads(1)
    batch = {name: torch.rand(SAMPLES, 1, *shape) for name, shape in SHAPES.items()}
    batch |= {"action": torch.rand(SAMPLES, 16, 2) * 2 - 1}
    losses = {wanted: loss_function(wanted) for wanted in (False, True)}
    found: dict[tuple[bool, str], list[float]] = {(t, p): [] for t in losses for p in PRECISIONS}
    for k in range(ROUNDS + 2):
        for (tokens, precision), seconds in found.items():
            began = time.process_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=PRECISIONS[precision]):
                loss, _ = losses[tokens](batch)
            loss.backward()
            if k >= 2:  # the first ones compile
                seconds.append(time.process_time() - began)
    print("| context tokens | precision | fastest | median of " + str(ROUNDS) + ", s |\n|---|---|---:|---:|")
    for (tokens, precision), seconds in found.items():
        print(
            f"| {'yes' if tokens else 'no'} | {precision} | {min(seconds):.3f} | {np.median(seconds):.3f} |"
        )


if __name__ == "__main__":
    main()

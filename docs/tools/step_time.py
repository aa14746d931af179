"""CPU time of one training step of `pusht_pixels` (256 samples), with and without context tokens, in fp32 and bf16, measured in turn.

python docs/tools/step_time.py            # prints the table that stands in docs/results/pusht_pixels.md; weights and pictures are random
"""

from __future__ import annotations

import time

import numpy as np
import torch
from untrained import PUSHER, random_batch, training_step, untrained

SAMPLES, ROUNDS = 256, 12
SHAPES = PUSHER | {"observation.image": (3, 96, 96)}
PRECISIONS = {"fp32": False, "bf16": True}


def main() -> None:
    torch.set_num_threads(1)
    policies = {tokens: untrained(SHAPES, context_tokens=tokens) for tokens in (False, True)}
    batch = random_batch(policies[False], SHAPES, SAMPLES)
    steps = {tokens: training_step(policy, batch) for tokens, policy in policies.items()}
    found: dict[tuple[bool, str], list[float]] = {(t, p): [] for t in steps for p in PRECISIONS}
    for k in range(ROUNDS + 2):
        for (tokens, precision), seconds in found.items():
            began = time.process_time()
            steps[tokens](PRECISIONS[precision])
            if k >= 2:  # the first ones compile
                seconds.append(time.process_time() - began)
    print("| context tokens | precision | fastest | median of " + str(ROUNDS) + ", s |\n|---|---|---:|---:|")
    for (tokens, precision), seconds in found.items():
        print(
            f"| {'yes' if tokens else 'no'} | {precision} | {min(seconds):.3f} | {np.median(seconds):.3f} |"
        )


if __name__ == "__main__":
    main()

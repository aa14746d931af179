"""CPU time of a training step and of a decision, as functions of parameters, horizon, batch and cameras.

    python docs/tools/cost.py            # prints the table that stands in docs/scaling.md; weights and data are random

One thing at a time is changed from a policy like that of PushT keypoints. One core; precision as `precision: auto` chooses it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from untrained import PUSHER, random_batch, training_step, untrained

from ebt_policy.model.noise import Noise
from ebt_policy.training.loop import uses_bf16
from ebt_policy.training.recipe import load_recipe

STEPS, DECISIONS, WARM_UP = 8, 20, 2
BASE = {"width": 176, "horizon": 16, "batch": 256, "cameras": 0}
CHANGES = {
    "width": (64, 112, 264, 528),
    "horizon": (32, 64, 128),
    "batch": (16, 64, 1024),
    "cameras": (1, 2),
}


def seconds(run: Callable[[], object], times: int) -> float:
    """Median CPU seconds of a run."""
    found = []
    for k in range(times + WARM_UP):
        began = time.process_time()
        run()
        if k >= WARM_UP:
            found.append(time.process_time() - began)
    return float(np.median(found))


def measured(width: int, horizon: int, batch: int, cameras: int) -> tuple[float, float, float]:
    """Millions of parameters, seconds of a training step, and of a decision with two evaluations for one robot."""
    shapes = PUSHER | {"observation.environment_state": (16,)}
    shapes |= {f"observation.images.{i}": (3, 96, 96) for i in range(cameras)}
    policy = untrained(shapes, n_obs_steps=1, width=width, horizon=horizon)
    rows = random_batch(policy, shapes, batch)
    torch.compiler.reset()  # it stops compiling a function after eight versions of it
    step = training_step(policy, rows)
    bf16 = uses_bf16(load_recipe("pusht_keypoints"), torch.device("cpu"), cameras > 0)

    trained = seconds(lambda: step(bf16), STEPS)
    policy.eval()
    one = {n: value[:1] for n, value in rows.items() if n != "action"}
    decided = seconds(lambda: policy.decide(one, Noise.from_seeds([0]), max_evaluations=2), DECISIONS)
    return sum(p.numel() for p in policy.parameters()) / 1e6, trained, decided


def main() -> None:
    torch.set_num_threads(1)
    print(
        "| changed | parameters, M | step, s | ns a sample and parameter | decision, ms |\n|---|---:|---:|---:|---:|"
    )
    rows = [BASE] + [BASE | {name: value} for name, values in CHANGES.items() for value in values]
    for options in rows:
        parameters, step, decision = measured(**options)
        changed = ", ".join(f"{name} {value}" for name, value in options.items() if value != BASE[name])
        share = 1e3 * step / (options["batch"] * parameters)
        print(
            f"| {changed or 'nothing'} | {parameters:.2f} | {step:.3f} | {share:.2f} | {1e3 * decision:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

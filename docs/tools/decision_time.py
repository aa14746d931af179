"""Wall-clock time of one decision for every method of the PushT table, measured in turn.

    python docs/tools/decision_time.py          # prints the table that stands in docs/results.md

The policies take turns, so that other work on the machine falls on all of them alike. The time of a decision does not
depend on the values of the weights, so flow matching and two-pass regression borrow those of the shipped diffusion
policy, which has the same network.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping

import numpy as np
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from ebt_policy.envs import environment
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.inference.runner import Runner, find_checkpoint, load_runner
from ebt_policy.model.noise import Noise

EBT = "shipped:pusht_keypoints_ebt"
DIFFUSION = "shipped:pusht_keypoints_diffusion"


def runners() -> Iterator[tuple[str, Runner]]:
    """(name of the row in docs/results.md, runner) for each method and number of function evaluations."""
    for steps in (1, 2, 3, 4, 8):
        yield f"EBT-{steps}", load_runner(EBT, max_evaluations=steps)
    for steps in (1, 2, 4, 10):
        yield (
            f"Flow-{steps}",
            load_runner(DIFFUSION, overrides={"method": "flow", "num_inference_steps": steps}),
        )
    for steps in (2, 4, 10):
        yield f"DDIM-{steps}", load_runner(DIFFUSION, overrides={"sampler": f"ddim:{steps}"})
    yield "DDPM-100", load_runner(DIFFUSION)
    yield "Two-pass regression (MIP)", load_runner(DIFFUSION, overrides={"method": "two_pass"})
    yield "Regression", _untrained_regression()


def _untrained_regression() -> Runner:
    config = load_runner(DIFFUSION).config
    config.method = "regression"
    policy = get_policy_class(config.type)(config).eval()
    return Runner(policy, *make_pre_post_processors(config, pretrained_path=str(find_checkpoint(DIFFUSION))))


def measure(rounds: int, warm_up: int = 3) -> Mapping[str, np.ndarray]:
    """Milliseconds (rounds,) from raw observation to raw actions of each runner, at batch 1 on one thread."""
    task = environment("pusht_keypoints")
    observation, _ = task.make(False).reset(seed=0)
    batch = {name: value[None, None] for name, value in task.to_policy(observation).items()}
    measured: dict[str, list[float]] = {}
    with one_thread():
        everyone = list(runners())
        for turn in range(warm_up + rounds):
            for name, runner in everyone:
                previous = np.zeros((1, runner.config.horizon, 2), np.float32)
                noise = Noise.from_seeds([turn])
                begin = time.perf_counter()
                runner.decide(batch, noise, previous)
                if turn >= warm_up:
                    measured.setdefault(name, []).append(1e3 * (time.perf_counter() - begin))
    return {name: np.array(times) for name, times in measured.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    print("| Policy | Decision, ms: fastest | median |\n| --- | ---: | ---: |")
    for name, times in measure(rounds).items():
        print(f"| {name} | {times.min():.1f} | {np.median(times):.1f} |")


if __name__ == "__main__":
    main()

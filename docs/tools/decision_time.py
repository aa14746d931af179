"""Wall-clock time of one decision for every method of the PushT table, measured in turn.

    python docs/tools/decision_time.py          # prints the table that stands in docs/results/speed.md

Beside them stand the parts of EBT-2: its two passes of the network alone (the first with the old plan as a second row), and
the whole decision with alarms on: all signals and the calibrated score.

The policies take turns, so that other work on the machine falls on all of them alike. The time of a decision does not
depend on the values of the weights, so flow matching and two-pass regression borrow those of the shipped diffusion
policy, which has the same network.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from ebt_policy.envs import environment
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.inference.runner import Runner, find_checkpoint, load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.monitoring.calibration import calibrated
from ebt_policy.monitoring.signals import DEFAULT_SIGNALS, Statistic
from ebt_policy.monitoring.watched import WatchedRunner

EBT = "shipped:pusht_keypoints_ebt"
DIFFUSION = "shipped:pusht_keypoints_diffusion"
PASSES, ALARMS = "The network's work in EBT-2 alone", "EBT-2, alarms on"


def runners() -> Iterator[tuple[str, Runner]]:
    """(name of the row in docs/results/speed.md, runner) for each method and number of function evaluations."""
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
    previous = np.random.default_rng(0).standard_normal((1, 16, 2)).astype(np.float32)
    with one_thread():
        rows: dict[str, Callable[[Noise], object]] = {PASSES: _two_passes(batch)}
        rows[ALARMS] = _with_alarms(batch, previous)
        for name, runner in runners():
            rows[name] = functools.partial(_decide, runner, batch, previous)
        measured: dict[str, list[float]] = {name: [] for name in rows}
        for turn in range(warm_up + rounds):
            for name, row in rows.items():
                noise = Noise.from_seeds([turn])
                begin = time.perf_counter()
                row(noise)
                if turn >= warm_up:
                    measured[name].append(1e3 * (time.perf_counter() - begin))
    return {name: np.array(times) for name, times in measured.items()}


def _decide(runner: Runner, batch: dict[str, np.ndarray], previous: np.ndarray, noise: Noise) -> object:
    return runner.decide(batch, noise, previous)


@torch.no_grad()
def _two_passes(batch: dict[str, np.ndarray]) -> Callable[[Noise], object]:
    """The network alone: what it makes of the observations, then its two passes over chunks."""
    runner = load_runner(EBT)
    model, seen = runner.policy.model, runner.normalised(batch)
    one, two = torch.randn(1, 16, 2), torch.randn(2, 16, 2)

    @torch.no_grad()
    def run(_: Noise) -> None:
        context = model.context(seen)
        model.denoise(two, context.expand(2, *context.shape[1:]))  # the chunk, and the last plan beside it
        model.denoise(one, context)

    return run


def _with_alarms(batch: dict[str, np.ndarray], previous: np.ndarray) -> Callable[[Noise], object]:
    runner = load_runner(EBT, max_evaluations=2)
    zeros, ones = (0.0,) * len(DEFAULT_SIGNALS), (1.0,) * len(DEFAULT_SIGNALS)
    calibration = calibrated(
        np.linspace(0, 1e3, 60),
        alpha=0.05,
        statistic=Statistic(DEFAULT_SIGNALS, zeros, ones),
        horizon=40,
        checkpoint_sha256=runner.checkpoint_sha256,
        source="pusht_keypoints",
    )
    watched = WatchedRunner(runner, calibration)
    watch = watched.watch()
    return lambda noise: watched.decide(batch, noise, previous, [watch])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    print("| Policy | Decision, ms: fastest | median |\n| --- | ---: | ---: |")
    measured = measure(rounds)
    for name, times in measured.items():
        if name not in (PASSES, ALARMS):
            print(f"| {name} | {times.min():.1f} | {np.median(times):.1f} |")
    for name in (PASSES, ALARMS):
        print(f"\n{name}: fastest {measured[name].min():.1f} ms, median {np.median(measured[name]):.1f}")
    print("\nMedian over rounds of the ratio to EBT-2 in the same round, with its quartiles:\n")
    for name in (PASSES, ALARMS, "DDIM-10", "DDPM-100"):
        low, middle, high = np.percentile(measured[name] / measured["EBT-2"], [25, 50, 75])
        print(f"- {name}: {middle:.2f} [{low:.2f}, {high:.2f}]")
    low, middle, high = np.percentile(measured[ALARMS] / measured[PASSES], [25, 50, 75])
    print(f"- {ALARMS} over {PASSES}: {middle:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()

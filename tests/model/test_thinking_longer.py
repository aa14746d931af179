"""Trained with a lowest noise level, a policy's energy can be minimised; trained down to no noise, its steps lead away."""

import numpy as np
import torch

from ebt_policy.envs import environment
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise

SEEDS = range(50_000, 50_016)
POLICY, DOWN_TO_NO_NOISE = "shipped:pusht_keypoints_ebt_noise15", "shipped:pusht_keypoints_ebt"
STEP = 0.8  # of the way to D(x, o), whatever the budget: more evaluations are more descent


def first_observations() -> dict[str, np.ndarray]:
    spec, seen = environment("pusht_keypoints"), []
    for seed in SEEDS:
        env = spec.make(False)
        seen.append(spec.to_policy(env.reset(seed=seed)[0]))
        env.close()
    return {name: np.stack([one[name] for one in seen])[:, None] for name in seen[0]}


def chunks(policy: str, evaluations: int) -> np.ndarray:
    runner = load_runner(policy, max_evaluations=evaluations, overrides={"step_size": STEP})
    return runner.decide(first_observations(), Noise.from_seeds(SEEDS)).chunk


def moved(policy: str, few: int, many: int) -> float:
    """Median over episodes of the RMS difference of the answers, normalised action units."""
    difference = chunks(policy, few) - chunks(policy, many)
    return float(np.median(np.sqrt(np.square(difference).mean((1, 2)))))


def cosine(policy: str) -> float:
    """Median cosine of a step with minus the gradient of the energy, at the answers of two evaluations."""
    runner = load_runner(policy)
    model, chunk = runner.policy.model, torch.from_numpy(chunks(policy, 2))
    with torch.no_grad():
        context = model.context(runner.normalised(first_observations()))
        step = model.denoise(chunk, context) - chunk
    _, gradient = model.gradient(chunk, context)
    return float(torch.nn.functional.cosine_similarity(step.flatten(1), -gradient.flatten(1)).median())


def test_descent_comes_to_rest() -> None:
    assert moved(POLICY, 8, 64) < 0.001 < moved(DOWN_TO_NO_NOISE, 8, 64)


def test_a_step_goes_along_minus_the_gradient_of_the_energy() -> None:
    assert cosine(DOWN_TO_NO_NOISE) < 0.95 < cosine(POLICY)

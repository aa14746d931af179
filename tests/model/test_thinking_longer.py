"""The shipped PushT policy's energy can be minimised: more evaluations settle near the answer of two and stay there."""

import numpy as np
import torch

from ebt_policy.envs import environment
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise

SEEDS = range(50_000, 50_016)
POLICY = "shipped:pusht_keypoints_ebt_noise15"


def first_observations() -> dict[str, np.ndarray]:
    spec, seen = environment("pusht_keypoints"), []
    for seed in SEEDS:
        env = spec.make(False)
        seen.append(spec.to_policy(env.reset(seed=seed)[0]))
        env.close()
    return {name: np.stack([one[name] for one in seen])[:, None] for name in seen[0]}


def chunks(evaluations: int) -> np.ndarray:
    runner = load_runner(POLICY, max_evaluations=evaluations)
    return runner.decide(first_observations(), Noise.from_seeds(SEEDS)).chunk


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Median over episodes of the RMS difference, normalised action units."""
    return float(np.median(np.sqrt(np.square(a - b).mean((1, 2)))))


def test_many_evaluations_stay_near_the_answer_of_few() -> None:
    two, eight, many = (chunks(n) for n in (2, 8, 64))
    assert distance(two, many) < 0.06
    assert distance(eight, many) < 0.01


def test_a_step_goes_along_minus_the_gradient_of_the_energy() -> None:
    runner = load_runner(POLICY)
    observations = runner.normalised(first_observations())
    model, chunk = runner.policy.model, torch.from_numpy(chunks(2))
    with torch.no_grad():
        context = model.context(observations)
        step = model.denoise(chunk, context) - chunk
    _, gradient = model.gradient(chunk, context)
    cosine = torch.nn.functional.cosine_similarity(step.flatten(1), -gradient.flatten(1))
    assert cosine.median() > 0.96

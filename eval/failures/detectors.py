"""Failure detectors that need extra computation, applied to recorded episodes.

Each gives every decision of a WatchedEpisode one positive number; larger means more suspicious. Its cost at decision time
is measured one decision at a time, on one thread.

Legend: D decisions, K sampled chunks, n ticks executed, S feature size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ebt_policy.errors import UserError
from ebt_policy.eval.failures.novelty import log_density_of_noise
from ebt_policy.eval.failures.transition_data import transitions
from ebt_policy.eval.rollout.watched_episodes import WatchedEpisode
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.modeling_matched_baseline import MatchedBaselinePolicy
from ebt_policy.monitoring.distillation import train_distillation
from ebt_policy.monitoring.transition import feature_vector, train_transition

SAMPLES = 16  # chunks for the sampling detectors; STAC uses 256, FIPER 50
LEVELS = 8  # noise levels of the diffusion loss
VERSION = 2  # of these detectors: stored values of another version are computed again


@dataclass(frozen=True)
class Detector:
    """name: of the signal that it adds. values(episode): one number per decision, (D,)."""

    name: str
    values: Callable[[WatchedEpisode], np.ndarray]

    def cost_ms(self, episode: WatchedEpisode, decisions: int = 30) -> float:
        """Median milliseconds per decision."""
        spent = []
        for i in range(1, min(decisions, episode.decisions - 1)):
            pair = slice_decisions(episode, i - 1, i + 1)
            began = time.perf_counter()
            self.values(pair)
            spent.append(time.perf_counter() - began)
        return 1e3 * float(np.median(spent)) / 2  # two decisions were scored


def slice_decisions(episode: WatchedEpisode, begin: int, end: int) -> WatchedEpisode:
    """The same episode with the decisions begin..end only."""
    part = slice(begin, end)
    return WatchedEpisode(
        episode.env,
        episode.seed,
        episode.success,
        episode.length,
        episode.ticks[part],
        {name: values[part] for name, values in episode.signals.items()},
        {name: values[part] for name, values in episode.observations.items()},
        episode.chunks[part],
    )


def detectors(
    policy: str | Path, diffusion: str | Path | None, wanted: Collection[str], device: str = "cpu"
) -> list[Detector]:
    """The detectors for those wanted signals that need extra computation, fitted to the policy's training data.

    diffusion: a matched diffusion policy, for the signal diffusion_loss. Raises UserError if the data cannot be read.
    """
    found = []
    if {"transition", "rnd", "logpzo"} & set(wanted):
        found += _on_observations(policy, device)
    if {"chunk_variance", "stac"} & set(wanted):
        found += _sampling(policy, device)
    if diffusion is not None and "diffusion_loss" in wanted:
        found.append(_diffusion_loss(diffusion, device))
    return [detector for detector in found if detector.name in wanted]


def _on_observations(policy: str | Path, device: str) -> list[Detector]:
    """Detectors with small networks that are trained on the demonstrations."""
    runner = load_runner(policy, device=device)
    features, actions, following = transitions(runner, policy)
    energy = train_transition(features, actions, following, runner.checkpoint_sha256)
    n = runner.n_action_steps

    def features_of(episode: WatchedEpisode) -> Tensor:
        with torch.no_grad():
            return feature_vector(runner.policy, runner.normalised(episode.observations))

    def transition(episode: WatchedEpisode) -> np.ndarray:
        seen, done = features_of(episode), torch.from_numpy(episode.chunks[:, :n]).float()
        with torch.no_grad():
            values = energy(seen[:-1], done[:-1], seen[1:])
        return np.concatenate([[np.nan], values.numpy()])

    def on_features(score: Callable[[Tensor], Tensor]) -> Callable[[WatchedEpisode], np.ndarray]:
        return lambda episode: score(features_of(episode)).numpy()

    return [
        Detector("transition", transition),
        Detector("rnd", on_features(torch.no_grad()(train_distillation(features, runner.checkpoint_sha256)))),
        Detector("logpzo", on_features(log_density_of_noise(features))),
    ]


def _sampling(policy: str | Path, device: str) -> list[Detector]:
    """Detectors that draw K chunks from noise at every decision: their variance, after ACE (arXiv 2510.09459), and the
    divergence of successive draws, after STAC (arXiv 2410.04640).
    """
    runner = load_runner(policy, device=device, overrides={"start": "noise"})
    n = runner.n_action_steps

    @lru_cache(maxsize=1)  # both detectors use the same samples
    def draw(episode: WatchedEpisode) -> np.ndarray:
        """(D, K, H, A)."""
        repeated = {name: np.repeat(values, SAMPLES, axis=0) for name, values in episode.observations.items()}
        # Seeds depend only on episode and tick, so the values of a decision do not change when an episode is cut.
        seeds = [
            int(tick) * SAMPLES + k + 1_000_003 * episode.seed
            for tick in episode.ticks
            for k in range(SAMPLES)
        ]
        chunks = runner.decide(repeated, Noise.from_seeds(seeds)).chunk
        return chunks.reshape(episode.decisions, SAMPLES, *chunks.shape[1:])

    def variance(episode: WatchedEpisode) -> np.ndarray:
        return draw(episode)[:, :, :n].var(1).mean((1, 2))

    def divergence(episode: WatchedEpisode) -> np.ndarray:
        drawn = draw(episode)
        known = drawn.shape[2] - n
        if episode.decisions < 2 or known < 1:
            return np.full(episode.decisions, np.nan)
        before = drawn[:-1, :, n:].reshape(episode.decisions - 1, SAMPLES, -1)
        after = drawn[1:, :, :known].reshape(episode.decisions - 1, SAMPLES, -1)
        return np.concatenate([[np.nan], _energy_distance(before, after)])

    return [Detector("chunk_variance", variance), Detector("stac", divergence)]


def _energy_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Two samples (D, K, F) each -> (D,): 2 E|a - b| - E|a - a'| - E|b - b'|, at least 0."""

    def mean_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x[:, :, None] - y[:, None], axis=-1).mean((1, 2))

    return np.maximum(2 * mean_distance(a, b) - mean_distance(a, a) - mean_distance(b, b), 0)


def _diffusion_loss(policy: str | Path, device: str) -> Detector:
    """Denoising error of a diffusion policy on the executed chunk (after Diff-DAgger, arXiv 2410.14868)."""
    runner = load_runner(policy, device=device)
    model = runner.policy
    if not isinstance(model, MatchedBaselinePolicy) or model.config.method != "diffusion":
        raise UserError(
            f"diffusion: '{policy}' is no matched diffusion policy (type matched_baseline, method diffusion)."
        )
    alphas = model.scheduler.alphas_cumprod

    def values(episode: WatchedEpisode) -> np.ndarray:
        with torch.no_grad():
            seen = model._seen(runner.normalised(episode.observations))
            chunk = torch.from_numpy(episode.chunks).float()
            total = torch.zeros(len(chunk))
            steps = torch.linspace(0, model.config.train_timesteps - 1, LEVELS + 2).long()[1:-1]
            for i, t in enumerate(steps):
                seeds = [int(tick) * LEVELS + i + 1_000_003 * episode.seed for tick in episode.ticks]
                noise = Noise.from_seeds(seeds).normal(chunk.shape[1:])
                alpha = alphas[t]
                noised = alpha.sqrt() * chunk + (1 - alpha).sqrt() * noise
                level = torch.full((len(chunk),), float(t) / model.config.train_timesteps)
                total += (model._predict(noised, seen, level) - noise).square().mean((1, 2))
        return (total / LEVELS).numpy()

    return Detector("diffusion_loss", values)


def add_values(episodes: Sequence[WatchedEpisode], found: Sequence[Detector]) -> None:
    """Add each detector's values to the episodes' signals."""
    for episode in episodes:
        for detector in found:
            episode.signals[detector.name] = detector.values(episode).astype(np.float64)

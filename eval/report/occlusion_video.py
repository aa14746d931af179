"""A video of what a policy saw at each decision, red where covering the picture changes its plan most."""

from __future__ import annotations

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.video import encode
from ebt_policy.inference.occlusion import plan_changes
from ebt_policy.inference.runner import Runner

CAPTION = (
    "Red: covering this part of the picture with its mean colour changes the executed plan most (relative to the most in the episode). It "
    "tells what these plans depend on, not why."
)
SMALLEST = 384  # pixels, height
_SHARE = 0.75  # of red where the plan changes most


def occlusion_video(runner: Runner, episode: Episode, camera: str, fps: int) -> bytes:
    """WebM with a frame before the first tick and after each, as Episode.frames. The episode's watch must have kept its inputs.

    The picture is that of the last decision: between decisions the policy sees nothing.
    """
    watch, ticks = episode.watch, episode.decision_ticks
    if watch is None or not watch.observations or ticks is None:
        raise UserError("This episode has no observations: watch it with keep_inputs=True.")
    maps = [
        plan_changes(runner, observation, chunk, camera)
        for observation, chunk in zip(watch.observations, watch.chunks, strict=True)
    ]
    most = max(float(changes.max()) for changes in maps) or 1.0
    shown = [
        painted(observation[camera][-1], changes / most)
        for observation, changes in zip(watch.observations, maps, strict=True)
    ]
    until = [*ticks[1:], episode.ticks + 1]
    return encode([frame for frame, a, b in zip(shown, ticks, until, strict=True) for _ in range(a, b)], fps)


def painted(picture: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """picture (C, h, w) in 0..1, shares (h, w) in 0..1 -> uint8 (H, W, 3) with even sides, in grey and red."""
    grey = np.repeat(picture.mean(0)[..., None], 3, 2)
    weight = _SHARE * np.clip(shares, 0, 1)[..., None]
    mixed = (1 - weight) * grey + weight * np.array([1.0, 0.0, 0.0])
    scale = -(-SMALLEST // len(mixed))
    large = mixed.repeat(scale, 0).repeat(scale, 1)
    large = large[: len(large) // 2 * 2, : large.shape[1] // 2 * 2]
    return (255 * large).round().astype(np.uint8)

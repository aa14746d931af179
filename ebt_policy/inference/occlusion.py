"""Which part of a picture a plan depends on: how much the plan changes when that part is covered.

An intervention, so it is about this plan on this picture; it does not tell what the network "sees" or why. Zeiler and Fergus 2014
(arXiv 1311.2901), section 4.2, with the plan in place of a class. Legend: T observation steps, H horizon, A action dimension.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.inference.runner import Runner
from ebt_policy.model.noise import Noise

PATCH = 6  # a patch's side is this part of the picture's shorter side
OVERLAP = 4  # patches begin every PATCH / OVERLAP * 3 pixels: each covers a quarter of the next
_BATCH = 96


def plan_changes(
    runner: Runner, observations: Mapping[str, np.ndarray], chunk: np.ndarray, camera: str
) -> np.ndarray:
    """(h, w) float32: RMS change of the executed actions, normalised, when this part of the camera's picture has its mean colour.

    observations: raw values (T, ...) of one decision. chunk (H, A): what it planned, from which the policy starts again, with
    the same noise for each patch. A pixel's value is the mean over the patches that cover it. Raises UserError for a camera that
    the policy does not have.
    """
    if camera not in observations or observations[camera].ndim != 4:
        cameras = [name for name, value in observations.items() if value.ndim == 4]
        raise UserError(
            f"The policy has no camera '{camera}'. It has: {', '.join(cameras) or 'none, and so no picture to cover'}."
        )
    pictures = observations[camera]  # (T, C, H, W)
    height, width = pictures.shape[-2:]
    side = max(1, min(height, width) // PATCH)
    places = [(y, x) for y in _begins(height, side) for x in _begins(width, side)]
    covered = [pictures]
    for y, x in places:
        copy = pictures.copy()
        copy[..., y : y + side, x : x + side] = pictures.mean((-2, -1), keepdims=True)
        covered.append(copy)
    plans = []
    for begin in range(0, len(covered), _BATCH):
        part = np.stack(covered[begin : begin + _BATCH])
        batch = {
            name: np.repeat(value[None], len(part), 0)
            for name, value in observations.items()
            if name != camera
        } | {camera: part}
        previous = np.repeat(chunk[None].astype(np.float32), len(part), 0)
        plans.append(runner.decide(batch, Noise.from_seeds([0] * len(part)), previous).chunk)
    executed = np.concatenate(plans)[:, : runner.n_action_steps]
    change = np.sqrt(np.square(executed[1:] - executed[:1]).mean((1, 2)))
    total, count = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for (y, x), value in zip(places, change, strict=True):
        total[y : y + side, x : x + side] += value
        count[y : y + side, x : x + side] += 1
    return total / count


def _begins(length: int, side: int) -> list[int]:
    """Where patches begin along one direction: the first and the last touch the borders."""
    number = int(np.ceil((length - side) / max(1, side * 3 // OVERLAP))) + 1
    return np.unique(np.linspace(0, length - side, number).round().astype(int)).tolist()

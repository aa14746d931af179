"""The decisions of a policy, and their uncertainty signals, on the observations of recorded episodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ebt_policy.errors import UserError
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.inference.runner import Runner
from ebt_policy.language.encoders import TASK
from ebt_policy.model.noise import Noise
from ebt_policy.monitoring.signals import decision_signals, rows

if TYPE_CHECKING:
    from ebt_policy.data.windows import Windows

EPISODE_GB = 16.0  # bound on the pictures of one episode, 10^9 bytes: five minutes from two cameras of 640 x 480 at 30 Hz
TOLD_EVERY_S = 30.0


def recorded_signals(
    runner: Runner, dataset: str, root: Path | None = None, episodes: Sequence[int] | None = None
) -> list[list[dict[str, float]]]:
    """The signals of each decision along recorded episodes of a LeRobot dataset, assumed to be successful.

    episodes: their numbers; None: all.

    A decision is taken every n_action_steps frames, from the recorded observations and the policy's own last chunk.
    What the robot did is what was recorded, so `stillness` is the recording's and the rest is the policy's.
    Pictures are in memory for one episode at a time, at the camera's own size. Prints how far it is, every half minute.
    Raises UserError for a dataset without frames, or features that the policy does not have.
    """
    from ebt_policy.data.open_dataset import open_metadata
    from ebt_policy.data.windows import Windows

    numbers = list(range(open_metadata(dataset, root).total_episodes)) if episodes is None else list(episodes)
    groups = [[number] for number in numbers] if runner.config.image_features else [numbers]
    found: list[list[dict[str, float]]] = []
    told = time.monotonic()
    for group in groups if numbers else []:
        windows = Windows.from_lerobot(
            dataset,
            root,
            features=list(runner.needs),
            observation_delta_indices=runner.config.observation_delta_indices,
            action_delta_indices=None,
            episodes=group,
            image_cache_gb=EPISODE_GB,
        )
        owners = windows.episode_index.numpy()
        for episode in np.unique(owners):
            found.append(_along(runner, windows, np.flatnonzero(owners == episode), int(episode)))
            if time.monotonic() - told > TOLD_EVERY_S:
                told = time.monotonic()
                print(f"{len(found)} of {len(numbers)} recorded episodes", flush=True)
    if not found:
        raise UserError(f"Dataset '{dataset}' has no frames to calibrate on.")
    return found


def _along(runner: Runner, windows: Windows, frames: np.ndarray, seed: int) -> list[dict[str, float]]:
    noise, memory = Noise.from_seeds([seed]), PlanMemory()
    state: np.ndarray | None = None
    found: list[dict[str, float]] = []
    for frame in frames[:: runner.n_action_steps]:
        row = torch.tensor([int(frame)])
        batch = windows.batch(row)
        observations = {name: batch[name].numpy() for name in runner.needs}
        if runner.sentences:
            observations[TASK] = np.array(windows.sentences(row))
        previous = memory.at(int(frame))
        decision = runner.decide(observations, noise, previous)
        moved = None if state is None or decision.state is None else decision.state - state
        found += rows(
            decision_signals(decision.trace, decision.chunk, runner.n_action_steps, previous, moved)
        )
        state = decision.state
        memory.store(decision.chunk, int(frame))
    return found

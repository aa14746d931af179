"""How far the actions that a policy would execute lie from demonstrations that it was not trained on: one currency for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebt_policy.eval.benchmarks.unseen_windows import BATCH, unseen_windows, whole_windows
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise


def squared_errors(
    policy: str | Path,
    dataset: str | None = None,
    root: str | Path | None = None,
    *,
    max_evaluations: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    episodes: Sequence[int] | None = None,
    max_observations: int = 2000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Mean squared difference to the demonstrated actions for each episode, (n,), in the dataset's units.

    Over the first n_action_steps of a chunk, all joints, and the observations whose chunk lies inside the episode; each decision starts from
    noise, without a previous plan. dataset, episodes: see `unseen_windows`; max_evaluations, overrides: see `load_runner`. The
    same seed draws the same noise, whatever the policy. Raises UserError as they do.
    """
    runner = load_runner(policy, max_evaluations=max_evaluations, overrides=overrides)
    windows, preprocess, _ = unseen_windows(runner, find_checkpoint(policy), dataset, root, episodes)
    samples, executed = whole_windows(windows, max_observations), runner.n_action_steps
    model: Any = runner.policy
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for indices in samples.split(BATCH):
        raw = windows.samples(indices)
        shown = raw["action"][:, :executed].cpu().numpy().astype(float)
        noise = Noise([generator] * len(indices))
        decision = model.decide(preprocess(raw), noise=noise, max_evaluations=max_evaluations)
        planned = runner.actions(decision.chunk)[:, :executed]
        errors.append(np.square(planned - shown).mean((1, 2)))
    owner = windows.episode_index[samples].cpu().numpy()
    every = np.concatenate(errors)
    return np.array([every[owner == episode].mean() for episode in np.unique(owner)])

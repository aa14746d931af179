"""Demonstrations that a policy was not trained on, as samples for measuring it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ebt_policy.errors import UserError
from ebt_policy.training.trained_on import training_data, unseen_episodes

if TYPE_CHECKING:
    from lerobot.processor import PolicyProcessorPipeline

    from ebt_policy.data.windows import Windows
    from ebt_policy.inference.runner import Runner

BATCH = 256


def unseen_windows(
    runner: Runner,
    folder: Path,
    dataset: str | None = None,
    root: str | Path | None = None,
    episodes: Sequence[int] | None = None,
) -> tuple[Windows, PolicyProcessorPipeline, Sequence[int]]:
    """Demonstrations that the policy in `folder` was not trained on, its preprocessor, and the episodes' numbers.

    dataset: LeRobot repo id; None: the training dataset. episodes: None: those that the policy was not trained on. Raises UserError
    where it does not say what it was trained on.
    """
    from lerobot.policies.factory import make_pre_post_processors

    from ebt_policy.data.windows import Windows

    config, device = runner.config, str(runner.config.device)
    dataset = dataset or training_data(folder).get("repo_id")
    if dataset is None:
        raise UserError(f"{folder} does not say what it was trained on. Name the dataset.")
    if episodes is None:
        episodes = unseen_episodes(folder, dataset, root)
    windows = Windows.from_lerobot(
        dataset,
        root,
        features=[*runner.needs, *(config.output_features or ())],
        observation_delta_indices=config.observation_delta_indices,
        action_delta_indices=config.action_delta_indices,
        episodes=list(episodes),
        device=device,
        resize_shape=getattr(config, "resize_shape", None),
    )
    preprocess, _ = make_pre_post_processors(
        config, pretrained_path=str(folder), preprocessor_overrides={"device_processor": {"device": device}}
    )
    return windows, preprocess, episodes


def whole_windows(windows: Windows, at_most: int) -> Tensor:
    """At most `at_most` evenly spaced indices of samples whose chunk lies inside its episode."""
    everything = torch.arange(len(windows))
    whole = torch.cat([i[~windows.batch(i)["action_is_pad"].any(1).cpu()] for i in everything.split(BATCH)])
    return whole[torch.linspace(0, len(whole) - 1, min(at_most, len(whole))).long()]

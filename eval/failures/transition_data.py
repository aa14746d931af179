"""Training data of learned signals: the demonstrations that the policy was trained on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.runner import Runner
from ebt_policy.language.encoders import OBS_TASK
from ebt_policy.monitoring.distillation import train_distillation
from ebt_policy.monitoring.learned_signals import LearnedSignals
from ebt_policy.monitoring.transition import feature_vector, train_transition


def fitted_signals(runner: Runner, policy: str | Path, names: Collection[str]) -> LearnedSignals:
    """The nets of `names`, trained on the policy's own data. Raises UserError if the data cannot be read."""
    features, actions, following = transitions(runner, policy)
    sha = runner.checkpoint_sha256
    return LearnedSignals(
        transition=train_transition(features, actions, following, sha) if "transition" in names else None,
        rnd=train_distillation(features, sha) if "rnd" in names else None,
    )


def transitions(runner: Runner, policy: str | Path) -> tuple[Tensor, Tensor, Tensor]:
    """Features (M, S), executed actions (M, n, A) normalised, and the features n ticks later, of its training data."""
    from ebt_policy.data.windows import Windows
    from ebt_policy.training.trained_on import training_data

    trained_on = training_data(find_checkpoint(policy))
    config, n = runner.config, runner.n_action_steps
    recorded, outputs = list(runner.needs), list(config.output_features or {})
    windows = Windows.from_lerobot(
        trained_on["repo_id"],
        trained_on.get("root"),
        features=[*recorded, *outputs],
        observation_delta_indices=[*(config.observation_delta_indices or (0,)), n],
        action_delta_indices=list(range(n)),
    )
    parts = []
    for rows in torch.arange(len(windows)).split(2048):
        raw = windows.batch(rows)
        whole = ~raw["action_is_pad"].any(1) & ~raw[f"{recorded[0]}_is_pad"][:, -1]
        kept: dict[str, Any] = {k: v[whole] for k, v in raw.items() if not k.endswith("_is_pad")}
        batch = runner.preprocessor(kept | {"task": windows.sentences(rows[whole.cpu()])})
        observed = {name: batch[name] for name in config.input_features or {}}
        told = {OBS_TASK: batch[OBS_TASK]} if OBS_TASK in batch else {}
        with torch.no_grad():
            now = feature_vector(runner.policy, {name: v[:, :-1] for name, v in observed.items()} | told)
            later = feature_vector(runner.policy, {name: v[:, 1:] for name, v in observed.items()} | told)
        parts.append((now, batch["action"], later))
    features, actions, following = (torch.cat(column) for column in zip(*parts, strict=True))
    return features, actions, following

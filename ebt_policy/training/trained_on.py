"""What a checkpoint says of the data it was trained on."""

import json
from pathlib import Path
from typing import Any

from ebt_policy.data.episodes import split_episodes
from ebt_policy.data.fingerprints import episode_fingerprints
from ebt_policy.errors import UserError

EPISODES = "training_episodes.json"  # in pretrained_model: fingerprints of the episodes trained on
SPLIT_SEED = 0  # not the recipe's: runs that differ in their seed alone train on the same episodes


def training_data(folder: Path) -> dict[str, Any]:
    """The `dataset` part of a checkpoint's train_config.json; empty where it has none."""
    path = folder / "train_config.json"
    return json.loads(path.read_text()).get("dataset") or {} if path.is_file() else {}


def held_out_episodes(total_episodes: int, trained_on: dict[str, Any]) -> list[int]:
    """The episodes that `train` held out, by the same split. Raises UserError where it held none out."""
    used = trained_on.get("episodes") or list(range(total_episodes))
    fraction = trained_on.get("eval_split") or 0.0
    _, held_out = split_episodes(len(used), fraction, SPLIT_SEED)
    if not held_out:
        raise UserError("The training of this policy held no episode out. Name the episodes to measure on.")
    return [used[i] for i in held_out]


def unseen_episodes(folder: Path, dataset: str, root: str | Path | None = None) -> list[int]:
    """The episodes of `dataset` that the checkpoint in `folder` was not trained on, in order.

    Recognised by their fingerprints; for a checkpoint without them by the dataset's name, and then those that training held
    out. Raises UserError if none is left.
    """
    prints = episode_fingerprints(dataset, root)
    path, trained_on = folder / EPISODES, training_data(folder)
    if path.is_file():
        known = set(json.loads(path.read_text()))
        unseen = [episode for episode, mark in prints.items() if mark not in known]
    elif trained_on.get("repo_id") == dataset:
        unseen = held_out_episodes(len(prints), trained_on) if trained_on.get("eval_split") else []
    else:
        unseen = list(prints)
    if not unseen:
        raise UserError(
            f"The policy was trained on all {len(prints)} episodes of '{dataset}'. This needs episodes that it has not seen: "
            "record new ones, or train with dataset.held_out_fraction=0.2 and use those held out."
        )
    return unseen

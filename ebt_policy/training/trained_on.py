"""What a checkpoint says of the data it was trained on."""

import json
from pathlib import Path
from typing import Any

from ebt_policy.data.episodes import split_episodes
from ebt_policy.errors import UserError

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

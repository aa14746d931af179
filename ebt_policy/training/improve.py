"""`ebt-policy improve`: goes on training a policy on its own demonstrations and an operator's corrections."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import draccus

from ebt_policy.errors import UserError
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.training.recipe import TrainRecipe, decode_recipe, load_recipe, overridden
from ebt_policy.training.run_folder import RECIPE
from ebt_policy.training.train import train
from ebt_policy.training.trained_on import training_data

STEPS = 1000
LEARNING_RATE = (
    0.3  # of the first training's: its cosine has ended at zero, and a restart at its height would undo much
)


def improve(
    run: str | Path,
    corrections: Sequence[str],
    output: str | Path,
    *,
    steps: int = STEPS,
    share: float | None = None,
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Trains a new run in `output` from the last checkpoint of `run`; returns `output`. See `improving_recipe` and `train`.

    Raises UserError where the corrections do not fit the demonstrations, and as `train` does.
    """
    return train(improving_recipe(run, corrections, steps, share, overrides), output, resume=resume)


def improving_recipe(
    run: str | Path,
    corrections: Sequence[str],
    steps: int = STEPS,
    share: float | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> TrainRecipe:
    """The recipe of `run` with a short schedule of its own, from the averaged weights of its last checkpoint.

    corrections: folders or repo ids; those that `run` itself was improved with stay in. share: of the corrections in each batch,
    None: the recipe's default. overrides: dotted keys of the recipe. Raises UserError where nothing says what `run` was trained on.
    """
    if not corrections:
        raise UserError(
            "Name at least one dataset of corrections: --corrections FOLDER (of --record.root), or its repo id."
        )
    checkpoint = find_checkpoint(run).resolve()  # not the link `last`, which moves on
    first = _recipe_of(checkpoint)
    before = first.corrections.datasets if first.corrections else ()
    mixed: dict[str, Any] = {"datasets": list(dict.fromkeys([*before, *corrections]))}
    if share is not None:
        mixed["share"] = share
    elif first.corrections:
        mixed["share"] = first.corrections.share
    values: dict[str, Any] = {
        "steps": steps,
        "warmup_steps": max(steps // 10, 1),
        "checkpoint_every": max(steps // 4, 1),
        "eval_every": max(steps // 4, 1),
        "log_every": max(steps // 20, 1),
        "compile": False,  # would take as long as it saves
        "optimizer.lr": first.optimizer.lr * (1.0 if first.corrections else LEARNING_RATE),
        "corrections": mixed,
    }
    policy = {"type": first.policy["type"], "pretrained_path": str(checkpoint)}
    return overridden(draccus.encode(first), {"policy": policy, **values, **(overrides or {})})


def _recipe_of(checkpoint: Path) -> TrainRecipe:
    """What the checkpoint was trained on and how: its run's recipe, else what its train_config.json says of the data."""
    run = checkpoint.parents[2]
    if (run / RECIPE).is_file():
        return load_recipe(run / RECIPE)
    data = training_data(checkpoint)
    if not data.get("repo_id"):
        raise UserError(
            f"Nothing says what the policy in {checkpoint} was trained on: its run has no {RECIPE}. Give a run of `ebt-policy "
            "train`, and not a copy of its checkpoint alone."
        )
    kind = json.loads((checkpoint / "config.json").read_text())["type"]
    kept = {"repo_id": data["repo_id"], "root": data.get("root"), "episodes": data.get("episodes")}
    kept["held_out_fraction"] = data.get("eval_split") or 0.0
    return decode_recipe({"policy": {"type": kind}, "dataset": kept})

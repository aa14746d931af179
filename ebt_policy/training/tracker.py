"""A run's figures in an experiment tracker, wandb or trackio, where the recipe asks for one."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any, Protocol

from ebt_policy.errors import UserError
from ebt_policy.training.recipe import TrainRecipe

PROJECT = "ebt-policy"


class Tracker(Protocol):
    """The functions that wandb and trackio share."""

    def log(self, metrics: dict[str, float], step: int) -> object: ...

    def finish(self) -> object: ...


def start_tracker(run: Path, recipe: TrainRecipe) -> Tracker | None:
    """Begins to log a run under its folder's name; None where the recipe names no tracker.

    A resumed run continues the tracker's. Raises UserError where the tracker is not installed or cannot start.
    """
    if recipe.tracker is None:
        return None
    try:
        module: Any = importlib.import_module(recipe.tracker)
    except ImportError as error:
        raise UserError(
            f"The tracker '{recipe.tracker}' is not installed: pip install {recipe.tracker}"
        ) from error
    options: dict[str, Any] = {"resume": "allow"}
    if recipe.tracker == "wandb":
        # An id of its own keeps runs of the same name in other folders apart; wandb reads the mode from WANDB_MODE.
        options |= {"id": _run_id(run), "dir": str(run)}
    try:
        module.init(project=PROJECT, name=run.name, config=dataclasses.asdict(recipe), **options)
    except Exception as error:  # no account, no network, ...
        raise UserError(f"The tracker '{recipe.tracker}' did not start: {error}") from error
    return module


def _run_id(run: Path) -> str:
    """The tracker's id of this run, made once and kept in its folder."""
    import uuid

    path = run / "tracker_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()

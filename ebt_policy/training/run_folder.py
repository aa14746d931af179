"""The folder of a run: who may write into it, what it says about the run, and what happens when its disk is full."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import draccus
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ebt_policy.errors import UserError
from ebt_policy.provenance import run_record, write_atomic, write_json
from ebt_policy.training.checkpoint import last_checkpoint
from ebt_policy.training.recipe import TrainRecipe, dump_recipe, load_recipe

RECIPE = "recipe.yaml"
RUN = "run.json"
LOCK = ".lock"
# What may differ between a run and its continuation without making it another run.
FREE_ON_RESUME = {"log_every", "eval_every", "checkpoint_every", "threads", "device", "compile", "tracker"}


def started_recipe(run: Path) -> TrainRecipe | None:
    """The recipe that a run was started with, None where there is no run."""
    path = run / RECIPE
    return load_recipe(path) if path.exists() else None


def check_run(run: Path, recipe: TrainRecipe, resume: bool) -> int | None:
    """Steps that the run was planned for where `resume` extends it, else None. Writes nothing.

    Raises UserError unless the folder is new, or, with `resume`, belongs to this recipe; `steps` may have grown.
    """
    if not resume:
        if run.exists() and any(path.name != LOCK for path in run.iterdir()):
            raise UserError(f"'{run}' exists. Choose another folder, or continue that run with --resume.")
        return None
    started = started_recipe(run)
    if started is None:
        raise UserError(f"There is no run to resume in '{run}': it has no {RECIPE}.")
    before, now = draccus.encode(started), draccus.encode(recipe)
    extended = before["steps"] if now["steps"] > before["steps"] else None
    free = FREE_ON_RESUME | ({"steps"} if extended else set())
    changed = [key for key in now if key not in free and before[key] != now[key]]
    if changed:
        lines = "; ".join(f"{key} was {before[key]}, now {now[key]}" for key in changed)
        raise UserError(
            f"'{run}' was trained with another recipe: {lines}. Only more steps extend a run; start a new run for "
            "another recipe."
        )
    return extended


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps other processes from training in this folder. Raises UserError where one already does."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another process is training in '{run}'. Wait for it or stop it, or choose another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def start_run(run: Path, recipe: TrainRecipe, record: dict[str, Any]) -> None:
    """Writes recipe.yaml, and run.json with where the run comes from and `record`, once for each start and resume."""
    write_atomic(run / RECIPE, dump_recipe(recipe))
    path, record = run / RUN, run_record() | record
    if path.exists():
        first = json.loads(path.read_text())
        record = first | {"resumed": [*first.get("resumed", []), record]}
    write_json(path, record)


@contextmanager
def disk_errors(run: Path) -> Iterator[None]:
    """Turns the errors of a full disk into one UserError. What was saved before stays whole."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not full and not any(
            sign in str(error) for sign in ("StorageFull", "No space left", "QuotaExceeded")
        ):
            raise
        saved = last_checkpoint(run)
        ahead = (
            f"free some space and continue with --resume: the run is saved up to step {int(saved.name)}"
            if saved
            else "free some space and start again: no step was saved yet"
        )
        raise UserError(f"The disk of '{run}' is full; {ahead}.") from error

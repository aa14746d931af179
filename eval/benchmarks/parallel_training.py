"""Several trainings at once, each in a process of its own: on one GPU, which a small policy alone leaves mostly idle, or on many cores."""

from __future__ import annotations

import multiprocessing
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ebt_policy.errors import UserError
from ebt_policy.training.checkpoint import last_checkpoint
from ebt_policy.training.recipe import TrainRecipe
from ebt_policy.training.run_folder import RECIPE
from ebt_policy.training.run_log import read_metrics

_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Training:
    """A run to train or resume. name: for people."""

    name: str
    recipe: TrainRecipe
    folder: Path

    @property
    def finished(self) -> bool:
        last = last_checkpoint(self.folder)
        return last is not None and int(last.name) >= self.recipe.steps

    @property
    def log(self) -> Path:
        return self.folder.with_name(self.folder.name + ".log")


def train_at_once(trainings: Sequence[Training], at_once: int, console: Console) -> None:
    """Trains all that are not finished, at most `at_once` at a time. What each prints goes to <folder>.log.

    Raises UserError when one fails, after the others that run have ended; Ctrl-C lets each save, as it does for one.
    """
    waiting = [training for training in trainings if not training.finished]
    spawn = multiprocessing.get_context("spawn")
    running: dict[SpawnProcess, Training] = {}
    failed: list[Training] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=console.quiet) as progress:
        bars = {t.folder: progress.add_task(t.name, total=t.recipe.steps) for t in waiting}
        while running or (waiting and not failed):
            while waiting and len(running) < at_once and not failed:
                training = waiting.pop(0)
                training.folder.parent.mkdir(parents=True, exist_ok=True)
                process = spawn.Process(target=_train, args=(training,))
                process.start()
                running[process] = training
            time.sleep(_LOOK_EVERY_S)
            for process, training in list(running.items()):
                progress.update(bars[training.folder], completed=_steps(training.folder))
                if not process.is_alive():
                    process.join()
                    del running[process]
                    if process.exitcode:
                        failed.append(training)
    if failed:
        tail = failed[0].log.read_text(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"Training {', '.join(t.name for t in failed)} failed: {' '.join(tail)} All of it: {failed[0].log}. "
            "What the others reached is kept; the same command goes on from there."
        )


def _steps(folder: Path) -> int:
    rows = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
    return int(rows[-1]["step"]) if rows else 0


def _train(training: Training) -> None:
    """In the process of its own."""
    from ebt_policy.training.train import train

    with training.log.open("a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        try:
            train(training.recipe, training.folder, resume=(training.folder / RECIPE).exists())
        except KeyboardInterrupt:
            sys.exit(130)
        except UserError as error:
            print(error)
            sys.exit(1)
        except Exception:
            traceback.print_exc(file=log)
            sys.exit(1)

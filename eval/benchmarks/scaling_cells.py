"""The trainings of a bench as cells of a grid, each with its errors on demonstrations that none was trained on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.action_error import squared_errors
from ebt_policy.eval.benchmarks.parallel_training import Training
from ebt_policy.eval.benchmarks.training_cost import flops
from ebt_policy.training.recipe import TrainRecipe
from ebt_policy.training.run_folder import started_recipe

BUDGETS = (2, 10)  # evaluations of a decision


@dataclass(frozen=True)
class Cell:
    """One method trained in one way. demonstrations: of all tasks. width: of the network, 0 where the recipe leaves it open. squared: budget -> squared errors (K, n), those of K trainings on the same n episodes."""

    method: str
    demonstrations: int
    width: int
    parameters: int
    steps: int
    samples: int
    squared: Mapping[int, NDArray[np.float64]]

    @property
    def place(self) -> tuple[int, int, int]:
        """What a cell of another method must share to be its counterpart; parameters differ a little between methods."""
        return self.demonstrations, self.width, self.steps

    @property
    def flops(self) -> float:
        return flops(self.parameters, self.samples)


def method_name(recipe: TrainRecipe) -> str:
    """EBT, or the method of a matched baseline."""
    kind = recipe.policy["type"]
    return "EBT" if kind == "ebt" else str(recipe.policy.get("method", kind))


def sampler(recipe: TrainRecipe) -> dict[str, Any]:
    """Diffusion in few evaluations is DDIM, from the highest noise level down."""
    if method_name(recipe) != "diffusion":
        return {}
    return {"sampler": "ddim", "timestep_spacing": "trailing"}


def read_cells(folder: Path, held_out: str, console: Console) -> tuple[list[Cell], list[dict[str, Any]]]:
    """The cells of a bench's finished trainings, and one record for each training. Raises UserError where there is none."""
    started = {run: started_recipe(run) for run in sorted(folder.glob("train/*-seed*"))}
    runs = {
        run: recipe for run, recipe in started.items() if recipe and Training(run.name, recipe, run).finished
    }
    if not runs:
        raise UserError(f"{folder}/train has no finished training. Run the bench first.")
    trained: dict[tuple[str, int, int, int, int, int], list[dict[int, NDArray[np.float64]]]] = defaultdict(
        list
    )
    records = []
    for run, recipe in track(runs.items(), "Errors on held-out demonstrations", console=console):
        shown = json.loads((run / "run.json").read_text())
        errors = {
            budget: squared_errors(run, held_out, max_evaluations=budget, overrides=sampler(recipe))
            for budget in BUDGETS
        }
        samples = recipe.steps * recipe.batch_size
        width = int(recipe.policy.get("width", 0))
        key = (method_name(recipe), shown["episodes"], width, shown["parameters"], recipe.steps, samples)
        trained[key].append(errors)
        rms = {f"error_{budget}": f"{np.sqrt(e.mean()):.5g}" for budget, e in errors.items()}
        names = ("method", "demonstrations", "width", "parameters", "steps", "samples")
        records.append(dict(zip(names, key, strict=True)) | {"seed": recipe.seed} | rms)
    cells = []
    for key, every in trained.items():
        cells.append(Cell(*key, {budget: np.stack([one[budget] for one in every]) for budget in BUDGETS}))
    return cells, records

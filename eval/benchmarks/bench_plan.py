"""What a bench will cost, before it starts: every training that is left with its size, and the episodes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from rich.console import Console

from ebt_policy.configuration_chunk import ChunkPolicyConfig
from ebt_policy.eval.benchmarks.parallel_training import Training
from ebt_policy.eval.benchmarks.training_cost import flops
from ebt_policy.eval.report.report import Table
from ebt_policy.language.choose import condition_on, dataset_sentences
from ebt_policy.training.described_data import describe_data
from ebt_policy.training.recipe import TrainRecipe
from ebt_policy.training.run_log import read_metrics

NS = 0.1  # for each sample and parameter on one core with AVX512_BF16, without cameras: .06 to .15 (docs/scaling.md)
CPU = torch.device("cpu")


def parameters(recipe: TrainRecipe) -> tuple[int, bool]:
    """Number of parameters of the policy, and whether it has cameras. Raises UserError for a recipe that does not fit its dataset."""
    from lerobot.policies.factory import get_policy_class

    described = describe_data(recipe, CPU)
    config = described.config
    if isinstance(config, ChunkPolicyConfig) and config.pretrained_path is None:
        condition_on(config, dataset_sentences(described.meta, described.episodes))
    with contextlib.redirect_stdout(io.StringIO()):  # LeRobot prints here
        policy = get_policy_class(config.type)(config)
    return sum(p.numel() for p in policy.parameters()), bool(config.image_features)


def training_plan(trainings: Iterable[Training]) -> Table:
    """The trainings, what is left of each, and an estimate of the time on one core.

    The speed is that of the finished ones where there are some (median of seconds for each sample and parameter), else NS. Policies with
    cameras are only estimated from finished trainings of their own.
    """
    rows, total, unknown = [], 0.0, 0
    seedless: dict[str, tuple[int, bool]] = {}  # trainings that differ in their seed alone are equally large
    sized = []
    for training in trainings:
        key = repr(replace(training.recipe, seed=0))
        if key not in seedless:
            seedless[key] = parameters(training.recipe)
        sized.append((training, *seedless[key]))
    speeds = {cameras: _speed(sized, cameras) for cameras in (False, True)}
    for training, size, cameras in sized:
        samples, speed = training.recipe.steps * training.recipe.batch_size, speeds[cameras]
        if training.finished:
            left = "done"
        elif speed is None:
            left, unknown = "?", unknown + 1
        else:
            minutes = speed * size * samples / 60
            left, total = f"{minutes:.0f} min", total + minutes
        rows.append(
            (
                training.name,
                f"{size / 1e6:.2f} M",
                f"{samples / 1e6:.2f} M",
                f"{flops(size, samples):.1e}",
                left,
            )
        )
    rows.append(
        ("Together", "", "", "", f"{total:.0f} min" + (f" and {unknown} with cameras" if unknown else ""))
    )
    note = (
        "FLOPs: 6 × parameters × samples. Time: of one core, within a factor of two, by the trainings that are done or else .1 ns for each "
        "sample and parameter; without compiling, examining the data and episodes."
    )
    return Table(("Training", "Parameters", "Samples", "FLOPs", "Left"), tuple(rows), "Trainings", (note,))


def print_plan(trainings: Sequence[Training], episodes: Sequence[tuple[Path, int]], console: Console) -> None:
    """The trainings, and how many episodes are left. episodes: files and how many each holds once it is there."""
    if trainings:
        table = training_plan(trainings)
        console.print(table.rich(), *table.notes, sep="\n", highlight=False)
    left = sum(count for file, count in episodes if not file.is_file())
    console.print(f"{left:,} of {sum(count for _, count in episodes):,} episodes are left.", highlight=False)


def _speed(sized: Sequence[tuple[Training, int, bool]], cameras: bool) -> float | None:
    """Seconds for each sample and parameter."""
    done = [(training, size) for training, size, has in sized if has == cameras and training.finished]
    if not done:
        return None if cameras else NS * 1e-9
    return median(_seconds(training.folder) / (size * _samples(training.folder)) for training, size in done)


def _seconds(run: Path) -> float:
    return float(read_metrics(run)[-1]["seconds"])


def _samples(run: Path) -> int:
    return int(read_metrics(run)[-1]["samples"])

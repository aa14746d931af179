"""The report of a bench as Markdown and HTML: protocol, tables, figures, provenance."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebt_policy.envs import environment
from ebt_policy.eval.benchmarks.bench_config import BenchConfig
from ebt_policy.eval.benchmarks.bench_tasks import task_tables
from ebt_policy.eval.benchmarks.time_to_success import time_table
from ebt_policy.eval.benchmarks.training_cost import TrainedRow
from ebt_policy.eval.report.figures import Point, curves, plotly_div, plotly_script
from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.report.report import Result, Table, comparison_table, percent, verdicts
from ebt_policy.provenance import run_record, write_atomic

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from ebt_policy.training.recipe import TrainRecipe

_KEPT = ("image_cache_gb", "tolerance_s")  # change nothing of what is learned
CHECKPOINT_RULE = "the last one, moving average (EMA) of the weights; none is chosen by its results"


def write_bench_report(
    output: Path,
    config: BenchConfig,
    results: Sequence[Result],
    trained: Sequence[TrainedRow],
    recipes: Mapping[str, TrainRecipe],
) -> Path:
    """Write report.md and report.html into `output`; returns the path of the latter. recipes: of the rows that were trained."""
    main = comparison_table(results, environment(config.env).solved_when, config.reference, "Results")
    compared = verdicts(results, config.reference)
    tables = [training_table(trained)] if trained else []
    if len(environment(config.env).tasks) > 1:
        tables += task_tables(results, config.reference, environment(config.env).tasks)
    if any(len(result.episodes) > 1 for result in results):
        tables.append(by_training_seed(results))
    if any(row.learning_curve for row in trained):
        if config.time_to is not None:
            tables.append(time_table(results, trained, config.time_to))
        tables.append(learning_table(trained))
    details = _details(config, training_sentence(config, recipes))
    title = f"{config.env}: {len(results)} settings on the same {config.episodes} seeds"

    figures = [(heading, plotly_div(figure)) for heading, figure in _figures(results, trained)]
    return write_pages(output, title, details, main, compared, config.reference, tables, figures)


def write_pages(
    output: Path,
    title: str,
    details: Mapping[str, str],
    main: Table,
    compared: Sequence[str],
    reference: str,
    tables: Sequence[Table],
    figures: Sequence[tuple[str, str]] = (),
) -> Path:
    """Write the same content as report.md and report.html; returns the path of the latter. figures: (heading, HTML)."""
    output.mkdir(parents=True, exist_ok=True)
    parts = [
        f"# {title}\n",
        "".join(f"- {name}: {value}\n" for name, value in details.items()),
        main.markdown(),
        f"## Against {reference}\n",
        "".join(f"- {line}\n" for line in compared),
        *(table.markdown() for table in tables),
    ]
    write_atomic(output / "report.md", "\n".join(parts))
    page = output / "report.html"
    write_html(
        page,
        "bench.html.j2",
        title=title,
        table=main,
        verdicts=compared,
        reference=reference,
        figures=figures,
        tables=tables,
        details=details,
        plotly_script=plotly_script() if figures else "",
    )
    return page


def training_table(trained: Sequence[TrainedRow]) -> Table:
    """The training cost of each policy, to judge whether the comparison is fair."""
    rows = tuple(
        (
            row.name,
            f"{row.parameters / 1e6:.2f} M",
            f"{row.steps:,}",
            f"{row.samples:,}",
            f"{row.seconds / 60:.1f}",
            "–" if row.held_out_loss is None else f"{row.held_out_loss:.4f}",
        )
        for row in trained
    )
    columns = ("Policy", "Parameters", "Steps", "Samples", "Minutes", "Held-out loss")
    return Table(
        columns, rows, "Training", ("Losses of different objectives cannot be compared with one another.",)
    )


def by_training_seed(results: Sequence[Result]) -> Table:
    """Success by training seed, to see the variation between training runs."""
    seeds = sorted({seed for result in results for seed in result.episodes})

    def cell(result: Result, seed: int) -> str:
        if seed not in result.episodes:
            return "–"
        return percent(Result(result.name, result.family, {seed: result.episodes[seed]}).success)

    rows = tuple((r.name, *(cell(r, seed) for seed in seeds)) for r in results)
    return Table(("Policy", *(f"Training seed {s}" for s in seeds)), rows, "Success by training seed")


def learning_table(trained: Sequence[TrainedRow]) -> Table:
    """Success at each checkpoint."""
    rows = tuple(
        (
            point.result.name,
            f"{point.samples:,}",
            f"{point.seconds / 60:.1f}",
            percent(point.result.success),
            str(point.result.matrix("success").size),
        )
        for row in trained
        for point in row.learning_curve
    )
    return Table(("Policy", "Samples", "Minutes", "Success", "n"), rows, "Success while training")


def _figures(results: Sequence[Result], trained: Sequence[TrainedRow]) -> list[tuple[str, Figure]]:
    by_evaluations: dict[str, list[Point]] = defaultdict(list)
    by_latency: dict[str, list[Point]] = defaultdict(list)
    for result in results:
        spent = result.mean("evaluations_per_decision")
        by_evaluations[result.family].append(Point(spent, result.success, result.name))
        if result.latency_ms:
            by_latency[result.family].append(Point(result.latency_ms[0], result.success, result.name))
    made = [
        ("Success against function evaluations", curves(by_evaluations, "evaluations per decision")),
        ("Success against wall-clock", curves(by_latency, "median ms per decision, batch 1")),
    ]
    learning = {row.name: row.learning_curve for row in trained if row.learning_curve}
    if learning:
        samples = {
            n: [Point(p.samples, p.result.success, p.result.name) for p in c] for n, c in learning.items()
        }
        minutes = {
            n: [Point(p.seconds / 60, p.result.success, p.result.name) for p in c]
            for n, c in learning.items()
        }
        made += [
            ("Success against training samples", curves(samples, "training samples", log_x=False)),
            ("Success against training time", curves(minutes, "minutes of training", log_x=False)),
        ]
    return made


def training_sentence(config: BenchConfig, recipes: Mapping[str, TrainRecipe]) -> str:
    """What the trainings of the rows have in common, and which rows differ in data, batch or steps. recipes: by name of the row."""
    finished = [row.name for row in config.rows if row.checkpoint is not None]
    facts = {name: _learned_from(recipe) for name, recipe in recipes.items()}
    if not facts:
        return f"none of the rows was trained here: {'; '.join(finished)}"
    names = [row.name for row in config.rows if row.name in facts]
    common = next(
        (r.name for r in config.rows if r.name in facts and config.reference in {s.name for s in r.settings}),
        names[0],
    )
    other = []
    for name in names:
        keys = [key for key in facts[name] if facts[name][key] != facts[common][key]]
        if keys:
            other.append(f"{name} ({', '.join(f'{key} {_plain(facts[name][key])}' for key in keys)})")
    said = f"recipe {config.recipe}: "
    if other:
        steps, batch = facts[common]["steps"], facts[common]["batch_size"]
        said += f"data, batch of {batch} and {steps:,} steps as {common}, but for: {'; '.join(other)}"
    else:
        said += "the same data, batch and steps for every row that was trained, see the table"
    return said + (f"; not trained here: {'; '.join(finished)}" if finished else "")


def _learned_from(recipe: TrainRecipe) -> dict[str, Any]:
    """Data, batch and steps of a training; how the data are kept in memory is no part of them."""
    dataset = {f"dataset.{key}": value for key, value in asdict(recipe.dataset).items() if key not in _KEPT}
    rest = {"corrections": recipe.corrections, "starts from": recipe.policy.get("pretrained_path")}
    return {"steps": recipe.steps, "batch_size": recipe.batch_size, **dataset, **rest}


def _plain(value: Any) -> str:
    return f"{value:,}" if type(value) is int else "none" if value is None else str(value)


def _details(config: BenchConfig, training: str) -> dict[str, str]:
    record, spec = run_record(), environment(config.env)
    machine, last_seed = record["machine"], config.seed + config.episodes - 1
    return {
        "Environment": f"{config.env}, {spec.max_ticks} ticks at {spec.fps} a second",
        "Episodes": f"{config.episodes}, seeds {config.seed} to {last_seed} for every row",
        "Training": training,
        "Checkpoint": CHECKPOINT_RULE,
        "Reference": config.reference,
        "Command": record["command"],
        "Commit": record["git"] or "not a checkout",
        "Machine": f"{machine['system']} {machine['processor']}, {machine['cores']} cores",
        "Versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }

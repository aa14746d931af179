"""`ebt-policy bench`: trains missing policies, evaluates all on the same seeds, writes the report.

    <output>/train/<row>-seed<k>/        the training runs
    <output>/rows/<setting>-seed<k>.parquet   episodes; at an earlier checkpoint with -step<n>
    <output>/report.md, report.html

A bench of several tasks has these files in <output>/<env>/ for each task, and an overview in <output>. Files are written
atomically, so an interrupted bench continues at the first missing one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_config import BenchConfig, Row, Setting, load_suite
from ebt_policy.eval.benchmarks.bench_file import slug
from ebt_policy.eval.benchmarks.bench_overview import write_overview
from ebt_policy.eval.benchmarks.bench_report import write_bench_report
from ebt_policy.eval.benchmarks.parallel_training import Training, train_at_once
from ebt_policy.eval.benchmarks.training_cost import LearningPoint, TrainedRow
from ebt_policy.eval.report.report import Result
from ebt_policy.eval.rollout.episodes import Episode, read_parquet
from ebt_policy.eval.rollout.evaluate import evaluate
from ebt_policy.eval.rollout.ray_backend import Cluster
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.monitoring.calibration import Calibration, read_calibration
from ebt_policy.monitoring.recovery import Ladder
from ebt_policy.provenance import sha256
from ebt_policy.suggestions import did_you_mean
from ebt_policy.training.recipe import TrainRecipe, load_recipe
from ebt_policy.training.run_log import read_metrics


@dataclass(frozen=True)
class _Bench:
    """A running bench."""

    config: BenchConfig
    output: Path
    processes: int | None
    console: Console
    cluster: Cluster | None


def bench(
    config: str | Path,
    output: str | Path | None = None,
    *,
    rows: Sequence[str] = (),
    tasks: Sequence[str] = (),
    processes: int | None = None,
    show_progress: bool = True,
    cluster: Cluster | None = None,
    trainings: int = 1,
    plan: bool = False,
) -> Path | None:
    """Run the bench described by the YAML file `config`; returns the path of report.html.

    output: default runs/<name of the file>; results in it that still fit are kept. rows, tasks: train and evaluate only
    these; then no report is written and None is returned, and several processes can share the work in one folder. processes,
    cluster: see `evaluate`. trainings: how many policies to train at once. plan: only print what is left and what it will cost. Raises UserError for mistakes in the file or a recipe.
    """
    suite = load_suite(config)
    _check_names(config, "row", rows, [row.name for row in suite.benches[0].rows])
    _check_names(config, "task", tasks, [one.env for one in suite.benches])
    folder = Path(output) if output is not None else Path("runs") / suite.name
    for one in suite.benches:
        for row in one.rows:  # check all rows first: an error must not appear after a day of training
            _recipe(one, row, seed=0)

    pages, results = [], {}
    console = Console(quiet=not show_progress)
    chosen = [one for one in suite.benches if not tasks or one.env in tasks]
    runs = [
        _Bench(one, folder / one.env if suite.several else folder, processes, console, cluster)
        for one in chosen
    ]
    planned = [training for run in runs for training in _trainings(run, rows)]
    if plan:
        from ebt_policy.eval.benchmarks.bench_plan import print_plan

        print_plan(planned, [file for run in runs for file in _episodes(run, rows)], console)
        return None
    if trainings > 1:
        train_at_once(planned, trainings, console)
    for one, run in zip(chosen, runs, strict=True):
        results[one.env], trained = _run(run, rows)
        if not rows:
            recipes = {
                row.name: recipe for row in one.rows if (recipe := _recipe(one, row, row.training_seeds[0]))
            }
            pages.append(write_bench_report(run.output, one, results[one.env], trained, recipes))
    if rows or tasks:
        return None
    return write_overview(folder, suite, results) if suite.several else pages[0]


def _episodes(run: _Bench, rows: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """The files of episodes of this bench, of all rows or of those named, and how many each holds."""
    for row in run.config.rows:
        if not rows or row.name in rows:
            for setting, seed in product(row.settings, row.training_seeds):
                yield _episode_file(run, setting, seed), run.config.episodes


def _episode_file(run: _Bench, setting: Setting, seed: int) -> Path:
    return run.output / "rows" / f"{slug(setting.name)}-seed{seed}.parquet"


def _run(run: _Bench, rows: Sequence[str]) -> tuple[list[Result], list[TrainedRow]]:
    """Train and evaluate the rows of one task (all, or those named)."""
    results: list[Result] = []
    trained: list[TrainedRow] = []
    for row in run.config.rows:
        if rows and row.name not in rows:
            continue
        policies = {seed: _policy(run, row, seed) for seed in row.training_seeds}
        results += [_result(run, row, setting, policies) for setting in row.settings]
        if row.checkpoint is None:
            trained.append(_trained(run, row, policies))
    return results, trained


def _check_names(config: str | Path, kind: str, wanted: Sequence[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            raise UserError(
                f"{config} has no {kind} '{name}'.{did_you_mean(name, known)} Its {kind}s: {', '.join(known)}."
            )


def _recipe(config: BenchConfig, row: Row, seed: int) -> TrainRecipe | None:
    """The shared recipe with the changes of the row; None for a row with a finished checkpoint."""
    if row.checkpoint is not None:
        return None
    from ebt_policy.training.policy_setup import policy_config

    policy = {f"policy.{key}": value for key, value in row.policy.items()}
    recipe = load_recipe(config.recipe, {**config.train, **policy, **row.train, "seed": seed})
    # A mistake in the options shows now. The policy to start from may be one that another bench still has to train.
    options = {name: value for name, value in recipe.policy.items() if name != "pretrained_path"}
    policy_config(replace(recipe, policy=options), "cpu")
    return recipe


def _trainings(run: _Bench, rows: Sequence[str]) -> Iterator[Training]:
    """What this bench trains, of all rows or of those named."""
    for row in run.config.rows:
        if row.checkpoint is not None or (rows and row.name not in rows):
            continue
        for seed in row.training_seeds:
            recipe = _recipe(run.config, row, seed)
            assert recipe is not None  # only a row with a checkpoint has none
            yield Training(f"{run.config.env}: {row.name}, seed {seed}", recipe, _folder(run, row, seed))


def _folder(run: _Bench, row: Row, seed: int) -> Path:
    return run.output / "train" / f"{slug(row.name)}-seed{seed}"


def _policy(run: _Bench, row: Row, seed: int) -> Path:
    """The run folder or checkpoint of a row; trains or resumes training if it is not finished."""
    recipe = _recipe(run.config, row, seed)
    if recipe is None:
        return find_checkpoint(row.checkpoint or "")
    from ebt_policy.training.run_folder import RECIPE
    from ebt_policy.training.train import train

    folder = _folder(run, row, seed)
    if not Training(row.name, recipe, folder).finished:
        run.console.print(
            f"Training {row.name}, seed {seed}, for {run.config.env}", style="bold", highlight=False
        )
    return train(recipe, folder, resume=(folder / RECIPE).exists())


def _result(run: _Bench, row: Row, setting: Setting, policies: dict[int, Path]) -> Result:
    episodes, latencies = {}, []
    for seed, policy in policies.items():
        file = _episode_file(run, setting, seed)
        episodes[seed], metadata = _evaluated(run, setting, policy, file, run.config.episodes)
        latencies.append(metadata["latency_ms"])
    p50, p95 = (sum(measured[p] for measured in latencies) / len(latencies) for p in ("p50", "p95"))
    return Result(setting.name, setting.curve, episodes, (p50, p95))


def _trained(run: _Bench, row: Row, policies: dict[int, Path]) -> TrainedRow:
    """The cost of training, and if the row asks for it the success at every checkpoint."""
    curve = [
        _learning_point(run, row, setting, policies, checkpoint)
        for setting in row.settings
        if setting.name == row.learning_curve
        for checkpoint in _checkpoints(policies.values())
    ]
    return TrainedRow.read(row.name, policies, curve)


def _learning_point(
    run: _Bench, row: Row, setting: Setting, policies: dict[int, Path], checkpoint: str
) -> LearningPoint:
    episodes, spent = {}, []
    for seed, folder in policies.items():
        file = run.output / "rows" / f"{slug(setting.name)}-seed{seed}-step{checkpoint}.parquet"
        policy = folder / "checkpoints" / checkpoint
        n = run.config.learning_curve_episodes
        episodes[seed], _ = _evaluated(run, setting, policy, file, n, latency=False)
        spent.append([m for m in read_metrics(folder) if m["step"] <= int(checkpoint)][-1])
    seconds = sum(m["seconds"] for m in spent) / len(spent)
    return LearningPoint(spent[0]["samples"], seconds, Result(setting.name, row.name, episodes))


def _checkpoints(folders: Iterable[Path]) -> list[str]:
    """Names of the checkpoints (zero-padded steps) that all runs have, oldest first. (An interruption adds one to its run.)"""
    names = [{p.name for p in (f / "checkpoints").iterdir() if p.name.isdecimal()} for f in folders]
    return sorted(set.intersection(*names))


def _evaluated(
    run: _Bench, setting: Setting, policy: Path, file: Path, episodes: int, latency: bool = True
) -> tuple[list[Episode], dict[str, Any]]:
    """Episodes and metadata from `file`; runs the episodes first if it is missing or of another policy or setting."""
    config = run.config
    wanted = {
        "env": config.env,
        "seed": config.seed,
        "episodes": episodes,
        "checkpoint_sha256": sha256(find_checkpoint(policy) / "model.safetensors"),
    }
    acting: dict[str, Any] = {
        "max_evaluations": setting.max_evaluations,
        "overrides": dict(setting.overrides),
    }
    if setting.n_action_steps is not None:
        acting["n_action_steps"] = setting.n_action_steps
    ladder = Ladder(actions=setting.ladder) if setting.ladder else None
    if ladder:
        acting["ladder"] = asdict(ladder) | {"actions": list(ladder.actions)}
    if file.is_file():
        rows, found = read_parquet(file)
        same = all(found[k] == v for k, v in wanted.items()) and all(
            found["policy"].get(k) == v for k, v in acting.items()
        )
        if same and (found["latency_ms"] or not latency):
            return [replace(row, traces=[]) for row in rows], found
    run.console.print(f"Evaluating {file.stem}, {episodes} episodes", style="bold", highlight=False)
    measured = evaluate(
        policy,
        config.env,
        episodes,
        config.seed,
        max_evaluations=setting.max_evaluations,
        n_action_steps=setting.n_action_steps,
        overrides=setting.overrides,
        calibration=_calibration(run, setting, policy) if ladder else None,
        ladder=ladder,
        processes=run.processes,
        cluster=run.cluster,
        latency=latency,
        parquet_path=file,
        show_progress=not run.console.quiet,
    )
    if spared := measured.spared():
        run.console.print(spared, highlight=False)
    return [replace(row, traces=[]) for row in measured.rows], measured.to_dict()


def _calibration(run: _Bench, setting: Setting, policy: Path) -> Calibration:
    """The calibration of the policy, acting as in the setting, in the undisturbed environment; made once for all settings that share it."""
    from ebt_policy.eval.failures.calibrate import calibrate

    config, env = run.config, run.config.env.partition("+")[0]
    sha = sha256(find_checkpoint(policy) / "model.safetensors")
    budget = setting.max_evaluations or "trained"
    acts: dict[str, Any] = {"n_action_steps": setting.n_action_steps, "overrides": dict(setting.overrides)}
    otherwise = f"-{hashlib.sha256(repr(acts).encode()).hexdigest()[:8]}" if any(acts.values()) else ""
    file = run.output.parent / "calibrations" / f"{env}-{sha[:12]}-{budget}{otherwise}.json"
    if file.is_file():
        return read_calibration(file, sha).with_alpha(config.alpha)
    run.console.print(f"Calibrating on {config.calibration_episodes} episodes of {env}", style="bold")
    return calibrate(
        str(policy),
        file,
        env=env,
        episodes=config.calibration_episodes,
        seed=config.calibration_seed,
        alpha=config.alpha,
        max_evaluations=setting.max_evaluations,
        processes=run.processes,
        **acts,
    )

"""`ebt-policy bench` on a file of kind monitor: how well, how early and at what cost do scores detect failures?

    <output>/<env>/calibration-<first seed>.npz, <env>+<disturbance>-<first seed>.npz   episodes, in parts
    <output>/<env>/report.md, report.html, results.json

All detectors score the same episodes. Fit, calibration and test episodes have different seeds. Files are written when they
are complete, and again with the detectors' values, so an interrupted bench continues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy import provenance
from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_report import write_pages
from ebt_policy.eval.benchmarks.monitor_config import (
    DetectorRow,
    MonitorBench,
    MonitorTask,
    load_monitor_bench,
)
from ebt_policy.eval.failures.calibrate import fit_and_score
from ebt_policy.eval.failures.detectors import VERSION, Detector, add_values, detectors
from ebt_policy.eval.failures.failure_detection import (
    CELLS,
    AtAlpha,
    Scored,
    at_alpha,
    auroc,
    cell_of,
    matched_lengths,
    resampled,
    scored,
)
from ebt_policy.eval.report.report import Table, signed
from ebt_policy.eval.rollout.latency import measure_latency, measure_watching
from ebt_policy.eval.rollout.parallel import usable_cores
from ebt_policy.eval.rollout.watched_episodes import (
    WatchedEpisode,
    read_watched,
    watch_episodes,
    watched_episode,
    write_watched,
)
from ebt_policy.eval.statistics.intervals import Interval
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.runner import Runner, load_runner
from ebt_policy.monitoring.calibration import Calibration, calibrated
from ebt_policy.monitoring.signals import DEFAULT_SIGNALS, LEARNED, SIGNALS
from ebt_policy.provenance import run_record, sha256, write_json
from ebt_policy.suggestions import did_you_mean

RESAMPLES = 500
_AT = ("tpr", "tnr", "balanced_accuracy", "detection_time", "time_weighted_accuracy", "false_alarms")


@dataclass(frozen=True)
class _Part:
    """The episodes of one file, and the JSON values that say how they were made."""

    path: Path
    episodes: list[WatchedEpisode]
    made_with: Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """One detector on one task. figures: of `_figures`. intervals: their 95 % bootstrap intervals over test episodes."""

    row: DetectorRow
    cost_ms: float
    figures: dict[str, float]
    auroc_undisturbed: float
    auroc_disturbed: float
    at: dict[float, AtAlpha]
    intervals: dict[str, tuple[float, float]]
    draws: dict[str, np.ndarray]  # likewise, in each bootstrap sample; the same samples for every detector


def monitor_bench(
    path: Path, output: Path | None = None, processes: int | None = None, only: Sequence[str] = ()
) -> Path:
    """Run the bench; returns the path of the last task's report.html. only: run these environments only.

    Raises UserError for mistakes in the file.
    """
    config = load_monitor_bench(path)
    folder = output or Path("runs") / config.name
    known = [task.env for task in config.tasks]
    for name in only:
        if name not in known:
            raise UserError(f"{path} has no task '{name}'.{did_you_mean(name, known)}")
    tasks = [task for task in config.tasks if not only or task.env in only]
    for task in tasks:
        find_checkpoint(task.policy)
        for name in ("", *task.disturbances):
            environment(f"{task.env}+{name}" if name else task.env)  # raises before hours of episodes
    pages = [_run(config, task, folder / task.env, processes or usable_cores()) for task in tasks]
    return pages[-1]


def _run(config: MonitorBench, task: MonitorTask, folder: Path, processes: int) -> Path:
    first, n = config.calibration_seed, task.calibration_episodes or config.calibration_episodes
    fitting = _episodes(task, folder, task.env, range(first, first + n), processes, "calibration")
    parts = _test_episodes(config, task, folder, processes)
    wanted = {name for row in config.detectors for name in row.signals}
    extra = detectors(task.policy, task.diffusion, wanted)
    for part in (fitting, *parts):
        _add_values(task, part, extra)
    test = [episode for part in parts for episode in part.episodes]
    successes = [e.rows() for e in fitting.episodes if e.success]
    lengths = matched_lengths(test)
    runner = load_runner(task.policy, max_evaluations=task.max_evaluations)
    decision_ms = measure_latency(runner, task.env).p50
    watching_ms = measure_watching(runner, task.env, _default_calibration(config, successes, runner))
    measured = [
        _measure(config, row, successes, test, lengths, _cost(row, extra, test)) for row in config.detectors
    ]
    record = _record(config, task, test, measured, decision_ms) | {"watching_ms": watching_ms}
    write_json(folder / "results.json", record)
    return _report(config, task, folder, test, measured, decision_ms, watching_ms)


def _default_calibration(
    config: MonitorBench, successes: Sequence[list[dict[str, float]]], runner: Runner
) -> Calibration:
    """The calibration that `ebt-policy calibrate` would make from these episodes."""
    horizon, alpha = max(map(len, successes)), max(config.alphas)
    statistic, scores = fit_and_score(successes, DEFAULT_SIGNALS, horizon, alpha)
    made_with = {"checkpoint_sha256": runner.checkpoint_sha256, "source": config.name}
    return calibrated(scores, statistic=statistic, horizon=horizon, alpha=alpha, **made_with)


def _test_episodes(config: MonitorBench, task: MonitorTask, folder: Path, processes: int) -> list[_Part]:
    """Run episodes until each cell is full: undisturbed ones, then all disturbances in turn; at most `at_most` of each half."""
    at_most, size = task.at_most or config.at_most, task.round
    found: list[_Part] = []
    halves = (("",), task.disturbances)
    for names in halves:
        cells: Counter[str] = Counter()
        for part in count():
            name, begin = names[part % len(names)], config.seed + part // len(names) * size
            env = f"{task.env}+{name}" if name else task.env
            found.append(_episodes(task, folder, env, range(begin, begin + size), processes))
            cells.update("success" if e.success else "failure" for e in found[-1].episodes)
            # Complete rounds only, so that every disturbance has the same seeds.
            whole = (part + 1) % len(names) == 0
            full = min(cells["success"], cells["failure"]) >= config.per_cell
            if whole and (full or (part + len(names) + 1) * size > at_most):
                break
    return found


def _episodes(
    task: MonitorTask, folder: Path, env: str, seeds: range, processes: int, name: str | None = None
) -> _Part:
    """Read the episodes from the file of an earlier run of the same policy, or run them."""
    path = folder / f"{(name or env).replace(':', '-')}-{seeds[0]}.npz"
    made_with = {
        "env": env,
        "seeds": [seeds[0], len(seeds)],
        "checkpoint_sha256": _sha256(task.policy),
        "max_evaluations": task.max_evaluations,
    }
    if path.is_file():
        episodes, found = read_watched(path)
        if {k: v for k, v in found.items() if k != "values"} == made_with:
            return _Part(path, episodes, found)
    ran = watch_episodes(
        task.policy, env, seeds, processes=processes, max_evaluations=task.max_evaluations, keep_inputs=True
    )
    part = _Part(path, [watched_episode(episode) for episode in ran], made_with)
    write_watched(path, part.episodes, made_with)
    return part


def _add_values(task: MonitorTask, part: _Part, extra: Sequence[Detector]) -> None:
    """Add the signals that need computation, unless an earlier run stored them, and the time index."""
    made_by = {"version": VERSION, "diffusion": task.diffusion and _sha256(task.diffusion)}
    if part.made_with.get("values") != made_by:
        for episode in part.episodes:
            episode.signals = {k: v for k, v in episode.signals.items() if k in SIGNALS and k not in LEARNED}
    missing = [detector for detector in extra if detector.name not in part.episodes[0].signals]
    if missing:
        add_values(part.episodes, missing)
        write_watched(part.path, part.episodes, {**part.made_with, "values": made_by})
    for episode in part.episodes:
        episode.signals["time"] = np.arange(1.0, episode.decisions + 1)


def _sha256(policy: str) -> str:
    return sha256(find_checkpoint(policy) / "model.safetensors")


def _measure(
    config: MonitorBench,
    row: DetectorRow,
    successes: Sequence[list[dict[str, float]]],
    test: Sequence[WatchedEpisode],
    lengths: Sequence[int],
    cost_ms: float,
) -> Measured:
    horizon = max(len(e) for e in successes)
    statistic, calibration = fit_and_score(successes, row.signals, horizon, min(config.alphas), row.window)
    results = scored(statistic, test, lengths)
    figures = _figures(config, results, calibration)
    rng = np.random.default_rng(0)
    samples = [_figures(config, resampled(results, rng), calibration) for _ in range(RESAMPLES)]
    draws = {name: np.array([sample[name] for sample in samples]) for name in figures}
    intervals = {}
    for name, values in draws.items():
        low, high = np.nanquantile(values, [0.025, 0.975])
        intervals[name] = (float(low), float(high))
    return Measured(
        row=row,
        cost_ms=cost_ms,
        figures=figures,
        auroc_undisturbed=auroc(results, CELLS[2:3], CELLS[:1]),
        auroc_disturbed=auroc(results, CELLS[3:], CELLS[1:2]),
        at={alpha: at_alpha(results, calibration, alpha) for alpha in config.alphas},
        intervals=intervals,
        draws=draws,
    )


def _figures(
    config: MonitorBench, results: Sequence[Scored], calibration: Sequence[float]
) -> dict[str, float]:
    """All figures of the table, by name."""
    figures = {"auroc": auroc(results)}
    for alpha in config.alphas:
        at = at_alpha(results, calibration, alpha)
        figures |= {f"{name} at {alpha:g}": getattr(at, name) for name in _AT}
    return figures


def _cost(row: DetectorRow, extra: Sequence[Detector], test: Sequence[WatchedEpisode]) -> float:
    """Milliseconds per decision of the signals that need computation."""
    longest = max(test, key=lambda e: e.decisions)
    return sum(detector.cost_ms(longest) for detector in extra if detector.name in row.signals)


def _record(
    config: MonitorBench,
    task: MonitorTask,
    test: Sequence[WatchedEpisode],
    measured: Sequence[Measured],
    decision_ms: float,
) -> dict[str, Any]:
    return {
        "task": asdict(task),
        "config": asdict(config) | {"tasks": [], "detectors": []},
        "cells": Counter(map(cell_of, test)),
        "by_disturbance": _by_disturbance(test),
        "decision_ms": decision_ms,
        "detectors": [
            {k: v for k, v in asdict(one).items() if k not in ("draws", "figures")}
            | {"auroc": one.figures["auroc"]}
            | {"at": {f"{a:g}": asdict(v) for a, v in one.at.items()}}
            for one in measured
        ],
        "versions": provenance.versions(),
        "run": run_record(),
    }


def _by_disturbance(test: Sequence[WatchedEpisode]) -> dict[str, list[int]]:
    """{env: [successes, episodes]}."""
    return {
        env: [sum(e.success for e in test if e.env == env), sum(e.env == env for e in test)]
        for env in sorted({e.env for e in test})
    }


def _report(
    config: MonitorBench,
    task: MonitorTask,
    folder: Path,
    test: Sequence[WatchedEpisode],
    measured: Sequence[Measured],
    decision_ms: float,
    watching_ms: float,
) -> Path:
    cells = Counter(map(cell_of, test))
    main = _table(config, measured, decision_ms, watching_ms)
    best = next(one for one in measured if one.row.name == config.reference)
    compared = [_compared(config, one, best) for one in measured if one is not best]
    counts = Table(
        ("Environment", "Successes", "Episodes"),
        tuple((env, str(k), str(n)) for env, (k, n) in _by_disturbance(test).items()),
        "Episodes",
        (f"Cells: {', '.join(f'{cell} {cells[cell]}' for cell in CELLS)}.",),
    )
    record = run_record()
    details = {
        "Policy": f"{task.policy}, {_sha256(task.policy)[:12]}",
        "Environment": task.env,
        "Test seeds": f"from {config.seed}; calibration from {config.calibration_seed}",
        "Command": record["command"],
        "Commit": record["git"] or "not a checkout",
    }
    return write_pages(
        folder, f"{config.name}: {task.env}", details, main, compared, config.reference, [counts]
    )


def _compared(config: MonitorBench, one: Measured, best: Measured) -> str:
    """The differences from the reference, on the same bootstrap samples, so paired by episode."""
    alpha = max(config.alphas)
    names = {
        "AUROC": "auroc",
        f"balanced accuracy at {alpha:g}": f"balanced_accuracy at {alpha:g}",
        f"TWA at {alpha:g}": f"time_weighted_accuracy at {alpha:g}",
    }
    shown = []
    for title, name in names.items():
        low, high = np.nanquantile(one.draws[name] - best.draws[name], [0.025, 0.975])
        shown.append(f"{title} {signed(Interval(one.figures[name] - best.figures[name], low, high))}")
    return f"{one.row.name}: {', '.join(shown)}"


def _table(
    config: MonitorBench, measured: Sequence[Measured], decision_ms: float, watching_ms: float
) -> Table:
    columns = ["Detector", "AUROC", "undisturbed", "disturbed"]
    for alpha in config.alphas:
        columns += [
            f"{name} at {alpha:g}" for name in ("Balanced accuracy", "TWA", "Detection time", "False alarms")
        ]
    columns.append("Cost, % of a decision")

    def shown(one: Measured, name: str, value: float) -> str:
        low, high = one.intervals[name]
        return f"{value:.2f} [{low:.2f}, {high:.2f}]"

    rows = []
    for one in measured:
        cells = [
            one.row.name,
            shown(one, "auroc", one.figures["auroc"]),
            f"{one.auroc_undisturbed:.2f}",
            f"{one.auroc_disturbed:.2f}",
        ]
        for alpha in config.alphas:
            at = one.at[alpha]
            cells += [
                shown(one, f"balanced_accuracy at {alpha:g}", at.balanced_accuracy),
                shown(one, f"time_weighted_accuracy at {alpha:g}", at.time_weighted_accuracy),
                f"{at.detection_time:.2f}",
                f"{at.false_alarms:.2f}",
            ]
        rows.append((*cells, f"{100 * one.cost_ms / decision_ms:.0f}" if one.cost_ms else "0"))
    notes = (
        "AUROC: failures against successes, all of them, the undisturbed and the disturbed ones. Failures are cut to the "
        "length of a success drawn at random. Balanced accuracy: mean of alarms on failures and silence on successes; TWA "
        "counts an alarm as 1 minus the part of the episode that had passed. False alarms: on undisturbed successes. "
        "Brackets: 95 %, bootstrap over test episodes.",
        f"A decision takes {decision_ms:.1f} ms; reading the signals of the trace, the chunk and the state, the running "
        f"score and its quantile {watching_ms:.2f} ms ({watching_ms / decision_ms:.1%}). Cost: what comes on top of that.",
    )
    return Table(tuple(columns), tuple(rows), "", notes)

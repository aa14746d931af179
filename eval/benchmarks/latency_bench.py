"""`ebt-policy bench configs/bench_latency.yaml`: success and smoothness when a decision takes time.

<output>/<env>/<row>-<latency>ms.json   one cell; kept, so that an interrupted bench goes on
<output>/report.md, results.json
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.latency_config import (
    LatencyBench,
    LatencyRow,
    LatencyTask,
    read_latency_bench,
)
from ebt_policy.eval.report.report import Table
from ebt_policy.eval.rollout.delayed import Handover, border_mask, delayed_rollout, third_differences
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.eval.rollout.parallel import GROUP_SIZE
from ebt_policy.eval.statistics.intervals import paired_success_difference, wilson
from ebt_policy.inference.runner import Runner, load_runner
from ebt_policy.provenance import plain, run_record, write_atomic, write_json
from ebt_policy.suggestions import did_you_mean

_RESAMPLES = 1000


def latency_bench(
    config: Path, output: Path | None = None, tasks: Sequence[str] = (), rows: Sequence[str] = ()
) -> str:
    """Run the cells that are missing; return the report. tasks, rows: these only, and then no report.

    Raises UserError for mistakes in the file and for unknown names.
    """
    bench = read_latency_bench(config)
    folder = output or Path("runs") / config.stem
    known = {"task": [task.env for task in bench.tasks], "row": [row.name for row in bench.rows]}
    for kind, names in (("task", tasks), ("row", rows)):
        for name in names:
            if name not in known[kind]:
                raise UserError(f"{config} has no {kind} '{name}'.{did_you_mean(name, known[kind])}")
    tables, results = [], {}
    for task in bench.tasks:
        if tasks and task.env not in tasks:
            continue
        runner = load_runner(task.policy)
        cells = {}
        for milliseconds in bench.latencies_ms:
            for row in bench.rows:
                if not rows or row.name in rows:
                    cells[row.name, milliseconds] = _cell(
                        bench, task, row, milliseconds, runner, folder / task.env
                    )
        results[task.env] = [
            {"row": name, "latency_ms": ms, **figures(cell)} for (name, ms), cell in cells.items()
        ]
        tables.append(_table(bench, task, cells))
    if tasks or rows:
        return "The cells are there; run it without --tasks and --rows for the report."
    text = "\n".join(table.markdown() for table in tables)
    record = run_record() | {"bench": dataclasses.asdict(bench), "tasks": results}
    write_json(folder / "results.json", plain(record))
    write_atomic(folder / "report.md", text)
    return text


def _cell(
    bench: LatencyBench, task: LatencyTask, row: LatencyRow, milliseconds: int, runner: Runner, folder: Path
) -> list[dict[str, Any]]:
    """Success, and sums of the jerk at chunk borders and inside, of each episode."""
    spec = environment(task.env)
    latency = round(milliseconds * spec.fps / 1000)
    if abs(latency - milliseconds * spec.fps / 1000) > 1e-6:
        raise UserError(
            f"latencies_ms has {milliseconds}, which is no whole number of ticks at the {spec.fps} Hz of {task.env}."
        )
    if not latency and row.handover not in ("switch", "ensemble"):  # all the same without latency
        switches = [other for other in bench.rows if other.handover == "switch"]
        row = switches[0] if switches else row
    facts = {
        "task": dataclasses.asdict(task),
        "row": dataclasses.asdict(row),
        "latency_ticks": latency,
        "seed": bench.seed,
        "checkpoint_sha256": runner.checkpoint_sha256,
    }
    facts = json.loads(json.dumps(facts))
    file = folder / f"{re.sub(r'[^a-z0-9]+', '_', row.name.lower())}-{milliseconds}ms.json"
    done = json.loads(file.read_text()) if file.exists() else {}
    episodes: list[dict[str, Any]] = done["episodes"] if done.get("facts") == facts else []
    handover = Handover(
        waits=row.handover == "wait",
        blend_s=row.blend_s if row.handover == "blend" else 0.0,
        ensemble=row.handover == "ensemble",
        pull=row.pull if row.handover == "fix" else None,
    )
    wanted = task.episodes or bench.episodes
    while len(episodes) < wanted:
        begin = bench.seed + len(episodes)
        seeds = range(begin, min(begin + GROUP_SIZE, bench.seed + wanted))
        print(f"{task.env}, {row.name}, {milliseconds} ms: episodes {begin} to {seeds[-1]}", flush=True)
        with one_thread():
            hold = None if task.hold == "env" else lambda state, last: state if last is None else last
            made = delayed_rollout(runner, task.env, seeds, latency, handover, hold)
        for episode in made:
            kept = [i for i in range(episode.actions.shape[1]) if i not in task.gripper]
            jerk = third_differences(episode.actions[:, kept])
            border = border_mask(len(episode.actions), episode.takeovers)
            episodes.append(
                {
                    "success": episode.success,
                    "border": [float(jerk[border].sum()), int(border.sum())],
                    "inside": [float(jerk[~border].sum()), int((~border).sum())],
                }
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, run_record() | {"facts": facts, "episodes": episodes})
    return episodes[:wanted]


def figures(cell: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Success with Wilson's interval; mean jerk, and jerk at borders over jerk inside, with bootstrap intervals over episodes.

    The ratio is not a number where no difference is inside, as with a new chunk at every tick.
    """
    solved = [bool(episode["success"]) for episode in cell]
    sums = np.array([[*episode["border"], *episode["inside"]] for episode in cell])  # (episodes, 4)
    draws = np.random.default_rng(0).integers(0, len(cell), (_RESAMPLES, len(cell)))
    drawn, total = sums[draws].sum(1), sums.sum(0)
    ratios = _ratio(np.concatenate([total[None], drawn]))
    jerks = (drawn[:, 0] + drawn[:, 2]) / np.maximum(drawn[:, 1] + drawn[:, 3], 1)
    return {
        "success": float(np.mean(solved)),
        "success_ci95": wilson(sum(solved), len(solved)),
        "episodes": len(cell),
        "jerk_ratio": float(ratios[0]),
        "jerk_ratio_ci95": _interval(ratios[1:]),
        "jerk": float((total[0] + total[2]) / max(total[1] + total[3], 1)),
        "jerk_ci95": _interval(jerks),
        "solved": solved,
    }


def _interval(draws: np.ndarray) -> tuple[float, float]:
    """95 % of the bootstrap's draws (N,); not a number where none of them is one."""
    known = draws[~np.isnan(draws)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def _ratio(sums: np.ndarray) -> np.ndarray:
    """(N, 4) sum and number at borders, sum and number inside -> (N,)"""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (sums[:, 0] / sums[:, 1]) / (sums[:, 2] / sums[:, 3])


def _table(
    bench: LatencyBench, task: LatencyTask, cells: dict[tuple[str, int], list[dict[str, Any]]]
) -> Table:
    rows = []
    none = next((r.name for r in bench.rows if r.handover == "switch"), bench.rows[0].name), 0
    undelayed = figures(cells[none])["solved"] if none in cells else None
    for (name, milliseconds), cell in cells.items():
        found = figures(cell)
        low, high = found["success_ci95"]
        difference = ""
        if undelayed is not None and milliseconds:
            d = paired_success_difference(found["solved"], undelayed)
            difference = f"{100 * d.estimate:+.0f} [{100 * d.low:+.0f}, {100 * d.high:+.0f}]"
        jerk, ratio = found["jerk_ci95"], found["jerk_ratio_ci95"]
        rows.append(
            (
                f"{milliseconds}",
                name,
                f"{found['success']:.0%} [{low:.0%}, {high:.0%}]",
                difference,
                f"{found['jerk']:.4f} [{jerk[0]:.4f}, {jerk[1]:.4f}]",
                "" if np.isnan(ratio[0]) else f"{found['jerk_ratio']:.2f} [{ratio[0]:.2f}, {ratio[1]:.2f}]",
            )
        )
    return Table(
        (
            "Latency, ms",
            "Handover",
            "Success",
            "Points from no latency",
            "Jerk",
            "Jerk at borders / inside",
        ),
        tuple(rows),
        f"Latency on {task.env}, {task.episodes or bench.episodes} episodes a cell",
        (
            "Jerk: mean norm of the third difference of the actions, without grippers. At a border are the differences that have "
            "actions of both chunks. Intervals of 95 %: Wilson's, Newcombe's for pairs, and a bootstrap over episodes.",
        ),
    )

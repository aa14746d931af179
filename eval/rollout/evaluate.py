"""`ebt-policy eval`: a policy on many seeds of one environment, and the JSON file of the result."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy import provenance
from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode, write_parquet
from ebt_policy.eval.rollout.latency import measure_latency
from ebt_policy.eval.rollout.parallel import (
    GROUP_SIZE,
    MakeRunner,
    prepare_workers,
    run_episodes,
    usable_cores,
)
from ebt_policy.eval.rollout.ray_backend import Cluster, portable
from ebt_policy.eval.rollout.timeline import keep_episodes
from ebt_policy.eval.rollout.watched_episodes import watched_runner
from ebt_policy.eval.statistics.intervals import wilson
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.runner import Runner, load_runner
from ebt_policy.monitoring.calibration import Calibration
from ebt_policy.monitoring.recovery import Ladder
from ebt_policy.monitoring.watched import WatchedRunner


@dataclasses.dataclass(frozen=True)
class TaskResult:
    """The episodes of one task: its sentence, and the share that was solved with Wilson's 95 % interval."""

    task: str
    episodes: int
    success_rate: float
    success_ci95: tuple[float, float]


@dataclasses.dataclass
class EvaluationResult:
    """The result of an evaluation. The field names are those of the JSON file; do not change them.

    success_rate: share of episodes that met the task's success rule at any tick; success_ci95: Wilson's 95 % interval.
    mean_max_coverage, mean_final_coverage: means over episodes. mean_max_coverage_reward: mean of the maximum divided by the
    success threshold and clipped at 1, the score that Diffusion Policy publishes. evaluations_per_decision: mean over all
    decisions. latency_ms: of a decision at batch size 1 without monitoring, see Latency. mean_ticks_to_success: over successful episodes.
    seed: of the first episode; the others have seed + 1, seed + 2, ... tasks: of an env that plays several.
    """

    success_rate: float
    success_ci95: tuple[float, float]
    mean_max_coverage: float
    mean_final_coverage: float
    mean_max_coverage_reward: float
    evaluations_per_decision: float
    inner_steps_per_decision: float
    mean_ticks_to_success: float | None
    latency_ms: dict[str, Any] | None
    episodes: int
    seed: int
    env: str
    policy: dict[str, Any]
    checkpoint_sha256: str
    versions: dict[str, str]
    git_hash: str | None
    wall_seconds: float
    tasks: list[TaskResult]
    rows: list[Episode] = dataclasses.field(repr=False)

    def spared(self) -> str | None:
        """A sentence that says in how many episodes the disturbance did not come; None where it always came or there is none."""
        n = sum(not row.disturbance["acted"] for row in self.rows if row.disturbance)
        if not n:
            return None
        return (
            f"In {n} of {self.episodes} episodes the disturbance did not come: they ended before it, or no place was free for the "
            "object."
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON object: all fields but the rows."""
        kept = [field.name for field in dataclasses.fields(self) if field.name != "rows"]
        return {name: getattr(self, name) for name in kept} | {
            "tasks": [dataclasses.asdict(task) for task in self.tasks]
        }


def evaluate(
    policy: str | Path,
    env: str = "pusht_keypoints",
    episodes: int = 500,
    seed: int = 100_000,
    *,
    max_evaluations: int | None = None,
    n_action_steps: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    processes: int | None = None,
    group_size: int = GROUP_SIZE,
    device: str = "cpu",
    latency: bool = True,
    record: Collection[int] = (),
    json_path: Path | str | None = None,
    parquet_path: Path | str | None = None,
    episodes_folder: Path | None = None,
    calibration: Calibration | None = None,
    ladder: Ladder | None = None,
    nets: Path | None = None,
    show_progress: bool = True,
    cluster: Cluster | None = None,
    task: str = "",
) -> EvaluationResult:
    """Run `episodes` episodes with the seeds seed, seed + 1, ... and measure the latency of a decision.

    policy, max_evaluations, n_action_steps, overrides: see `load_runner`. processes: worker processes; None: one per usable
    core on the CPU, one on a GPU. The result does not depend on it. record: seeds of the episodes whose frames are kept.
    json_path, parquet_path: files to write. episodes_folder: folder for videos and timelines of recorded episodes.
    calibration: watch every episode with these thresholds; ladder: recovery actions on alarms; nets: folder of the learned
    signals. cluster: run on this Ray cluster, to which the checkpoint is sent. task: the sentence that the policy is told instead
    of the env's own. Raises UserError for invalid input.
    """
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; expected at least 1.")
    spec = environment(env)
    if processes is None:
        processes = usable_cores() if device == "cpu" else 1
    processes = 1 if cluster else min(processes, math.ceil(episodes / group_size))
    if processes > 1:
        prepare_workers()
    acting: dict[str, Any] = {
        "max_evaluations": max_evaluations,
        "n_action_steps": n_action_steps,
        "device": device,
        "overrides": overrides,
        "task": task,
    }
    load: Callable[[str], Runner | WatchedRunner] = partial(load_runner, **acting)
    if calibration is not None:
        if cluster:
            raise UserError("Episodes on a Ray cluster cannot be watched yet. Leave out one of the two.")
        load = partial(watched_runner, env=env, calibration=calibration, ladder=ladder, nets=nets, **acting)
    runner = load(str(policy))  # first in this process: errors show before any worker starts
    if cluster:
        make_runner: MakeRunner = portable(load, find_checkpoint(policy))
    else:
        make_runner = partial(load, str(policy)) if processes > 1 else lambda: runner
    begin = time.perf_counter()
    rows = run_episodes(
        make_runner,
        env,
        range(seed, seed + episodes),
        processes=processes,
        group_size=group_size,
        record=record,
        show_progress=show_progress,
        title=str(policy),
        cluster=cluster,
    )
    wall_seconds = time.perf_counter() - begin
    successes = sum(row.success for row in rows)
    decisions = [row.decisions for row in rows]
    to_success = [row.ticks_to_success for row in rows if row.ticks_to_success is not None]
    result = EvaluationResult(
        success_rate=successes / episodes,
        success_ci95=wilson(successes, episodes),
        mean_max_coverage=_mean(row.max_coverage for row in rows),
        mean_final_coverage=_mean(row.final_coverage for row in rows),
        mean_max_coverage_reward=_mean(min(row.max_coverage / spec.success_coverage, 1.0) for row in rows),
        evaluations_per_decision=_mean((row.evaluations_per_decision for row in rows), decisions),
        inner_steps_per_decision=_mean((row.inner_steps for row in rows), decisions),
        mean_ticks_to_success=_mean(to_success) if to_success else None,
        latency_ms=dataclasses.asdict(measure_latency(_bare(runner), env, seed=seed)) if latency else None,
        episodes=episodes,
        seed=seed,
        env=env,
        policy=runner.describe() | {"overrides": dict(overrides or {})},
        checkpoint_sha256=_bare(runner).checkpoint_sha256,
        versions=provenance.versions(),
        git_hash=provenance.git_hash(),
        wall_seconds=wall_seconds,
        tasks=by_task(rows, spec.tasks),
        rows=rows,
    )
    if json_path is not None:
        Path(json_path).parent.mkdir(parents=True, exist_ok=True)
        provenance.write_json(Path(json_path), result.to_dict())
    if parquet_path is not None:
        write_parquet(parquet_path, rows, result.to_dict())
    if episodes_folder is not None:
        keep_episodes(episodes_folder, rows, policy=str(policy), fps=spec.fps, calibration=calibration)
    return result


def by_task(rows: Sequence[Episode], tasks: Sequence[str]) -> list[TaskResult]:
    """One result for each of the tasks that an env plays in turn, in their order; none for an env of one task."""
    if len(tasks) < 2:
        return []
    found = []
    for number, task in enumerate(tasks):
        solved = [row.success for row in rows if row.seed % len(tasks) == number]
        if solved:
            share, interval = sum(solved) / len(solved), wilson(sum(solved), len(solved))
            found.append(TaskResult(task, len(solved), share, interval))
    return found


def _bare(runner: Runner | WatchedRunner) -> Runner:
    return runner.runner if isinstance(runner, WatchedRunner) else runner


def _mean(values: Any, weights: list[int] | None = None) -> float:
    return float(np.average(list(values), weights=weights))

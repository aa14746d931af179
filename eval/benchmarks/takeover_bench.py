"""`ebt-policy bench` on a file of kind takeover: what does a policy learn from takeovers, by when the operator takes over?

    <output>/<arm>/round<n>/            corrections/ and round.json (see `takeover_rounds`), the improved run in run/,
                                        and interventions.html, videos of some interventions and of the same seeds after learning
    <output>/rows/<arm>-round<n>-<disturbance>.parquet   episodes measured
    <output>/calibrations/              of the policies whose alarms are used
    <output>/report.md, report.html

Collecting, calibrating and measuring have different seeds. Every part is written when it is complete, so an interrupted bench
continues at the first missing one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from ebt_policy.envs import environment
from ebt_policy.envs.experts import expert
from ebt_policy.eval.benchmarks.bench_file import slug
from ebt_policy.eval.benchmarks.takeover_config import Arm, TakeoverBench, load_takeover_bench
from ebt_policy.eval.benchmarks.takeover_operator import foresight
from ebt_policy.eval.benchmarks.takeover_page import write_round_page
from ebt_policy.eval.benchmarks.takeover_report import UNDISTURBED, Measured, write_takeover_report
from ebt_policy.eval.benchmarks.takeover_rounds import Round, collect_round
from ebt_policy.eval.failures.calibrate import calibrate
from ebt_policy.eval.rollout.episodes import read_parquet
from ebt_policy.eval.rollout.evaluate import evaluate
from ebt_policy.eval.rollout.watched_episodes import watched_runner
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.monitoring.calibration import Calibration, read_calibration
from ebt_policy.provenance import sha256
from ebt_policy.training.improve import STEPS, improve
from ebt_policy.training.run_folder import RECIPE

SEEDS_APART = 10_000  # between the seeds collected on with one disturbance and with the next


@dataclass(frozen=True)
class _Bench:
    """A running bench."""

    config: TakeoverBench
    output: Path
    processes: int | None
    console: Console


def takeover_bench(path: Path, output: Path | None = None, processes: int | None = None) -> Path:
    """Run the bench; returns the path of report.html. Raises UserError for mistakes in the file, before anything runs."""
    config = load_takeover_bench(path)
    find_checkpoint(config.policy)
    expert(config.env)
    for kind in config.disturbances:
        environment(f"{config.env}+{kind}")
    bench = _Bench(config, output or Path("runs") / config.name, processes, Console())
    measured = [_measure(bench, Measured("no takeover", 0, 0, 0), config.policy)]
    made: dict[str, list[Round]] = {}
    for arm in config.arms:
        made[arm.name] = []
        policy = config.policy
        for number in range(1, config.rounds + 1):
            budget = made[arm.ticks_of][number - 1].ticks if arm.ticks_of else None
            made[arm.name].append(_collected(bench, arm, number, policy, made[arm.name], budget))
            learned = _improved(bench, arm, number, policy, made[arm.name][-1])
            _page(bench, arm, number, policy, learned, made[arm.name][-1])
            policy = learned
            rounds = made[arm.name]
            row = Measured(
                arm.name, number, sum(one.interventions for one in rounds), sum(one.ticks for one in rounds)
            )
            measured.append(_measure(bench, row, policy))
            write_takeover_report(bench.output, config, measured, made)
    return write_takeover_report(bench.output, config, measured, made)


def _folder(bench: _Bench, arm: Arm, number: int) -> Path:
    return bench.output / slug(arm.name) / f"round{number}"


def _collected(
    bench: _Bench, arm: Arm, number: int, policy: str, before: Sequence[Round], ticks: int | None
) -> Round:
    config = bench.config
    _say(bench, f"{arm.name}, round {number}: collecting")
    seeds = (
        dict(before[-1].next_seeds)
        if before
        else {kind: config.collect_seed + SEEDS_APART * i for i, kind in enumerate(config.disturbances)}
    )
    calibration = _calibration(bench, policy) if arm.trigger == "alarm" else None
    return collect_round(
        _folder(bench, arm, number),
        partial(watched_runner, policy, config.env, calibration=calibration),
        config.env,
        seeds,
        foresight(arm.trigger, environment(config.env).usual_ticks),
        config.operator_ticks,
        None if ticks else config.interventions,
        ticks,
        bench.console,
    )


def _page(bench: _Bench, arm: Arm, number: int, before: str, after: str, found: Round) -> None:
    """The round's page of interventions, if it is wanted and not there yet."""
    config = bench.config
    path = _folder(bench, arm, number) / "interventions.html"
    if not config.shown or not found.facts or path.is_file():
        return
    _say(bench, f"{arm.name}, round {number}: filming")
    calibration = _calibration(bench, before) if arm.trigger == "alarm" else None
    write_round_page(
        path,
        f"{config.env}: {arm.name}, round {number}",
        found.facts,
        config.shown,
        partial(watched_runner, before, config.env, calibration=calibration),
        partial(watched_runner, after, config.env),
        foresight(arm.trigger, environment(config.env).usual_ticks),
        config.operator_ticks,
    )


def _calibration(bench: _Bench, policy: str) -> Calibration:
    """The calibration of the policy without disturbance."""
    config = bench.config
    sha = sha256(find_checkpoint(policy) / "model.safetensors")
    file = bench.output / "calibrations" / f"{sha[:12]}.json"
    if file.is_file():
        return read_calibration(file, sha).with_alpha(config.alpha)
    return calibrate(
        policy,
        file,
        env=config.env,
        episodes=config.calibration_episodes,
        seed=config.calibration_seed,
        alpha=config.alpha,
        processes=bench.processes,
    )


def _improved(bench: _Bench, arm: Arm, number: int, policy: str, found: Round) -> str:
    """The run improved with the round's corrections; the policy itself where there is none."""
    if found.dataset is None:
        _say(bench, f"{arm.name}, round {number}: the operator solved nothing, nothing to learn")
        return policy
    run = _folder(bench, arm, number) / "run"
    options = dict(bench.config.improve)
    _say(bench, f"{arm.name}, round {number}: learning")
    return str(
        improve(
            policy,
            [str(found.dataset)],
            run,
            steps=options.pop("steps", STEPS),
            share=options.pop("share", None),
            overrides=options,
            resume=(run / RECIPE).exists(),
        )
    )


def _measure(bench: _Bench, row: Measured, policy: str) -> Measured:
    """The row with its episodes, from the files or run now."""
    config = bench.config
    sha = sha256(find_checkpoint(policy) / "model.safetensors")
    for kind in (UNDISTURBED, *config.disturbances):
        env = config.env if kind == UNDISTURBED else f"{config.env}+{kind}"
        file = bench.output / "rows" / f"{slug(row.arm)}-round{row.round}-{slug(kind)}.parquet"
        wanted = {"env": env, "seed": config.seed, "episodes": config.episodes, "checkpoint_sha256": sha}
        if file.is_file():
            rows, found = read_parquet(file)
            if all(found[key] == value for key, value in wanted.items()):
                row.episodes[kind] = rows
                continue
        _say(bench, f"{row.arm}, round {row.round}: {config.episodes} episodes of {env}")
        row.episodes[kind] = evaluate(
            policy,
            env,
            config.episodes,
            config.seed,
            processes=bench.processes,
            latency=False,
            parquet_path=file,
        ).rows
    return row


def _say(bench: _Bench, text: str) -> None:
    bench.console.print(text, style="bold", highlight=False, soft_wrap=True)

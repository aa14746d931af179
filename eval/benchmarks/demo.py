"""`ebt-policy demo`: the shipped policies of a task on the same seeds, as a table and a page with videos."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt_policy.configuration_ebt import EBTConfig
from ebt_policy.configuration_matched_baseline import MatchedBaselineConfig
from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.demo_tasks import TASKS, DemoTask, details
from ebt_policy.eval.benchmarks.demo_words import demo_words
from ebt_policy.eval.report.occlusion_video import CAPTION, occlusion_video
from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.report.report import (
    Result,
    Table,
    compare,
    comparison_table,
    percent,
    points,
    verdict,
)
from ebt_policy.eval.report.side_by_side import Column, side_by_side
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.evaluate import EvaluationResult, evaluate
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.eval.rollout.parallel import GROUP_SIZE, run_episodes
from ebt_policy.eval.rollout.timeline import timeline_of
from ebt_policy.eval.rollout.video import encode
from ebt_policy.eval.rollout.watched_episodes import watched_runner
from ebt_policy.inference.runner import load_runner

SHOWN = 4
SEED_RULE = (
    f"The first {SHOWN} seeds, not the best. Where {{leader}} solves all of them or none, the last gives "
    "way to the first seed that it ends the other way: a success and a failure are shown if there are both."
)


@dataclass(frozen=True)
class Contender:
    """A policy with some options, and its name in table and page."""

    name: str
    spec: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


def demo(
    episodes: int = 50,
    seed: int = 100_000,
    output: Path | str = Path("runs/demo"),
    policies: Sequence[str] | None = None,
    *,
    task: str = "pusht",
    processes: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Run the policies on the seeds seed, seed + 1, ...; prints the comparison and returns the path of report.html.

    task: one of TASKS. policies: instead of the task's shipped ones. The first is compared with the others; the page shows
    the videos of the first two side by side. Of an environment of several tasks it shows one policy and an episode of each task
    (`demo_words`). Needs no dataset and no network. Raises UserError for a missing policy or simulator.
    """
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; expected at least 1.")
    if task not in TASKS:
        raise UserError(f"There is no demo of '{task}'. Choose one of: {', '.join(TASKS)}.")
    shows = TASKS[task]
    policies = shows.policies if policies is None else policies
    if len(environment(shows.env).tasks) > 1:
        return demo_words(shows, policies, episodes, seed, output, processes, show_progress)
    if not policies:
        raise UserError("The demo needs at least one policy, for example shipped:pusht_keypoints_ebt.")
    console, begin = Console(quiet=not show_progress), time.perf_counter()
    per_policy = [_contenders(spec) for spec in policies]
    contenders = [c for group in per_policy for c in group]
    on_video = [group[0] for group in per_policy[:2]]
    seeds = range(seed, seed + episodes)

    measured: list[EvaluationResult] = []
    recorded: list[list[Episode]] = []
    shown = list(seeds[:SHOWN])
    for contender in contenders:
        console.print(f"{contender.name}: {episodes} episodes", style="dim", highlight=False)
        filmed = contender in on_video
        result = evaluate(
            contender.spec,
            shows.env,
            episodes,
            seed,
            overrides=contender.overrides,
            processes=processes,
            record=shown if filmed else (),
            show_progress=show_progress,
        )
        if not measured:
            first = {e.seed: e for e in result.rows}
            shown = choose_seeds(result.rows)
            for missing in (s for s in shown if first[s].frames is None):
                first[missing] = _record(contender, shows.env, missing, seeds)
            recorded.append([first[s] for s in shown])
        elif filmed:
            recorded.append([e for e in result.rows if e.seed in shown])
        measured.append(result)

    results = [
        Result(c.name, c.name, {0: m.rows}, _latency(m)) for c, m in zip(contenders, measured, strict=True)
    ]
    table = comparison_table(results, environment(shows.env).solved_when)
    page = Path(output) / "report.html"
    looked = []
    if _cameras(on_video[0]):
        console.print("covering parts of its pictures, to see what its plans depend on", style="dim")
        looked = [_looked(on_video[0], shows.env, recorded[0], seeds)]
    _write(page, shows, table, results, on_video, recorded, measured, looked, time.perf_counter() - begin)
    console.print(table.rich(console.width))
    console.print(claim(results), highlight=False)
    console.print(f"Report with videos: {page}  ({time.perf_counter() - begin:.0f} s)", highlight=False)
    return page


def choose_seeds(episodes: Sequence[Episode], shown: int = SHOWN) -> list[int]:
    """The seeds to show, by SEED_RULE: the first ones, with a success and a failure among them if there are both."""
    ordered = sorted(episodes, key=lambda e: e.seed)
    first, others = ordered[:shown], ordered[shown:]
    if len({e.success for e in first}) == 1:
        contrast = next((e for e in others if e.success != first[0].success), None)
        if contrast is not None:
            first = [*first[:-1], contrast]
    return [e.seed for e in first]


def claim(results: Sequence[Result]) -> str:
    """The comparison of the first policy with the second in a sentence, with its uncertainty."""
    ours = results[0]
    said = f"{ours.name}: success {percent(ours.success)} on {len(ours.environment_seeds)} episodes"
    if len(results) == 1:
        return said + "."
    theirs = results[1]
    difference = compare(ours, theirs)
    text = (
        f"{said}; {theirs.name}: {percent(theirs.success)} on the same seeds. Paired difference "
        f"{points(difference.success)}: {verdict(difference.success)}."
    )
    if ours.latency_ms and theirs.latency_ms:
        mine, other = ours.latency_ms[0], theirs.latency_ms[0]
        ratio = f"{other / mine:.0f} times faster" if other > mine else f"{mine / other:.1f} times slower"
        text += f" One decision takes {mine:.1f} ms against {other:.1f} ms: {ratio}."
    return text


def _contenders(spec: str) -> list[Contender]:
    """The policy as saved, and if it samples with DDPM also the same weights with ten DDIM steps."""
    config = load_runner(spec).config
    if isinstance(config, EBTConfig):
        return [Contender(f"EBT, {config.max_evaluations} evaluations", spec)]
    if isinstance(config, MatchedBaselineConfig) and config.method == "diffusion":
        saved = Contender(f"Diffusion, {config.sampler.upper()}-{config.num_inference_steps}", spec)
        faster = Contender("Diffusion, DDIM-10", spec, {"sampler": "ddim", "num_inference_steps": 10})
        return [saved] if saved.name == faster.name or config.sampler == "ddim" else [saved, faster]
    return [Contender(f"{config.type} ({spec})", spec)]


def _record(contender: Contender, env: str, seed: int, seeds: Sequence[int]) -> Episode:
    """Repeat an episode with frames, in the same group of seeds, so that rounding in the batch is the same."""
    begin = seeds.index(seed) // GROUP_SIZE * GROUP_SIZE
    make_runner = partial(load_runner, contender.spec, overrides=contender.overrides)
    group = run_episodes(
        make_runner, env, seeds[begin : begin + GROUP_SIZE], record=[seed], show_progress=False
    )
    return next(e for e in group if e.seed == seed)


def _cameras(contender: Contender) -> list[str]:
    features = load_runner(contender.spec, overrides=contender.overrides).config.image_features
    return list(features)


def _looked(contender: Contender, env: str, shown: Sequence[Episode], seeds: Sequence[int]) -> Column:
    """The shown episodes again, in the same groups, with the first camera's picture at each decision and what the plan depends on."""
    make_runner = partial(
        watched_runner, contender.spec, env, overrides=contender.overrides, keep_inputs=True
    )
    runner = load_runner(contender.spec, overrides=contender.overrides)
    camera, fps = _cameras(contender)[0], environment(env).fps
    videos: dict[int, bytes] = {}
    wanted = {episode.seed for episode in shown}
    for begin in sorted({seeds.index(seed) // GROUP_SIZE * GROUP_SIZE for seed in wanted}):
        with one_thread():
            for episode in run_episodes(
                make_runner, env, seeds[begin : begin + GROUP_SIZE], show_progress=False
            ):
                if episode.seed in wanted:
                    videos[episode.seed] = occlusion_video(runner, episode, camera, fps)
    name = "What its plans depend on"
    return Column(name, [(timeline_of(e, policy=name, fps=fps), videos[e.seed]) for e in shown])


def _latency(measured: EvaluationResult) -> tuple[float, float] | None:
    latency = measured.latency_ms
    return (latency["p50"], latency["p95"]) if latency else None


def _write(
    page: Path,
    shows: DemoTask,
    table: Table,
    results: Sequence[Result],
    on_video: Sequence[Contender],
    recorded: Sequence[Sequence[Episode]],
    measured: Sequence[EvaluationResult],
    looked: Sequence[Column],
    seconds: float,
) -> None:
    fps = environment(shows.env).fps
    columns = [
        Column(
            contender.name,
            [(timeline_of(e, policy=contender.name, fps=fps), encode(e.frames or (), fps)) for e in episodes],
        )
        for contender, episodes in zip(on_video, recorded, strict=True)
    ]
    columns += looked
    write_html(
        page,
        "demo.html.j2",
        title=f"{shows.title}: {' against '.join(c.name for c in on_video)}",
        claim=claim(results),
        table=table,
        seed_rule=SEED_RULE.format(leader=on_video[0].name) + (f" {CAPTION}" if looked else ""),
        details=details(shows, measured, seconds),
        **side_by_side(columns),
    )

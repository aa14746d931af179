"""`ebt-policy demo` of several tasks: one policy is told each of them by its sentence; a page with an episode of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_tasks import by_task_table
from ebt_policy.eval.benchmarks.demo_tasks import DemoTask, details
from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.report.report import Result, percent
from ebt_policy.eval.report.side_by_side import task_by_task
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.evaluate import EvaluationResult, evaluate
from ebt_policy.eval.rollout.timeline import timeline_of
from ebt_policy.eval.rollout.video import encode

GROUP_SIZE = 5  # episodes in a batch: two processes share the ten with pictures
SEED_RULE = (
    "The first episode of each task, not the best. The sentence says which task it is; hand, objects and the goal's position "
    "are observed."
)
SPEED = 0.25  # of the videos at first: an episode of 80 ticks lasts a second


def demo_words(
    shows: DemoTask,
    policies: Sequence[str],
    episodes: int,
    seed: int,
    output: Path | str,
    processes: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Plays the seeds seed, seed + 1, ..., which go through the tasks in turn; prints success and returns the path of report.html.

    policies: one, that is told its task. episodes: of all tasks together. Raises UserError for another number of policies, and
    where the simulator or OpenGL is missing.
    """
    if len(policies) != 1:
        raise UserError(f"The demo of {shows.title} shows one policy, found {len(policies)}.")
    console, begin = Console(quiet=not show_progress), time.perf_counter()
    spec, policy = environment(shows.env), policies[0]
    spec.make(True).close()  # what is missing shows here, once, and not in each worker
    tasks = spec.tasks
    console.print(f"{policy}: {episodes} episodes of {len(tasks)} tasks", style="dim", highlight=False)
    measured = evaluate(
        policy,
        shows.env,
        episodes,
        seed,
        processes=processes,
        group_size=GROUP_SIZE,
        record=range(seed, seed + len(tasks)),
        show_progress=show_progress,
    )
    page = Path(output) / "report.html"
    _write(page, shows, policy, measured, time.perf_counter() - begin)
    for one in measured.tasks:
        console.print(f"  {one.success_rate:4.0%} of {one.episodes}  {one.task}", highlight=False)
    console.print(claim(measured), highlight=False)
    console.print(f"Report with videos: {page}  ({time.perf_counter() - begin:.0f} s)", highlight=False)
    for text, command in next_steps(policy, shows.env):
        console.print(f"{text}\n  {command}", highlight=False, soft_wrap=True, markup=False)
    return page


def claim(measured: EvaluationResult) -> str:
    """Success over all tasks in a sentence, with its uncertainty."""
    success = percent(Result("", "", {0: measured.rows}).success)
    text = f"One policy, {len(measured.tasks)} tasks, each told by a sentence: success {success} on {measured.episodes} episodes."
    if measured.latency_ms:
        text += f" One decision takes {measured.latency_ms['p50']:.1f} ms."
    return text


def next_steps(policy: str, env: str) -> list[tuple[str, str]]:
    """(What the user can do now, its command)."""
    evaluated = f"ebt-policy eval --policy {policy} --env {env}"
    return [
        (
            "All tasks told the sentence of one of them. Some are done all the same, where the scene says what is left to do:",
            f'{evaluated} --episodes 20 --task "{environment(env).tasks[0]}"',
        ),
        (
            "A sentence of your own (extra language); it warns with the most similar sentence of the training data:",
            f'ebt-policy eval --policy {policy} --env metaworld_door_open --episodes 10 --record 4 --task "Please open that door"',
        ),
        (
            "Tasks and demonstrations of your own, in sentences: docs/many_tasks.md.",
            "ebt-policy train --config metaworld_mt10",
        ),
    ]


def _write(page: Path, shows: DemoTask, policy: str, measured: EvaluationResult, seconds: float) -> None:
    spec = environment(shows.env)

    def shown(episode: Episode) -> tuple:
        return timeline_of(episode, policy=policy, fps=spec.fps), encode(episode.frames or (), spec.fps)

    filmed = [shown(episode) for episode in measured.rows if episode.frames]
    title = f"{len(filmed)} tasks, {len(filmed)} sentences"
    result = Result("Success", "", {0: measured.rows})
    write_html(
        page,
        "demo_words.html.j2",
        title=f"{shows.title}: one policy, {title}",
        claim=claim(measured),
        seed_rule=SEED_RULE,
        speed=SPEED,
        table=by_task_table([result], spec.tasks),
        next_steps=next_steps(policy, shows.env),
        details=details(shows, [measured], seconds),
        **task_by_task(title, filmed),
    )

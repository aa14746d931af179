"""The page of a round of takeovers: interventions as they went, and next to each the same seed after learning, without help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.takeover_operator import Foresight, ScriptedOperator
from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.report.side_by_side import Column, side_by_side
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.eval.rollout.rollout import WatchedDecider, rollout
from ebt_policy.eval.rollout.timeline import Timeline, timeline_of
from ebt_policy.eval.rollout.video import encode

HELPED, ALONE = "asks and is helped", "after learning, alone"
Film = tuple[Timeline, bytes]


def write_round_page(
    path: Path,
    title: str,
    facts: Sequence[dict[str, Any]],
    each: int,
    make_before: Callable[[], WatchedDecider],
    make_after: Callable[[], WatchedDecider],
    wants: Foresight,
    operator_ticks: int,
) -> Path:
    """Plays the first `each` interventions of every disturbance again, with pictures, and writes them to `path`.

    facts: of a round (see `collect_round`), collected by the policy of `make_before` with `wants`. make_after: the policy that learned
    from them.
    """
    chosen: dict[str, list[int]] = {}
    for fact in facts:
        seeds = chosen.setdefault(fact["env"], [])
        if len(seeds) < each:
            seeds.append(fact["seed"])
    before, after = make_before(), make_after()
    helped: list[Film] = []
    alone: list[Film] = []
    for env, seeds in chosen.items():
        operator = ScriptedOperator(env, wants(before, env, seeds), operator_ticks, film=True)
        with one_thread():
            helped += _helped(rollout(before, env, seeds, record=seeds, operator=operator), operator)
            alone += [_alone(episode) for episode in rollout(after, env, seeds, record=seeds)]
    solved = sum(timeline.success is True for timeline, _ in alone)
    write_html(
        path,
        "side_by_side.html.j2",
        title=title,
        claim=f"The first {each} interventions of each disturbance, and the same seeds after learning: of {len(alone)} it now solves "
        f"{solved} alone. These episodes were learned from; the report has the success on seeds that were not.",
        **side_by_side([Column(HELPED, helped), Column(ALONE, alone)]),
    )
    return path


def _helped(episodes: Sequence[Episode], operator: ScriptedOperator) -> list[Film]:
    """The episode of each intervention from its start to the operator's end."""
    films = []
    by_seed = {one.seed: one for one in operator.interventions}
    for episode in episodes:
        spec, one = environment(episode.env), by_seed.get(episode.seed)
        if one is None:
            raise UserError(
                f"{episode.env}, seed {episode.seed}: nobody took over, but round.json says so. Has the policy changed? Delete the round's folder."
            )
        ticks = one.tick + one.ticks
        whole = replace(
            episode, ticks=ticks, success=one.solved, ticks_to_success=ticks if one.solved else None
        )
        alarms = [reading.alarm for reading in episode.watch.readings]
        timeline = timeline_of(
            whole, policy=HELPED, fps=spec.fps, ticks=episode.decision_ticks, alarms=alarms
        )
        pictures = [*(episode.frames or ()), *one.pictures]
        films.append((replace(timeline, operator_begin=one.tick), encode(pictures, spec.fps)))
    return films


def _alone(episode: Episode) -> Film:
    fps = environment(episode.env).fps
    timeline = timeline_of(episode, policy=ALONE, fps=fps, ticks=episode.decision_ticks)
    return timeline, encode(episode.frames or [], fps)

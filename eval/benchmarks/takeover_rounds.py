"""One round of collecting: the policy acts in disturbed episodes, the operator takes over, and what it shows becomes a dataset.

    <folder>/corrections/      LeRobot dataset of the operator's parts of solved episodes
    <folder>/round.json        every intervention, and the seeds that the next round begins with

Both are written when the round is complete. The same options give the same files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ebt_policy.envs import environment
from ebt_policy.envs.dataset_writer import staged, write_episodes
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.takeover_operator import Foresight, Intervention, ScriptedOperator
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.eval.rollout.rollout import WatchedDecider, rollout
from ebt_policy.provenance import write_json

GROUP = 15  # episodes acted in together
GIVE_UP = 400  # episodes of one disturbance without enough interventions


@dataclass(frozen=True)
class Round:
    """What a round cost and gave. dataset: None where the operator solved nothing. next_seeds: by disturbance."""

    dataset: Path | None
    interventions: int
    solved: int
    ticks: int  # that the operator drove
    episodes: int  # acted in
    next_seeds: Mapping[str, int]
    facts: list[dict[str, Any]]  # of each intervention


def collect_round(
    folder: Path,
    make_runner: Callable[[], WatchedDecider],
    env: str,
    seeds: Mapping[str, int],
    wants: Foresight,
    operator_ticks: int,
    interventions: int | None = None,
    ticks: int | None = None,
    console: Console | None = None,
) -> Round:
    """Collects in `env` with each disturbance of `seeds` (first seed of each), or reads what is there.

    interventions, ticks: of the whole round, shared evenly by the disturbances; give one of them.
    """
    file = folder / "round.json"
    if not file.is_file():
        _collect(folder, make_runner(), env, seeds, wants, operator_ticks, interventions, ticks, console)
    found = json.loads(file.read_text())
    dataset = folder / "corrections"
    return Round(dataset=dataset if dataset.is_dir() else None, **found)


def _collect(
    folder: Path,
    runner: WatchedDecider,
    env: str,
    seeds: Mapping[str, int],
    wants: Foresight,
    operator_ticks: int,
    interventions: int | None,
    ticks: int | None,
    console: Console | None,
) -> None:
    kept: list[Intervention] = []
    next_seeds, acted = dict(seeds), 0
    for place, kind in enumerate(seeds):
        name = f"{env}+{kind}"
        quota = _share(interventions, place, len(seeds)), _share(ticks, place, len(seeds))
        found: list[Intervention] = []
        while not _enough(found, quota):
            first = next_seeds[kind]
            if first - seeds[kind] >= GIVE_UP:
                raise UserError(
                    f"{name}: {len(found)} interventions in {GIVE_UP} episodes, too few. Ask for fewer, or let the operator take "
                    "over at other times."
                )
            group = range(first, first + GROUP)
            operator = ScriptedOperator(name, wants(runner, name, group), operator_ticks)
            with one_thread():
                rollout(runner, name, group, operator=operator)
            for one in sorted(operator.interventions, key=lambda one: one.seed):
                if not _enough(found, quota):
                    found.append(one)
                    next_seeds[kind] = one.seed + 1
            if not _enough(found, quota):
                next_seeds[kind] = first + GROUP
        acted += next_seeds[kind] - seeds[kind]
        kept += found
        if console:
            solved = sum(one.solved for one in found)
            console.print(
                f"{name}: {len(found)} interventions in {next_seeds[kind] - seeds[kind]} episodes, {solved} solved by the operator, "
                f"{sum(one.ticks for one in found)} ticks",
                highlight=False,
                soft_wrap=True,
            )
    facts = [
        {"env": one.env, "seed": one.seed, "tick": one.tick, "ticks": one.ticks, "solved": one.solved}
        for one in kept
    ]
    shown = [one.frames for one in kept if one.solved and one.ticks > 1]
    folder.mkdir(parents=True, exist_ok=True)
    if shown and not (folder / "corrections").is_dir():
        spec = environment(env)
        task = str(spec.make(False).get_wrapper_attr("task_description"))
        with staged(folder / "corrections") as place_:
            write_episodes(place_, "local/corrections", spec.fps, task, shown)
    write_json(
        folder / "round.json",
        {
            "interventions": len(kept),
            "solved": sum(one.solved for one in kept),
            "ticks": sum(one.ticks for one in kept),
            "episodes": acted,
            "next_seeds": next_seeds,
            "facts": facts,
        },
    )


def _share(total: int | None, place: int, parts: int) -> int | None:
    """The part number `place` of a total that is shared evenly."""
    return None if total is None else total // parts + (place < total % parts)


def _enough(found: list[Intervention], quota: tuple[int | None, int | None]) -> bool:
    interventions, ticks = quota
    if interventions is not None:
        return len(found) >= interventions
    return sum(one.ticks for one in found) >= (ticks or 0)

"""The report of a bench of takeovers: success against what the operator spent, by the way takeovers were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ebt_policy.envs import environment
from ebt_policy.eval.benchmarks.bench_report import write_pages
from ebt_policy.eval.benchmarks.takeover_config import TakeoverBench
from ebt_policy.eval.benchmarks.takeover_rounds import Round
from ebt_policy.eval.report.figures import Point, curves, plotly_div
from ebt_policy.eval.report.report import SUCCESS_NOTE, Result, Table, compare, percent, points, verdict
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.provenance import run_record

UNDISTURBED = "undisturbed"


@dataclass(frozen=True)
class Measured:
    """A policy after some rounds of one arm (round 0: before any), and its episodes by disturbance.

    interventions, ticks: of the operator in all rounds so far.
    """

    arm: str
    round: int
    interventions: int
    ticks: int
    episodes: dict[str, Sequence[Episode]] = field(default_factory=dict)

    def result(self, kind: str) -> Result:
        return Result(
            f"{self.arm}, round {self.round}" if self.round else self.arm, self.arm, {0: self.episodes[kind]}
        )


def write_takeover_report(
    output: Path,
    config: TakeoverBench,
    measured: Sequence[Measured],
    collected: Mapping[str, Sequence[Round]],
) -> Path:
    """Write report.md and report.html into `output`; returns the path of the latter.

    measured: the first is before any round. collected: the rounds of each arm.
    """
    before, spec = measured[0], environment(config.env)
    kinds = (UNDISTURBED, *config.disturbances)
    names = [before.result(UNDISTURBED).name, *(row.result(UNDISTURBED).name for row in measured[1:])]
    main = Table(
        ("Policy", "Interventions", "Operator's ticks", *(kind.capitalize() for kind in kinds)),
        tuple(
            (
                name,
                str(row.interventions),
                f"{row.ticks:,}",
                *(percent(row.result(kind).success) for kind in kinds),
            )
            for name, row in zip(names, measured, strict=True)
        ),
        "Success",
        (
            SUCCESS_NOTE.format(spec.solved_when),
            f"{config.episodes} episodes in each cell, the same seeds in every row. An operator's tick is {1 / spec.fps:g} s.",
        ),
    )
    differences = Table(
        ("Policy", *(kind.capitalize() for kind in kinds)),
        tuple(
            (name, *(points(compare(row.result(kind), before.result(kind)).success) for kind in kinds))
            for name, row in zip(names[1:], measured[1:], strict=True)
        ),
        "Difference from no takeover",
        ("Paired on the same seeds, with Newcombe's 95 % intervals.",),
    )
    figures = [
        (
            f"{kind.capitalize()}: success against the operator's ticks",
            plotly_div(curves(_curves(measured, kind), "ticks that the operator drove", log_x=False)),
        )
        for kind in kinds
    ]
    title = f"{config.env}: learning from takeovers"
    return write_pages(
        output,
        title,
        _details(config),
        main,
        _verdicts(measured, kinds),
        names[0],
        [differences, *_arms(measured, kinds), _interventions(config, collected)],
        figures,
    )


def _arms(measured: Sequence[Measured], kinds: Sequence[str]) -> list[Table]:
    """The first arm minus each other one after the same round; none where there is one arm."""
    first = {row.round: row for row in measured[1:] if row.arm == measured[1].arm} if measured[1:] else {}
    rows = [
        (
            f"{first[row.round].arm} minus {row.arm}, round {row.round}",
            *(points(compare(first[row.round].result(kind), row.result(kind)).success) for kind in kinds),
        )
        for row in measured[1:]
        if row.round in first and row.arm != measured[1].arm
    ]
    if not rows:
        return []
    note = "Success after as many rounds, paired on the same seeds, with Newcombe's 95 % intervals."
    columns = ("Policies", *(kind.capitalize() for kind in kinds))
    return [Table(columns, tuple(rows), "Between the arms", (note,))]


def _interventions(config: TakeoverBench, collected: Mapping[str, Sequence[Round]]) -> Table:
    """When the operator took over, how often that succeeded, and in how many episodes."""
    rows = []
    for arm, rounds in collected.items():
        for kind in config.disturbances:
            facts = [f for one in rounds for f in one.facts if f["env"] == f"{config.env}+{kind}"]
            if not facts:
                continue
            begins, ticks = (
                np.percentile([f[name] for f in facts], [50, 0, 100]) for name in ("tick", "ticks")
            )
            rows.append(
                (
                    f"{arm}, {kind}",
                    str(len(facts)),
                    "{:.0f} ({:.0f} to {:.0f})".format(*begins),
                    "{:.0f} ({:.0f} to {:.0f})".format(*ticks),
                    str(sum(f["solved"] for f in facts)),
                )
            )
    columns = ("Collected", "Interventions", "Began at tick", "Lasted ticks", "Solved by the operator")
    return Table(
        columns,
        tuple(rows),
        "Interventions",
        ("Median, and smallest to largest. round.json of each round has them all.",),
    )


def _curves(measured: Sequence[Measured], kind: str) -> dict[str, list[Point]]:
    """A line for each arm, from the policy before any round."""

    def point(row: Measured) -> Point:
        return Point(row.ticks, row.result(kind).success, row.result(kind).name)

    arms = dict.fromkeys(row.arm for row in measured[1:])
    return {arm: [point(measured[0]), *(point(row) for row in measured if row.arm == arm)] for arm in arms}


def _verdicts(measured: Sequence[Measured], kinds: Sequence[str]) -> list[str]:
    """A sentence for each disturbance: which policies are above and below the one before any round."""
    said = []
    for kind in kinds:
        groups: dict[str, list[str]] = {"higher": [], "lower": [], "not told apart": []}
        for row in measured[1:]:
            difference = compare(row.result(kind), measured[0].result(kind)).success
            groups[verdict(difference)].append(f"{row.result(kind).name} ({points(difference)})")
        found = [f"{group}: {', '.join(names)}" for group, names in groups.items() if names]
        said += [f"{kind.capitalize()} {'; '.join(found)}."] if found else []
    return said


def _details(config: TakeoverBench) -> dict[str, str]:
    record = run_record()
    machine, last = record["machine"], config.seed + config.episodes - 1
    improve = (
        ", ".join(f"{name} {value}" for name, value in config.improve.items()) or "as `ebt-policy improve`"
    )
    return {
        "Environment": config.env,
        "Policy": config.policy,
        "Episodes measured": f"{config.episodes} a cell, seeds {config.seed} to {last}",
        "Collected": f"{config.interventions} interventions a round, in episodes with seeds from {config.collect_seed}, shared evenly "
        f"by {', '.join(config.disturbances)}",
        "Operator": f"the scripted expert, from the present state, {config.operator_ticks} ticks at most; its parts of solved "
        "episodes are learned",
        "Arms": "; ".join(
            f"{arm.name}: {arm.trigger}" + (f", as many ticks as {arm.ticks_of}" if arm.ticks_of else "")
            for arm in config.arms
        ),
        "Learning": f"{improve}; all rounds so far, each from the policy of the round before",
        "Alarms": f"alpha {config.alpha:g}, calibrated on {config.calibration_episodes} undisturbed episodes from seed "
        f"{config.calibration_seed}",
        "Command": record["command"],
        "Commit": record["git"] or "not a checkout",
        "Machine": f"{machine['system']} {machine['processor']}, {machine['cores']} cores",
    }

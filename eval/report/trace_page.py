"""One recorded episode as an HTML page: its video in step with its energies, alarms and disturbances."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.rollout.timeline import Timeline, video_of
from ebt_policy.eval.rollout.video import data_url

STOPS = {  # name of a StopReason -> words on the pages
    "NONE": "nothing iterative ran",
    "BUDGET": "budget spent",
    "DEADLINE": "deadline passed",
    "NOT_FINITE": "energy not finite",
    "SETTLED": "answer settled",
    "ENERGY": "energy low enough",
}


@dataclass(frozen=True)
class Outcome:
    """How an episode ended. kind: "success", "failure" or "unjudged"; text: the same in words."""

    kind: str
    text: str


@dataclass(frozen=True)
class Badge:
    """A short fact at the head of the page. style: "alarm", "disturbed" or ""."""

    style: str
    text: str


def write_page(page: Path, timeline: Timeline, gallery: str = "") -> None:
    """Write the episode as one self-contained page. gallery: link to the page that lists it."""
    decisions = timeline.decisions
    stops = {name: stop_words(name) for name in sorted({d.stop_reason for d in decisions})}
    badges = [Badge("alarm", count(timeline.alarms, "alarm"))] if timeline.alarms else []
    if disturbed := disturbance(timeline):
        badges.append(Badge("disturbed", disturbed))
    badges += [Badge("", text) for text in _details(timeline)]
    write_html(
        page,
        "trace.html.j2",
        title=_title(timeline),
        policy=timeline.policy,
        task=timeline.task,
        gallery=gallery,
        outcome=outcome(timeline),
        badges=badges,
        video=data_url(video_of(page, timeline)) if timeline.video else "",
        timeline=timeline.to_dict() | {"stops": stops},
        ticks=timeline.ticks,
        stops=stops,
        stop_names=list(STOPS),
        has_energy=any(d.chunk_energy is not None for d in decisions),
        alarms=timeline.alarms,
        decisions=[
            (
                d.tick,
                _number(next(iter(d.energy), None)),
                _number(d.chunk_energy),
                _number(d.score),
                _number(d.quantile),
                d.evaluations,
                stops[d.stop_reason],
                f"{1000 * d.seconds:.1f}",
                "alarm" if d.alarm else "",
                d.recovery,
            )
            for d in decisions
        ],
    )


def _title(timeline: Timeline) -> str:
    return timeline.env + (f" · seed {timeline.seed}" if timeline.seed is not None else "")


def outcome(timeline: Timeline) -> Outcome:
    """How the episode ended."""
    if timeline.success is None:
        return Outcome("unjudged", "not judged")
    if not timeline.success:
        return Outcome("failure", "not solved")
    at = timeline.ticks_to_success
    return Outcome("success", "solved" if at is None else f"solved at tick {at}")


def disturbance(timeline: Timeline) -> str:
    """The episode's disturbance and its ticks, in words; "" for none."""
    if not timeline.disturbance_kind:
        return ""
    strength, begin, end = timeline.disturbance_strength, timeline.disturbance_begin, timeline.disturbance_end
    text = timeline.disturbance_kind + ("" if strength is None else f" {strength:g}")
    if begin is None:
        return text
    if begin == 0 and end is not None and end >= timeline.ticks:
        return f"{text}, from the reset on"
    return f"{text}, ticks {begin} to {end - 1}" if end and end > begin + 1 else f"{text}, tick {begin}"


def _details(timeline: Timeline) -> list[str]:
    decisions = timeline.decisions
    details = [f"{timeline.ticks} ticks at {timeline.fps:g} a second"]
    if decisions:
        took = 1000 * statistics.median(d.seconds for d in decisions)
        details += [
            count(len(decisions), "decision"),
            f"{mean(d.evaluations for d in decisions):.1f} evaluations each",
            f"median {took:.1f} ms",
        ]
    beyond = sum(d.beyond for d in decisions)
    if beyond:
        details.append(f"{count(beyond, 'decision')} past the calibrated length: alarms more often false")
    return details


def count(n: int, thing: str) -> str:
    """For example "1 alarm", "2 alarms"."""
    return f"{n} {thing}{'' if n == 1 else 's'}"


def mean(values: Iterable[float]) -> float:
    """The mean; 0 for no values."""
    known = list(values)
    return statistics.fmean(known) if known else 0.0


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def stop_words(name: str) -> str:
    """The words for a StopReason's name."""
    return STOPS.get(name, name.lower().replace("_", " "))

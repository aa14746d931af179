"""`ebt-policy trace FOLDER`: a page for each recorded episode, and a gallery of all with the worst ones first."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

from ebt_policy.errors import UserError
from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.report.trace_page import Outcome, count, disturbance, mean, outcome, write_page
from ebt_policy.eval.rollout.timeline import Timeline, TimelineDecision, read, timeline_files, video_of
from ebt_policy.eval.rollout.video import decode, jpeg

FILTERS = ("success", "failure", "unjudged", "alarm", "disturbed")
ORDERS = {
    "energy": "highest energy",
    "quantile": "highest quantile",
    "evaluations": "most evaluations",
    "length": "longest",
}
_THUMBNAIL = 220  # pixels wide
_SPARK = (100, 24)  # SVG units


@dataclass(frozen=True)
class Spark:
    """A small curve: an SVG path, and the points of its alarms."""

    path: str
    alarms: list[tuple[float, float]]


@dataclass(frozen=True)
class Card:
    """An episode in the gallery. values: sort keys, None if unknown. kinds: the filters that show it."""

    href: str
    title: str
    outcome: Outcome
    alarms: str
    disturbance: str
    thumbnail: str
    spark: Spark | None
    details: list[str]
    values: dict[str, float | None]
    kinds: list[str]


def write_pages(run: Path) -> Path:
    """Write a page beside each timeline, and for a folder also index.html; returns the page to open."""
    files = timeline_files(run)
    episodes = [(path, read(path)) for path in files]
    index = run / "index.html"
    for path, timeline in episodes:
        back = (
            ""
            if run.is_file()
            else Path("../" * len(path.relative_to(run).parts[:-1]), index.name).as_posix()
        )
        write_page(path.with_suffix(".html"), timeline, gallery=back)
    if run.is_file():
        return run.with_suffix(".html")
    write_gallery(index, episodes)
    return index


def write_gallery(index: Path, episodes: Sequence[tuple[Path, Timeline]]) -> None:
    """Write the gallery. Each picture shows the most suspicious decision of its episode."""
    measure = _measure([timeline for _, timeline in episodes])
    ordered = worst_first(episodes, lambda timeline: max(measure.values(timeline), default=-math.inf))
    cards = [_card(path, timeline, index.parent, measure) for path, timeline in ordered]
    write_html(
        index,
        "gallery.html.j2",
        title=f"{count(len(cards), 'episode')} of {', '.join(sorted({t.env for _, t in episodes}))}",
        policies=", ".join(sorted({t.policy for _, t in episodes})),
        cards=cards,
        measure=measure.name,
        orders={k: v for k, v in ORDERS.items() if any(card.values[k] is not None for card in cards)},
        filters={k: n for k in FILTERS if (n := sum(k in card.kinds for card in cards))},
    )


def _card(path: Path, timeline: Timeline, folder: Path, measure: _Measure) -> Card:
    decisions, ended, disturbed = timeline.decisions, outcome(timeline), disturbance(timeline)
    energies = [d.old_plan_energy for d in decisions if d.old_plan_energy is not None]
    energies = energies or [d.chunk_energy for d in decisions if d.chunk_energy is not None]
    energy = max(energies, default=None)
    quantile = max((d.quantile for d in decisions if d.quantile is not None), default=None)
    evaluations = mean(d.evaluations for d in decisions)
    worst = max(decisions, key=measure.key, default=None)
    details = [f"{timeline.ticks} ticks", f"{evaluations:.1f} evaluations each"]
    details += [] if energy is None else [f"energy ≤ {energy:.3g}"]
    details += [] if quantile is None else [f"quantile ≤ {quantile:.2f}"]
    return Card(
        href=path.with_suffix(".html").relative_to(folder).as_posix(),
        title=f"seed {timeline.seed}" if timeline.seed is not None else path.stem,
        outcome=ended,
        alarms=count(timeline.alarms, "alarm") if timeline.alarms else "",
        disturbance=disturbed,
        thumbnail=_thumbnail(path, timeline, worst.tick if worst else 0),
        spark=_spark(timeline, measure),
        details=details,
        values={"energy": energy, "quantile": quantile, "evaluations": evaluations, "length": timeline.ticks},
        kinds=[ended.kind, *(["alarm"] if timeline.alarms else []), *(["disturbed"] if disturbed else [])],
    )


def worst_first(
    episodes: Sequence[tuple[Path, Timeline]], suspicion: Callable[[Timeline], float]
) -> list[tuple[Path, Timeline]]:
    """Order: worst false alarm (most suspicious success), worst miss (least suspicious failure), next false alarm, ...

    Episodes without a known outcome come last, the most suspicious first.
    """

    def ended(success: bool | None, most_suspect_first: bool) -> list[tuple[Path, Timeline]]:
        chosen = [episode for episode in episodes if episode[1].success is success]
        return sorted(chosen, key=lambda episode: suspicion(episode[1]), reverse=most_suspect_first)

    judged = chain.from_iterable(zip_longest(ended(True, True), ended(False, False)))
    return [e for e in judged if e is not None] + ended(None, True)


@dataclass(frozen=True)
class _Measure:
    """The measure of suspicion: quantile, else score, else energy, whichever the episodes have."""

    name: str
    of: Callable[[TimelineDecision], float | None]

    def key(self, decision: TimelineDecision) -> float:
        value = self.of(decision)
        return -math.inf if value is None else value

    def values(self, timeline: Timeline) -> list[float]:
        return [v for d in timeline.decisions if (v := self.of(d)) is not None]


def _measure(timelines: Sequence[Timeline]) -> _Measure:
    candidates = (
        _Measure("calibrated quantile", lambda d: d.quantile),
        _Measure("score", lambda d: d.score),
        _Measure("energy of the last plan", lambda d: d.old_plan_energy),
        _Measure("energy", lambda d: d.chunk_energy),  # recordings from before the readings have no other
    )
    return next((m for m in candidates if any(map(m.values, timelines))), candidates[-1])


def _spark(timeline: Timeline, measure: _Measure) -> Spark | None:
    """The measure over the episode; None if it has no value."""
    values, (width, height) = measure.values(timeline), _SPARK
    if not values:
        return None
    low, high = (0.0, 1.0) if measure.name == "calibrated quantile" else (min(values), max(values))
    points = [
        (
            width * d.tick / max(timeline.ticks, 1),
            (height - 4) * (1 - (v - low) / ((high - low) or 1)) + 2,
            d.alarm,
        )
        for d in timeline.decisions
        if (v := measure.of(d)) is not None
    ]
    return Spark(
        path="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points),
        alarms=[(round(x, 1), round(y, 1)) for x, y, alarm in points if alarm],
    )


def _thumbnail(path: Path, timeline: Timeline, tick: int) -> str:
    """A small picture of the episode at `tick` as a data: URL; "" without a video."""
    if not timeline.video:
        return ""
    import cv2

    frames = decode(video_of(path, timeline))
    frame = next((f for i, f in enumerate(frames) if i == tick), None)
    if frame is None:
        raise UserError(
            f"{path.with_name(timeline.video)} ends before tick {tick}, where {path.name} goes on."
        )
    height = round(_THUMBNAIL * frame.shape[0] / frame.shape[1])
    small = cv2.resize(frame, (_THUMBNAIL, height), interpolation=cv2.INTER_AREA)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(small)).decode()

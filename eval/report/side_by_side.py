"""The same episodes under several policies, next to each other and in step: videos, and energies under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebt_policy.errors import UserError
from ebt_policy.eval.report import energy_trace as geometry
from ebt_policy.eval.report.energy_trace import EnergyScale, energy_trace
from ebt_policy.eval.report.pages import write_html
from ebt_policy.eval.report.trace_page import disturbance, outcome
from ebt_policy.eval.rollout.timeline import Timeline, read, timeline_files, video_of
from ebt_policy.eval.rollout.video import data_url


@dataclass(frozen=True)
class Column:
    """A policy under the name that the page gives it. episodes: with their videos, of the same seeds in every column."""

    name: str
    episodes: Sequence[tuple[Timeline, bytes]]


def side_by_side(columns: Sequence[Column]) -> dict[str, Any]:
    """What pairs.html.j2 shows: a row for each seed."""
    rows = list(zip(*(column.episodes for column in columns), strict=True))
    scale = EnergyScale.of([timeline for row in rows for timeline, _ in row])
    names = [column.name for column in columns]
    shown = [
        _row(f"Seed {row[0][0].seed}", names, row, scale, max(timeline.ticks for timeline, _ in row))
        for row in rows
    ]
    return _pairs(shown, scale)


def task_by_task(title: str, episodes: Sequence[tuple[Timeline, bytes]]) -> dict[str, Any]:
    """What pairs.html.j2 shows: all episodes in one row called `title`, each under the sentence of its task."""
    scale = EnergyScale.of([timeline for timeline, _ in episodes])
    names = [timeline.task for timeline, _ in episodes]
    return _pairs([_row(title, names, episodes, scale)], scale)


def _pairs(rows: Sequence[dict[str, Any]], scale: EnergyScale | None) -> dict[str, Any]:
    traces = [shown["trace"] for row in rows for shown in row["shown"]]
    driven = any(trace is not None and trace.driven is not None for trace in traces)
    return {"rows": rows, "has_energy": scale is not None, "has_operator": driven, "geometry": geometry}


def _row(
    title: str,
    names: Sequence[str],
    row: Sequence[tuple[Timeline, bytes]],
    scale: EnergyScale | None,
    ticks: int | None = None,
) -> dict[str, Any]:
    """ticks: length of the axis of all traces (default: of each its own)."""
    return {
        "title": title,
        "disturbance": disturbance(row[0][0]),
        "fps": row[0][0].fps,
        "shown": [
            {
                "name": name,
                "seed": timeline.seed,
                "success": timeline.success,
                "outcome": _outcome(timeline),
                "video": data_url(video),
                "trace": energy_trace(timeline, scale, ticks or timeline.ticks),
            }
            for name, (timeline, video) in zip(names, row, strict=True)
        ],
    }


def _outcome(timeline: Timeline) -> str:
    said = outcome(timeline).text
    if timeline.operator_begin is not None:
        return f"the operator took over at tick {timeline.operator_begin}: {said}"
    reached = max(timeline.coverage, default=0.0)
    return f"{said}; coverage reached {reached:.2f}" if timeline.success is False and reached else said


def write_side_by_side(runs: Sequence[Path]) -> Path:
    """Writes side_by_side.html into the first of these folders of `eval --record`; returns its path.

    Shows every seed that all of them recorded on video, in order. Raises UserError where there is none.
    """
    found = [_episodes(run) for run in runs]
    shared = sorted(set.intersection(*map(set, found)))
    if not shared:
        raise UserError(
            f"{', '.join(map(str, runs))} share no recorded episode: expected videos of the same environment and seeds. "
            "Record with the same --env, --seed and --record."
        )
    columns = [
        Column(name, [(episodes[key][1], video_of(*episodes[key])) for key in shared])
        for name, episodes in zip(_names(runs), found, strict=True)
    ]
    solved = [f"{c.name} {sum(t.success is True for t, _ in c.episodes)}" for c in columns]
    page = runs[0] / "side_by_side.html"
    write_html(
        page,
        "side_by_side.html.j2",
        title=f"{shared[0][0]}: {' against '.join(c.name for c in columns)}",
        claim=f"All {len(shared)} seeds that were recorded of each. Solved: {', '.join(solved)}.",
        **side_by_side(columns),
    )
    return page


def _episodes(run: Path) -> dict[tuple[str, int], tuple[Path, Timeline]]:
    """Those with a video and a seed, by environment and seed."""
    if run.is_file():
        raise UserError(f"{run} is a file; to compare runs, expected a folder of eval --record for each.")
    episodes = [(path, read(path)) for path in timeline_files(run)]
    return {(t.env, t.seed): (path, t) for path, t in episodes if t.seed is not None and t.video}


def _names(runs: Sequence[Path]) -> list[str]:
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else [str(run) for run in runs]

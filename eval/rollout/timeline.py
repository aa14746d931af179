"""The record of one episode that the viewers draw: decisions, alarms, the disturbance, and the name of its video.

It is the same for simulated episodes and for those of an arm.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.video import encode
from ebt_policy.eval.statistics.records import finite, from_plain
from ebt_policy.provenance import plain, write_atomic, write_json

if TYPE_CHECKING:  # these import torch, which viewing does not need
    from ebt_policy.eval.rollout.episodes import Episode
    from ebt_policy.model.trace import Trace
    from ebt_policy.monitoring.calibration import Calibration


@dataclass(frozen=True)
class TimelineDecision:
    """One decision, taken before `tick` was executed.

    seconds: wall clock of the decision. stop_reason: name of a StopReason. energy, residual_rms: one entry for each
    point that was evaluated, None where unknown. score: value of the monitored signal, quantile: its calibrated
    quantile in 0..1. recovery: the recovery action taken ("hold", "ask"), "" for none.
    old_plan_energy: see `Trace`; None where there is none. beyond: past the length that the alarms were calibrated for.
    """

    tick: int
    seconds: float
    evaluations: int
    stop_reason: str
    energy: tuple[float | None, ...]
    residual_rms: tuple[float | None, ...]
    score: float | None
    quantile: float | None
    alarm: bool
    recovery: str
    old_plan_energy: float | None = None
    beyond: bool = False

    @property
    def chunk_energy(self) -> float | None:
        """Last energy of the descent, at a point that still has most of the noise: for its picture, not to judge by."""
        return next((e for e in reversed(self.energy) if e is not None), None)


@dataclass(frozen=True)
class Timeline:
    """One episode of `ticks` control periods, `fps` of them a second.

    success: None if nobody judged it. coverage: the task's graded score in 0..1 after each tick; may be empty.
    signal: name of the monitored signal, "" for none. threshold: the score above which it alarms. alpha: the false alarm rate
    that it was calibrated for. disturbance_begin, disturbance_end: ticks begin <= tick < end. video: name of the file beside
    the JSON, "" for none; its frame k is the picture after k ticks. task: the sentence of the task, "" where there is none.
    operator_begin: first tick that an operator drove, who then drove to the end; None where none did.
    """

    env: str
    policy: str
    seed: int | None
    fps: float
    ticks: int
    success: bool | None
    ticks_to_success: int | None
    coverage: tuple[float, ...]
    signal: str
    threshold: float | None
    alpha: float | None
    disturbance_kind: str
    disturbance_strength: float | None
    disturbance_begin: int | None
    disturbance_end: int | None
    decisions: tuple[TimelineDecision, ...]
    video: str
    task: str = ""
    operator_begin: int | None = None

    def __post_init__(self) -> None:
        """A plan of a disturbance may reach beyond the episode, which ends with success: only what happened is kept."""
        begin, end = self.disturbance_begin, self.disturbance_end
        if begin is not None and begin >= self.ticks:
            cleared = {"kind": "", "strength": None, "begin": None, "end": None}
            for name, value in cleared.items():
                object.__setattr__(self, f"disturbance_{name}", value)
        elif end is not None:
            object.__setattr__(self, "disturbance_end", min(end, self.ticks))

    @property
    def alarms(self) -> int:
        """Number of decisions with an alarm."""
        return sum(d.alarm for d in self.decisions)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values. NaN and infinity become None."""
        return plain(asdict(self))

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Self:
        """The inverse of to_dict. Raises UserError naming the first field that is not as expected."""
        decisions = record.get("decisions") if isinstance(record, dict) else None
        if isinstance(decisions, list):  # files of version 0.1 call a decision's recovery action `rung`
            decisions = [
                {"recovery": d["rung"]} | d if isinstance(d, dict) and "rung" in d else d for d in decisions
            ]
            record = record | {"decisions": decisions}
        timeline = from_plain(cls, record)
        if not 0 < timeline.fps < math.inf or timeline.ticks < 0:
            raise UserError(
                f"expected fps above 0 and ticks of at least 0, found {timeline.fps:g} and {timeline.ticks}"
            )
        return timeline


def timeline_of(
    episode: Episode,
    *,
    policy: str,
    fps: float,
    ticks: Sequence[int] | None = None,
    signal: str = "",
    threshold: float | None = None,
    alpha: float | None = None,
    scores: Sequence[float | None] = (),
    quantiles: Sequence[float | None] = (),
    alarms: Sequence[bool] = (),
    recovery: Sequence[str] = (),
    beyond: Sequence[bool] = (),
) -> Timeline:
    """The timeline of a simulated episode. Values of a monitor have one entry per decision, or none.

    ticks: the tick of each decision (default: every n_action_steps).
    """
    plan = episode.disturbance or {}
    count = len(episode.traces)
    begins = ticks if ticks is not None else [i * episode.n_action_steps for i in range(count)]
    decisions = zip(
        begins,
        episode.traces,
        scores or [None] * count,
        quantiles or [None] * count,
        alarms or [False] * count,
        recovery or [""] * count,
        beyond or [False] * count,
        strict=True,
    )
    return Timeline(
        env=episode.env,
        policy=policy,
        seed=episode.seed,
        fps=float(fps),
        ticks=episode.ticks,
        success=episode.success,
        ticks_to_success=episode.ticks_to_success,
        coverage=tuple(map(float, episode.coverages or ())),
        signal=signal,
        threshold=threshold,
        alpha=alpha,
        disturbance_kind=str(plan.get("kind", "")),
        disturbance_strength=plan.get("strength"),
        disturbance_begin=plan.get("begin"),
        disturbance_end=plan.get("end"),
        decisions=tuple(_decision(*decision) for decision in decisions),
        video="",
        task=episode.task,
    )


def _decision(
    tick: int,
    trace: Trace,
    score: float | None,
    quantile: float | None,
    alarm: bool,
    recovery: str,
    beyond: bool,
) -> TimelineDecision:
    from ebt_policy.model.trace import StopReason

    return TimelineDecision(
        tick=int(tick),
        seconds=float(trace.seconds),
        evaluations=int(trace.evaluations[0]),
        stop_reason=StopReason(int(trace.stop_reason[0])).name,
        energy=tuple(map(finite, trace.energy[0].tolist())),
        residual_rms=tuple(map(finite, trace.residual_rms[0].tolist())),
        score=None if score is None else finite(float(score)),
        quantile=None if quantile is None else finite(float(quantile)),
        alarm=bool(alarm),
        recovery=recovery,
        old_plan_energy=trace.old_plan(0),
        beyond=beyond,
    )


def keep_episodes(
    folder: Path,
    episodes: Iterable[Episode],
    *,
    policy: str,
    fps: int,
    calibration: Calibration | None = None,
) -> list[Path]:
    """Write video and timeline of each recorded episode; returns the paths of the timelines."""
    kept = []
    for episode in episodes:
        if not episode.frames:
            continue
        seen: dict[str, Any] = {}
        if calibration is not None:
            readings = episode.watch.readings
            seen = {
                "signal": " + ".join(calibration.statistic.signals),
                "threshold": calibration.threshold,
                "alpha": calibration.alpha,
                "scores": [reading.score for reading in readings],
                "quantiles": [reading.quantile for reading in readings],
                "alarms": [reading.alarm for reading in readings],
                "recovery": episode.watch.recovery,
                "beyond": [reading.beyond for reading in readings],
            }
        timeline = timeline_of(episode, policy=policy, fps=fps, ticks=episode.decision_ticks, **seen)
        kept.append(write(folder, timeline, encode(episode.frames, fps)))
    return kept


def write(folder: Path, timeline: Timeline, video: bytes = b"") -> Path:
    """Write NAME.json and, with a video, NAME.webm; returns the path of the JSON.

    NAME is the environment and the seed; without a seed, the first free number. Files are written atomically, the video
    first, so a timeline never names a missing video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "_", timeline.env) or "episode"
    if timeline.seed is not None:
        name = f"{name}_{timeline.seed}"
    else:
        name = next(n for i in range(10**9) if not (folder / f"{(n := f'{name}_{i:04d}')}.json").exists())
    record = timeline.to_dict()
    if video:
        record["video"] = f"{name}.webm"
        write_atomic(folder / f"{name}.webm", video)
    write_json(folder / f"{name}.json", record)
    return folder / f"{name}.json"


def read(path: Path) -> Timeline:
    """Read a timeline written by `write`. Raises UserError if the file is missing or not as expected."""
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not the timeline of an episode: expected JSON, found {error}.") from error
    try:
        timeline = Timeline.from_dict(record)
    except UserError as error:
        raise UserError(f"{path} is not the timeline of an episode: {error}.") from error
    if timeline.video != Path(timeline.video).name:
        raise UserError(f"{path}: expected a video beside it, found '{timeline.video}'.")
    return timeline


def timeline_files(run: Path) -> list[Path]:
    """The timelines of a run: `run` itself if it is a file, else those in run/episodes or in run. Raises UserError if there are none."""
    if run.is_file():
        return [run]
    folder = run / "episodes" if (run / "episodes").is_dir() else run
    found = sorted(folder.glob("*.json"))
    if not found:
        what = "holds no recorded episode" if run.is_dir() else "is not there"
        raise UserError(
            f"{run} {what}; expected timelines (*.json) in it or in its folder episodes. "
            f"Record some with: ebt-policy eval --policy POLICY --record 8 --output {run}"
        )
    return found


def video_of(beside: Path, timeline: Timeline) -> bytes:
    """The bytes of a timeline's video, from the folder of the file `beside`. Raises UserError if it cannot be read."""
    path = beside.with_name(timeline.video)
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}, the video of {beside.stem}: {error.strerror}.") from error

"""Episodes in rerun (https://rerun.io): live, or saved as a file that its viewer opens."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.timeline import Timeline, TimelineDecision, read, timeline_files, video_of
from ebt_policy.eval.rollout.video import decode, jpeg


class RerunSink:
    """A rerun recording of one episode, on the timelines `tick` and `time`. A Sink of LiveViewer.

    Entities: camera; energy/points (each evaluated point) and energy/last_plan (under what is seen now); monitor/score,
    monitor/quantile; cost/evaluations, cost/milliseconds; task/coverage; events (alarms, recovery, disturbances).
    """

    def __init__(self, name: str, fps: float, save: Path | None = None) -> None:
        """Opens a viewer, or writes to the file `save`. name: of the recording, as the viewer lists it."""
        self._rr = rerun()
        self._fps = fps
        self._stream = self._rr.RecordingStream("ebt_policy")
        if save is None:
            self._stream.spawn()
        else:
            save.parent.mkdir(parents=True, exist_ok=True)
            self._stream.save(save)
        self._stream.send_blueprint(_blueprint())
        self._stream.send_recording_name(name)
        style = self._rr.SeriesPoints(markers="circle", marker_sizes=2.5)
        self._stream.log("energy/points", style, static=True)

    def __call__(self, decision: TimelineDecision, frame: np.ndarray | None = None) -> None:
        self._at(decision.tick)
        if frame is not None:
            self.picture(decision.tick, frame)
        for energy in decision.energy:
            self._scalar("energy/points", energy)
        self._scalar("energy/last_plan", decision.old_plan_energy)
        self._scalar("monitor/score", decision.score)
        self._scalar("monitor/quantile", decision.quantile)
        self._scalar("cost/evaluations", decision.evaluations)
        self._scalar("cost/milliseconds", 1000 * decision.seconds)
        if decision.alarm or decision.recovery:
            quantile = "" if decision.quantile is None else f" at quantile {decision.quantile:.3f}"
            recovery = f"recovery: {decision.recovery}" if decision.recovery else ""
            text = "; ".join(filter(None, ["alarm" + quantile if decision.alarm else "", recovery]))
            self.event(decision.tick, text, "WARN" if decision.alarm else "INFO")

    def picture(self, tick: int, frame: np.ndarray) -> None:
        """frame uint8 (H, W, 3), compressed: raw ones would fill the viewer's memory in minutes."""
        self._at(tick)
        self._stream.log("camera", self._rr.EncodedImage(contents=jpeg(frame), media_type="image/jpeg"))

    def event(self, tick: int, text: str, level: str = "INFO") -> None:
        """A line of the viewer's log. level: rerun's names, such as INFO and WARN."""
        self._at(tick)
        self._stream.log("events", self._rr.TextLog(text, level=level))

    def coverage(self, tick: int, value: float) -> None:
        self._at(tick)
        self._scalar("task/coverage", value)

    def close(self) -> None:
        """Hands over what is still buffered."""
        self._stream.flush()
        self._stream.disconnect()

    def _at(self, tick: int) -> None:
        self._stream.set_time("tick", sequence=tick)
        self._stream.set_time("time", duration=tick / self._fps)

    def _scalar(self, entity: str, value: float | None) -> None:
        if value is not None:
            self._stream.log(entity, self._rr.Scalars(value))


def trace(run: Path, save: Path | None = None) -> None:
    """One recorded episode in the viewer, or in the file `save`. Raises UserError when RUN holds several."""
    files = timeline_files(run)
    if len(files) > 1:
        raise UserError(
            f"{run} holds {len(files)} episodes; the rerun viewer shows one. Name it, e.g. {files[0]}"
        )
    timeline = read(files[0])
    video = video_of(files[0], timeline) if timeline.video else b""
    sink = RerunSink(files[0].stem, timeline.fps, save)
    send(timeline, video, sink)
    sink.close()


def send(timeline: Timeline, video: bytes, sink: RerunSink) -> None:
    """A recorded episode into a recording."""
    for tick, frame in enumerate(decode(video) if video else ()):
        sink.picture(tick, frame)
    for decision in timeline.decisions:
        sink(decision)
    for tick, value in enumerate(timeline.coverage, start=1):
        sink.coverage(tick, value)
    if timeline.disturbance_begin is not None:
        sink.event(timeline.disturbance_begin, f"{timeline.disturbance_kind} begins", "WARN")
    if timeline.disturbance_end is not None:
        sink.event(timeline.disturbance_end, f"{timeline.disturbance_kind} is over")
    if timeline.ticks_to_success is not None:
        sink.event(timeline.ticks_to_success, "solved")


def rerun() -> Any:
    """The module. Raises UserError naming the extra where it is not installed."""
    try:
        module = importlib.import_module("rerun")
    except ImportError as error:
        raise UserError(
            f"The rerun viewer needs rerun-sdk ({error}). Install it with: pip install 'lerobot_policy_ebt[viz]'. "
            "--viewer html needs nothing."
        ) from error
    return module


def _blueprint() -> Any:
    """Camera and events on the left, curves over time on the right."""
    rrb = importlib.import_module("rerun.blueprint")

    curves = [
        rrb.TimeSeriesView(origin=f"/{name}", name=name) for name in ("energy", "monitor", "cost", "task")
    ]
    left = rrb.Vertical(
        rrb.Spatial2DView(origin="/camera", name="camera"),
        rrb.TextLogView(origin="/events", name="events"),
        row_shares=[3, 1],
    )
    return rrb.Blueprint(rrb.Horizontal(left, rrb.Vertical(*curves), column_shares=[2, 3]))

"""Several cameras together. Gives their pictures only if all are fresh and were taken at nearly the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ebt_policy.errors import UserError
from ebt_policy.hardware.sensing.camera_stream import CameraStream, Frame, StreamEvent

__all__ = ["CameraStream", "Frame", "Snapshot", "Stale", "StreamEvent", "Streams"]


@dataclass(frozen=True, eq=False)
class Snapshot:
    """The newest frame of every camera. oldest_age_s: of the oldest. skew_s: between the oldest and the newest."""

    frames: dict[str, Frame]
    oldest_age_s: float
    skew_s: float


@dataclass(frozen=True)
class Stale:
    """Why there is no snapshot. age_s: of the stream's newest frame, None without one; allowed_s: the limit of age or
    skew that was exceeded, None for another reason.
    """

    stream: str
    reason: str
    age_s: float | None
    allowed_s: float | None
    remedy: str

    def __str__(self) -> str:
        return f"Camera {self.stream}: {self.reason}. {self.remedy}"


class Streams:
    """Use it as a context: cameras start in the given order, and all that were started stop in the reverse one, always."""

    def __init__(
        self,
        streams: Sequence[CameraStream],
        max_skew_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_skew_s: between the pictures of one snapshot. clock: that of the streams. Raises UserError for equal names."""
        names = [stream.name for stream in streams]
        if len(set(names)) < len(names):
            raise UserError(f"Every camera needs a name of its own; found {', '.join(names)}.")
        if not max_skew_s > 0:
            raise UserError(f"max_skew_s between cameras must be above 0 seconds; found {max_skew_s}.")
        self.streams, self.max_skew_s, self._clock = tuple(streams), max_skew_s, clock

    def start(self) -> None:
        """Starts all, or none: raises UserError naming the camera that could not be connected, and stops the others."""
        for position, stream in enumerate(self.streams):
            try:
                stream.start()
            except BaseException:
                _stop(self.streams[:position])
                raise

    def stop(self) -> list[str]:
        """Stops all, the last started first; names of those that did not stop in time."""
        return _stop(self.streams)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def snapshot(self, now: float | None = None) -> Snapshot | Stale:
        """The newest frames, or the first reason why they cannot be used. now: seconds of the clock. Never waits."""
        now = self._clock() if now is None else now
        frames: dict[str, Frame] = {}
        for stream in self.streams:
            frame = stream.latest()
            if (stale := _stale(stream, frame, now)) is not None:
                return stale
            if frame is not None:
                frames[stream.name] = frame
        if not frames:
            return Snapshot({}, 0.0, 0.0)
        by_age = sorted(frames, key=lambda name: frames[name].stamp)
        oldest, newest = frames[by_age[0]].stamp, frames[by_age[-1]].stamp
        if newest - oldest > self.max_skew_s:
            return Stale(
                by_age[0],
                f"its picture is {newest - oldest:.3f} s older than that of {by_age[-1]}; {self.max_skew_s:.3f} s are allowed",
                now - oldest,
                self.max_skew_s,
                "Set equal frame rates, measure each camera's latency, or allow more skew.",
            )
        return Snapshot(frames, now - oldest, newest - oldest)

    def wait(self, timeout_s: float = 5.0) -> Snapshot:
        """The first good snapshot. Raises UserError with the reason where none comes within timeout_s of real time."""
        deadline = time.monotonic() + timeout_s
        while isinstance(found := self.snapshot(), Stale):
            if time.monotonic() > deadline:
                raise UserError(f"The cameras gave no usable pictures within {timeout_s:g} s. {found}")
            time.sleep(0.01)
        return found


def _stale(stream: CameraStream, frame: Frame | None, now: float) -> Stale | None:
    age = None if frame is None else now - frame.stamp
    if stream.lost is not None:
        remedy = "Check its cable and power; it is connected anew until it answers."
        return Stale(stream.name, f"lost: {stream.lost}", age, None, remedy)
    if age is None:
        return Stale(
            stream.name, "no picture yet", None, None, "Wait for it, or check its cable and options."
        )
    if age > stream.max_age_s:
        return Stale(
            stream.name,
            f"its newest picture is {age:.3f} s old; {stream.max_age_s:.3f} s are allowed",
            age,
            stream.max_age_s,
            "Check its cable and frame rate, or allow older pictures.",
        )
    if stream.frozen:
        return Stale(
            stream.name,
            f"frozen: the same picture for more than {stream.frozen_s:g} s, with fresh stamps",
            age,
            stream.frozen_s,
            "Unplug it and plug it in again. Turn the check off (frozen_s of null) only for pictures without noise.",
        )
    return None


def _stop(streams: Sequence[CameraStream]) -> list[str]:
    left = []
    for stream in reversed(streams):
        try:
            stopped = stream.stop()
        except Exception:  # the others must be stopped too
            stopped = False
        if not stopped:
            left.append(stream.name)
    return left

"""Reads a camera in its own thread, so that its newest picture is available without waiting."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.errors import UserError

if TYPE_CHECKING:
    from lerobot.cameras import Camera

READ_TIMEOUT_S = 0.5  # a read that takes longer has failed
BACK_OFF_S = (0.05, 2.0)  # wait after the first failure, and at most
STRIDE = 8  # of the pixels compared in every picture; all are compared only if these are equal


@dataclass(frozen=True, eq=False)
class Frame:
    """image: uint8 (H, W, 3), RGB. stamp: when the camera took it, seconds of the stream's clock. sequence: from 0."""

    image: NDArray[np.uint8]
    stamp: float
    sequence: int


@dataclass(frozen=True)
class StreamEvent:
    """kind: lost, back, frozen, moving or stuck. time: seconds of the stream's clock."""

    time: float
    kind: str
    detail: str


class CameraStream:
    """Keeps the newest frame of a LeRobot camera.

    The thread waits in LeRobot's `async_read`, which returns each new picture once. A failed read is repeated after growing
    pauses. After `retries` failures in a row the stream is `lost`, and the camera is connected again until it answers, because
    LeRobot's own reading thread ends after twelve failures.
    """

    def __init__(
        self,
        name: str,
        camera: Camera,
        max_age_s: float,
        clock: Callable[[], float] = time.monotonic,
        latency_s: float = 0.0,
        frozen_s: float | None = 1.0,
        retries: int = 5,
        on_event: Callable[[StreamEvent], None] | None = None,
    ) -> None:
        """max_age_s: older frames are stale. latency_s: measured time from light to receipt, taken off each stamp.
        frozen_s: if pictures are identical for longer, the camera is frozen; None for rendered or stored pictures, which have
        no noise. on_event must not block (see `EventLog`). Raises UserError for limits that are not positive.
        """
        if not (max_age_s > 0 and latency_s >= 0 and retries >= 1 and (frozen_s is None or frozen_s > 0)):
            raise UserError(
                f"Camera {name} needs max_age_s and frozen_s above 0, latency_s of at least 0 and retries of at least 1; "
                f"found {max_age_s}, {frozen_s}, {latency_s}, {retries}."
            )
        self.name, self.camera, self.max_age_s, self.latency_s = name, camera, max_age_s, latency_s
        self.frozen_s, self.retries = frozen_s, retries
        self.frames = self.failed = 0  # so far
        self.lost: str | None = None  # why no picture comes
        self.frozen = False
        self._clock, self._on_event = clock, on_event
        self._latest: Frame | None = None
        self._same: Frame | None = None  # the first of several identical pictures
        self._digest = 0
        self._mine = False  # connected by this object, which therefore disconnects it
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None

    def start(self) -> None:
        """Connects the camera where nobody has, and begins to read. Raises UserError where it cannot be connected."""
        if self._worker is not None:
            raise UserError(f"Camera {self.name} is running already.")
        if not self.camera.is_connected:
            try:
                self.camera.connect()
            except Exception as error:
                raise UserError(
                    f"Camera {self.name} ({self.camera}) cannot be connected: {error} Check its cable and its options; "
                    "lerobot-find-cameras lists what is there."
                ) from error
            self._mine = True
        self.lost, self.frozen, self._same = None, False, None
        self._stop.clear()
        self._worker = threading.Thread(target=self._run, name=f"camera-{self.name}", daemon=True)
        self._worker.start()

    def latest(self) -> Frame | None:
        """The newest frame, or None before the first. Never waits."""
        return self._latest

    def stop(self, timeout_s: float = 6.0) -> bool:
        """Ends the thread, which disconnects what `start` connected; whether it ended within timeout_s.

        LeRobot's disconnect takes up to 4 s if its driver hangs. A thread that does not end in time disconnects later, when
        its read returns.
        """
        self._stop.set()
        if (worker := self._worker) is None:
            return True
        worker.join(timeout_s)
        if worker.is_alive():
            self._notify("stuck", f"camera {self.name} did not stop within {timeout_s:g} s: its read hangs")
            return False
        self._worker = None
        return True

    def _run(self) -> None:
        misses = 0  # in a row
        try:
            while not self._stop.is_set():
                try:
                    if self.lost is not None:
                        self._reconnect()
                    image = self.camera.async_read(timeout_ms=READ_TIMEOUT_S * 1000)
                    self._accept(image, self._captured(image))
                    misses = 0
                except Exception as error:  # drivers may raise anything, and the robot must go on
                    self.failed += 1
                    misses += 1
                    if misses >= self.retries:
                        self._lose(f"{misses} reads failed in a row, the last with: {error}")
                    self._stop.wait(min(BACK_OFF_S[0] * 2 ** (misses - 1), BACK_OFF_S[1]))
        finally:
            if self._mine:
                self._disconnect()

    def _captured(self, image: NDArray[Any]) -> float:
        """When `image` was received. LeRobot has the time but does not return it. It is read from the camera object if
        the picture there is still the same, so that the picture does not look newer when this thread wakes up late.
        """
        now, counter = self._clock(), time.perf_counter()
        lock = getattr(self.camera, "frame_lock", None)
        if lock is None:
            return now
        with lock:
            kept = getattr(self.camera, "latest_frame", getattr(self.camera, "latest_color_frame", None))
            stamp = getattr(self.camera, "latest_timestamp", None)
        return now if kept is not image or stamp is None else now - max(counter - stamp, 0.0)

    def _accept(self, image: NDArray[Any], received: float) -> None:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"a picture must be uint8 (height, width, 3), found {image.dtype} {image.shape}")
        if not image.flags.owndata:
            # A copy: librealsense stops when all of its buffers are in use.
            image = image.copy()
        frame = Frame(image, received - self.latency_s, self.frames)
        self._watch(frame)
        self._latest = frame
        self.frames += 1
        if self.lost is not None:
            self.lost = None
            self._notify("back", f"camera {self.name} gives pictures again")

    def _watch(self, frame: Frame) -> None:
        """Detects a frozen camera: its pictures stay identical while their times go on. A real sensor has noise."""
        if self.frozen_s is None:
            return
        digest = zlib.crc32(np.ascontiguousarray(frame.image[::STRIDE, ::STRIDE]))
        same = self._same
        if same is None or digest != self._digest or not np.array_equal(frame.image, same.image):
            self._same = same = frame
        self._digest = digest
        still_s = frame.stamp - same.stamp
        frozen = still_s > self.frozen_s
        if frozen != self.frozen:
            self.frozen = frozen
            self._notify(
                "frozen" if frozen else "moving",
                f"camera {self.name} gave the same picture for {still_s:.2f} s"
                if frozen
                else f"camera {self.name} gives new pictures again",
            )

    def _lose(self, reason: str) -> None:
        if self.lost is None:
            self._notify("lost", f"camera {self.name}: {reason}")
        self.lost = reason

    def _reconnect(self) -> None:
        if self.camera.is_connected:
            self.camera.disconnect()
        self.camera.connect(warmup=False)
        self._mine = True

    def _disconnect(self) -> None:
        try:
            if self.camera.is_connected:
                self.camera.disconnect()
        except Exception as error:
            self._notify("stuck", f"camera {self.name} could not be disconnected: {error}")

    def _notify(self, kind: str, detail: str) -> None:
        if self._on_event is not None:
            self._on_event(StreamEvent(self._clock(), kind, detail))

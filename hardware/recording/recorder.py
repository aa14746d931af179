"""Records LeRobot episodes; the control loop never waits for it.

Another process writes, because encoding video in a thread would block this process for tenths of a second. It receives frames
through a pipe. If this process dies, it still saves the finished episodes. It ignores Ctrl-C and the
other signals that end a session.
"""

from __future__ import annotations

import atexit
import multiprocessing
import pickle
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

from ebt_policy.errors import UserError
from ebt_policy.hardware.recording.episode_writer import DatasetSpec, EpisodeWriter
from ebt_policy.hardware.recording.recorder_process import record

CAPACITY = 64  # frames and lines: 1.3 s at 50 Hz, 118 MB with two cameras of 640x480
Writers = Callable[[DatasetSpec], EpisodeWriter]


class RecorderState(StrEnum):
    """FAILED is final: nothing more is recorded; the finished episodes are complete."""

    STARTING = "starting"
    RECORDING = "recording"
    FAILED = "failed"
    CLOSED = "closed"


@dataclass(frozen=True)
class RecorderEvent:
    """kind: saved, short, discarded, dropping or failed. time: seconds of the recorder's clock."""

    time: float
    kind: str
    detail: str


class Recorder:
    """`add`, `note`, `end_episode` and `discard_episode` return at once, even if the disk is slow or full, and raise nothing.
    Call them from one thread. Do not change arrays that were passed in.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.monotonic,
        on_event: Callable[[RecorderEvent], None] | None = None,
        open_writer: Writers = EpisodeWriter,
    ) -> None:
        """Starts the process, which takes seconds to be ready: see `ready`. capacity: frames and lines that may wait; more are
        dropped. on_event is called from another thread and must not block (see `EventLog`).
        """
        self.spec, self.capacity = spec, capacity
        self.state, self.reason = RecorderState.STARTING, ""
        self.saved = 0  # episodes
        self.dropped = 0  # frames, because they did not fit or recording had failed
        self.lines_dropped = 0
        self._missing = 0  # frames since the last one that went in
        self._clock, self._on_event = clock, on_event
        self._queue: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._asked = self._answered = 0  # ends and discards of episodes
        self._closing = False
        self._changed = threading.Condition()
        self._waiting = (
            threading.Lock()
        )  # of two threads that wait for a process one may take it for alive when it has ended
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        source, self._sink = context.Pipe(duplex=False)
        self._answers, answer = context.Pipe(duplex=False)
        self._process = context.Process(
            target=record, args=(source, answer, open_writer, spec), name="recorder"
        )
        self._process.start()
        # The child holds its own copies; with ours open, its end would not show here, nor ours there.
        source.close()
        answer.close()
        self._feeder = threading.Thread(target=self._feed, name="recorder-feeder", daemon=True)
        self._listener = threading.Thread(target=self._listen, name="recorder-listener", daemon=True)
        self._feeder.start()
        self._listener.start()
        atexit.register(self.close)  # multiprocessing would wait for the process, which waits for us

    def ready(self, timeout_s: float = 120.0) -> None:
        """Waits until frames can be written. Raises UserError with the reason where they cannot."""
        with self._changed:
            self._changed.wait_for(lambda: self.state is not RecorderState.STARTING, timeout_s)
        if self.state is RecorderState.STARTING:
            raise UserError(f"The recorder was not ready within {timeout_s:g} s.")
        if self.state is RecorderState.FAILED:
            raise UserError(self.reason)

    def add(self, frame: Mapping[str, Any], task: str, stamp: float | None = None) -> bool:
        """Adds a frame: every feature of the spec -> its value, images uint8 (H, W, 3). stamp: seconds of the clock, now
        where None. False where it was dropped; the episode's record in meta/recording.jsonl then says so.
        """
        if not self._takes():
            self.dropped += 1
            self._missing += 1
            if self._missing == 1 and self.state is not RecorderState.FAILED:
                self._notify("dropping", f"{self.capacity} frames wait already")
            return False
        stamp = self._clock() if stamp is None else stamp
        self._queue.put(("add", dict(frame), task, stamp, self._missing))
        self._missing = 0
        return True

    def wait_for_room(self) -> None:
        """Waits while too much waits to be written: only where time stands still meanwhile, as in a simulation."""
        while self.state is RecorderState.RECORDING and self._queue.qsize() > self.capacity // 2:
            time.sleep(0.002)

    def note(self, line: Any, stamp: float | None = None) -> bool:
        """A line (dataclass or mapping) for the log of the episode that is running or comes next: a decision's trace, an event.
        Gets the clock's time unless it has one. False where it was dropped.
        """
        if not self._takes():
            self.lines_dropped += 1
            return False
        plain = dict(line) if isinstance(line, Mapping) else asdict(line)
        self._queue.put(("note", {"time": self._clock() if stamp is None else stamp, **plain}))
        return True

    def end_episode(self, success: bool | None = None) -> None:
        """Saves the episode, in the background. success: None if unknown."""
        self._ask("save", success, self._missing)

    def discard_episode(self) -> None:
        self._ask("discard")

    def flush(self, timeout_s: float = 60.0) -> bool:
        """Waits until every ended episode is saved; whether it was within timeout_s, and without a failure."""
        with self._changed:
            done = self._changed.wait_for(
                lambda: self._answered >= self._asked or self.state is RecorderState.FAILED, timeout_s
            )
        return done and self.state is not RecorderState.FAILED

    def close(self, timeout_s: float = 60.0) -> bool:
        """Saves the ended episodes, discards one that has not ended, and ends the process, by force after timeout_s.
        Returns whether all of this succeeded. May be called twice.
        """
        if self.state is RecorderState.CLOSED:
            return True
        deadline = time.monotonic() + timeout_s
        try:
            flushed = self.flush(timeout_s)
            failed = self.state is RecorderState.FAILED
        finally:  # after a Ctrl-C too: the process waits for the end of the pipe, and Python, at its end, for the process
            self._closing = True
            self._queue.put(None)
        with self._waiting:
            self._process.join(max(deadline - time.monotonic(), 1.0))
            if forced := self._process.is_alive():
                self._process.kill()
                self._process.join(5.0)
        self._feeder.join(5.0)
        self._listener.join(5.0)
        with self._changed:
            self.state = RecorderState.CLOSED if not failed else self.state
        atexit.unregister(self.close)
        return flushed and not failed and not forced

    def __enter__(self) -> Self:
        self.ready()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _takes(self) -> bool:
        return (
            self.state in (RecorderState.STARTING, RecorderState.RECORDING)
            and self._queue.qsize() < self.capacity
        )

    def _ask(self, *message: Any) -> None:
        self._missing = 0
        if self.state is RecorderState.CLOSED:
            return
        with self._changed:
            self._asked += 1
        self._queue.put(message)

    def _feed(self) -> None:
        try:
            while (message := self._queue.get()) is not None:
                self._send(message)
        finally:
            self._sink.close()

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            buffers: list[pickle.PickleBuffer] = []
            header = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
            # Arrays go as they are, without a copy.
            self._sink.send((header, len(buffers)))
            for buffer in buffers:
                self._sink.send_bytes(buffer.raw())
        except OSError:
            pass  # the process is gone: the listener says so
        except Exception as error:
            self._fail(f"A frame or line cannot be handed to the recorder's process: {error}")

    def _listen(self) -> None:
        try:
            while True:
                kind, detail = self._answers.recv()
                self._hear(kind, detail)
        except (EOFError, OSError):
            with self._waiting:
                self._process.join(1.0)
                code = self._process.exitcode
            if code or not self._closing:
                self._fail(
                    f"The recorder's process ended by itself (exit code {code}). Finished episodes are safe."
                )

    def _hear(self, kind: str, detail: str) -> None:
        if kind == "failed":
            self._fail(detail)
            return
        with self._changed:
            if kind == "ready":
                self.state = RecorderState.RECORDING
            else:
                self._answered += 1
                self.saved += kind == "saved"
            self._changed.notify_all()
        self._notify(kind, detail)

    def _fail(self, reason: str) -> None:
        with self._changed:
            first = self.state in (RecorderState.STARTING, RecorderState.RECORDING)
            if first:
                self.state, self.reason = RecorderState.FAILED, reason
            self._changed.notify_all()
        if first:
            self._notify("failed", reason)

    def _notify(self, kind: str, detail: str) -> None:
        if self._on_event is not None:
            self._on_event(RecorderEvent(self._clock(), kind, detail))

"""An event log in JSON lines that never blocks the thread that writes to it."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ebt_policy.provenance import plain

CAPACITY = 1024


class EventLog:
    """Call it with a dataclass or a mapping; a worker thread writes. When the disk stalls or is full, events are dropped and
    counted, and the control loop goes on.
    """

    def __init__(self, path: Path, capacity: int = CAPACITY) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.dropped = 0  # the queue was full
        self.failed = 0  # the file could not be written
        self._queue: queue.Queue[str | None] = queue.Queue(capacity)
        self._worker = threading.Thread(target=self._write, name="event-log", daemon=True)
        self._worker.start()

    def __call__(self, event: Any) -> None:
        """Adds the wall clock (seconds since 1970) and queues the event."""
        record = dict(event) if isinstance(event, Mapping) else asdict(event)
        try:
            self._queue.put_nowait(json.dumps(plain({"wall": time.time(), **record}), default=str))
        except queue.Full:
            self.dropped += 1

    def close(self, timeout_s: float = 2.0) -> bool:
        """Waits for what is queued, at most timeout_s; returns whether all of it was written."""
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return False
        self._worker.join(timeout_s)
        return not self._worker.is_alive() and not self.dropped and not self.failed

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                # Opened for each line: events are rare, and what is written is on disk when the computer dies.
                with open(self.path, "a") as file:
                    file.write(line + "\n")
            except OSError:
                self.failed += 1

"""Shows the decisions of a control loop in a viewer on another thread; decisions are dropped if it is too slow."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np

from ebt_policy.eval.rollout.timeline import TimelineDecision

# Shows a decision and its picture, uint8 (H, W, 3) or None. It may block and may raise.
Sink = Callable[[TimelineDecision, np.ndarray | None], None]

_logger = logging.getLogger(__name__)


class LiveViewer:
    """Passes decisions to `sink` on another thread, so that the sink can neither block the caller nor raise in it.

    At most `capacity` decisions wait; another one replaces the oldest. `dropped` counts decisions that were not shown: replaced,
    failed in the sink, or logged after `close`. at_end: called on the thread at the end, for example to finish a file.
    """

    def __init__(self, sink: Sink, capacity: int = 16, at_end: Callable[[], None] | None = None) -> None:
        self.dropped = 0
        self._sink, self._at_end = sink, at_end
        self._waiting: deque[Callable[[], None]] = deque()
        self._capacity, self._closed, self._complained = capacity, False, False
        self._changed = threading.Condition()  # never held while the sink runs
        # A daemon thread: a sink that never returns must not keep the process alive.
        self._worker = threading.Thread(target=self._work, name="live viewer", daemon=True)
        self._worker.start()

    def log(self, decision: TimelineDecision, frame: np.ndarray | None = None) -> None:
        """Queue a decision without waiting. The frame is not copied: do not change it afterwards."""
        self.run(partial(self._sink, decision, frame))

    def run(self, show: Callable[[], None]) -> None:
        """Queue something else to show, such as an event, without waiting."""
        with self._changed:
            if self._closed:
                self.dropped += 1
                return
            if len(self._waiting) == self._capacity:
                self._waiting.popleft()
                self.dropped += 1
            self._waiting.append(show)
            self._changed.notify()

    def close(self, timeout: float = 2.0) -> None:
        """Show the waiting decisions for at most `timeout` seconds and drop the rest. May be called twice."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join(max(deadline - time.monotonic(), 0))
        with self._changed:
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    break
                show = self._waiting.popleft()
            try:
                show()
            except Exception as error:
                self._complain(error)
                with self._changed:
                    self.dropped += 1
        if self._at_end is not None:
            try:
                self._at_end()
            except Exception as error:
                self._complain(error)

    def _complain(self, error: Exception) -> None:
        """Log the first error only: a broken viewer fails on every decision."""
        if not self._complained:
            self._complained = True
            _logger.warning("The viewer failed and may show less from here on: %s", error)

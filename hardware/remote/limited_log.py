"""Log lines whose number per period is limited, so that a peer who causes them cannot fill the disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

MAX_LINES = 20
PERIOD_S = 10.0


class LimitedLog:
    """Call it like `logger.warning`; with `exc_info` it writes an error and its traceback. May be called from any thread.

    Lines above the limit are counted, and the count is written when the period is over.
    """

    def __init__(
        self,
        logger: logging.Logger,
        level: int = logging.WARNING,
        lines: int = MAX_LINES,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `lines` lines in each `period_s` seconds, plus one line with the number of those left out."""
        self._logger, self._level, self._lines, self._period_s = logger, level, lines, period_s
        self._clock, self._lock = clock, threading.Lock()
        self._begin, self._written, self._left_out = -float("inf"), 0, 0

    def __call__(self, message: str, *args: object, exc_info: bool = False) -> None:
        with self._lock:
            now = self._clock()
            if now - self._begin >= self._period_s:
                self._summarise()
                self._begin, self._written = now, 0
            if self._written >= self._lines:
                self._left_out += 1
                return
            self._written += 1
        self._logger.log(logging.ERROR if exc_info else self._level, message, *args, exc_info=exc_info)

    def close(self) -> None:
        """Writes how many lines were left out since the last summary."""
        with self._lock:
            self._summarise()

    def _summarise(self) -> None:
        if self._left_out:
            self._logger.log(self._level, "%d more lines of this kind were left out", self._left_out)
            self._left_out = 0

"""Tells the operator on the terminal what a takeover wants, with the terminal's bell. Never blocks the control loop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

_BELL = "\a"
_TEXTS = {  # kind of event -> text; {} is the event's detail
    "asks": _BELL + "ASKS: {}. The arm holds. t: take over; r: the policy goes on; q: quit",
    "matched": "The leader has the arm's pose. Hold it, then t: take over",
    "takes_over": "YOU DRIVE ({}). t: hand back to the policy; space: stop",
    "hands_back": "THE POLICY DRIVES again ({}).",
    "goes_on": "THE POLICY DRIVES again ({}).",
    "leader_lost": _BELL + "The leader is lost: {}",
    "leader_back": "The leader is back.",
    "unanswered": _BELL + "The episode ends: {}.",
    "beyond_calibration": "From here on alarms are more often false: {}.",
    "no_leader": "Nothing to take over with: {}.",
    "failed": _BELL + "NOTHING MORE IS RECORDED: {} This episode goes on without; q: quit",
}
_ALONE = _BELL + "ASKS: {}. The arm is stopped. r: the policy goes on; q: quit"


class Announcer:
    """Call it with every event; a thread prints those of a takeover, what alarms are worth, and that recording has failed. A stalled terminal
    costs messages, not time."""

    def __init__(
        self, leader: bool, show: Callable[[str], None] = lambda text: print(text, flush=True)
    ) -> None:
        """leader: whether there is something to take over with; without it the arm that asks is stopped."""
        self._texts = _TEXTS if leader else _TEXTS | {"asks": _ALONE}
        self._show = show
        self._queue: queue.Queue[str | None] = queue.Queue(32)
        self._worker = threading.Thread(target=self._work, name="announcer", daemon=True)
        self._worker.start()

    def __call__(self, event: Any) -> None:
        kind = getattr(event, "kind", "")
        if kind in self._texts:
            self._put(self._texts[kind].format(event.detail))

    def close(self, timeout_s: float = 1.0) -> None:
        """Waits until what is queued is shown, at most timeout_s."""
        self._put(None)
        self._worker.join(timeout_s)

    def _put(self, text: str | None) -> None:
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            return

    def _work(self) -> None:
        while (text := self._queue.get()) is not None:
            self._show(text)


KINDS = frozenset(_TEXTS) - {"failed"}

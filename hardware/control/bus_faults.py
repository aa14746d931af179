"""Since when the arm's bus fails to read or to send: one lost packet is no fault, silence for the watchdog's time is one."""

from __future__ import annotations

READ, SEND = "read", "send"


class BusFaults:
    """Both ways of the bus in one episode."""

    def __init__(self) -> None:
        self.held = False  # the arm holds, because a way failed for longer than a lost packet
        self._since: dict[str, float] = {}  # when a way that fails now worked last
        self._worked: dict[str, float] = {}

    def failing(self, way: str) -> bool:
        """Whether that way failed the last time that it was tried."""
        return way in self._since

    def failed(self, way: str, now: float) -> tuple[bool, float]:
        """Whether it had worked until now, and for how many seconds it fails."""
        first = way not in self._since
        if first:
            self._since[way] = self._worked.get(way, now)
        return first, now - self._since[way]

    def works(self, way: str, now: float) -> float | None:
        """For how many seconds it had failed; None where it had not."""
        self._worked[way] = now
        since = self._since.pop(way, None)
        return None if since is None else now - since

    def over(self) -> bool:
        """Ends the hold when both ways work again; whether it ended now."""
        ends = self.held and not self._since
        self.held = self.held and not ends
        return ends

"""Recovery actions: what to do about an alarm, one after the other, each tried for a few decisions.

A recovery action never edits a robot action: it holds, or stops. The state machine here is of one episode and knows neither
policy nor robot. More evaluations, several starts and shorter chunks were tried and gained nothing (docs/results/failures.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ebt_policy.errors import UserError

# How a robot holds still: (observation.state (S,), last robot action (A,) or None before the first) -> action (A,), or None where
# no such action is known: then nothing is sent.
Hold = Callable[[np.ndarray, np.ndarray | None], np.ndarray | None]

RECOVERY_ACTIONS = {
    "hold": "hold the present position, then decide without the previous plan",
    "ask": "stop and ask for a human",
}


@dataclass(frozen=True)
class Ladder:
    """Recovery actions, in the order in which they are tried while the alarm lasts.

    patience: decisions for which an action is taken. Afterwards the score is reset. If it alarms again within `memory`
    decisions, the next action is taken, otherwise the first.
    Raises UserError for an unknown action or a value out of range.
    """

    actions: tuple[str, ...] = ("hold", "ask")
    patience: int = 3
    memory: int = 8

    def __post_init__(self) -> None:
        for action in self.actions:
            if action not in RECOVERY_ACTIONS:
                raise UserError(f"Unknown recovery action '{action}'. Known: {', '.join(RECOVERY_ACTIONS)}.")
        if self.patience < 1:
            raise UserError(f"A ladder needs a patience of at least 1, found {self.patience}.")


class RecoveryState:
    """Which recovery action one episode is in."""

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        self._next = 0  # index of the action that the next alarm starts
        self._left = 0  # decisions left for the present action
        self._calm = 0  # decisions since the last action ended

    @property
    def action(self) -> str:
        """The recovery action of this decision; "" for none."""
        return self.ladder.actions[self._next - 1] if self._left else ""

    def step(self, alarm: bool) -> str:
        """The recovery action of this decision, given whether its score is an alarm; "" for none."""
        if self._left:
            return self.action
        self._calm += 1
        if self._calm > self.ladder.memory:
            self._next = 0
        if alarm and self.ladder.actions:
            # After the last action there is no other: it is taken again.
            self._next = min(self._next + 1, len(self.ladder.actions))
            self._left, self._calm = self.ladder.patience, 0
        return self.action

    def done(self) -> bool:
        """Call after each decision. True when a recovery action has just ended and the score must be reset."""
        if not self._left:
            return False
        self._left -= 1
        return self._left == 0

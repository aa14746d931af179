"""What to do about an alarm: a ladder of rungs, each tried for a while before the next.

No rung edits an action: each chooses among answers of the policy, or executes less of one (docs/experiments.md says what
each is worth). The ladder is a state machine for one episode and knows neither policy nor robot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ebt_policy.errors import UserError

# How a robot holds still: (observation.state (S,), last action (A,) or None before the first) -> action (A,)
Hold = Callable[[np.ndarray, np.ndarray | None], np.ndarray]

RUNGS = {
    "think": "descend for more evaluations",
    "sample": "descend from several noise starts and take the lowest energy; what was planned is dropped",
    "shorten": "execute less of the chunk before looking again",
    "hold": "stay where the robot is, and decide afresh afterwards",
    "ask": "stop and ask for a human",
}


@dataclass(frozen=True)
class Ladder:
    """Rungs in the order in which they are climbed while the alarm is on.

    patience: decisions that a rung is given. After them the score starts again: if it alarms within `memory` decisions,
    the next rung is taken, otherwise the first. evaluations: budget of `think`. starts: of `sample`. share: part of
    the chunk's executed ticks that `shorten` keeps. holds: decisions' worth of ticks that `hold` waits.
    """

    rungs: tuple[str, ...] = ("think", "sample", "shorten", "hold", "ask")
    patience: int = 3
    memory: int = 8
    evaluations: int = 8
    starts: int = 16
    share: float = 0.5

    def __post_init__(self) -> None:
        for rung in self.rungs:
            if rung not in RUNGS:
                raise UserError(f"Unknown rung '{rung}'. Rungs: {', '.join(RUNGS)}.")
        if self.patience < 1 or self.starts < 2 or self.evaluations < 1 or not 0 < self.share <= 1:
            raise UserError(
                "A ladder needs patience and evaluations of at least 1, starts of at least 2 and a share in (0, 1]; "
                f"found {self.patience}, {self.evaluations}, {self.starts}, {self.share}."
            )


class Climb:
    """Where one episode stands on the ladder."""

    def __init__(self, ladder: Ladder) -> None:
        self.ladder = ladder
        self._next = 0  # index of the rung that the next alarm takes
        self._left = 0  # decisions that the present rung still has
        self._calm = 0  # decisions since a rung ended

    @property
    def rung(self) -> str:
        """The rung that this decision is taken on; "" for none."""
        return self.ladder.rungs[self._next - 1] if self._left else ""

    def step(self, alarm: bool) -> str:
        """The rung of this decision, given whether its score is an alarm."""
        if self._left:
            return self.rung
        self._calm += 1
        if self._calm > self.ladder.memory:
            self._next = 0
        if alarm and self.ladder.rungs:
            # Nothing is left above the last rung: it is taken again.
            self._next = min(self._next + 1, len(self.ladder.rungs))
            self._left, self._calm = self.ladder.patience, 0
        return self.rung

    def done(self) -> bool:
        """Call after the decision was taken; True when its rung has just been spent: the score starts again."""
        if not self._left:
            return False
        self._left -= 1
        return self._left == 0

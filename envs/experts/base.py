"""Scripted, closed-loop experts that make demonstrations. They may look at what a policy cannot (object poses).

A script is a generator: it reads the simulator when it is resumed and yields the next action, so what went wrong since
the last tick is corrected in this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Action = NDArray[np.float64]
Script = Iterator[Action]


@dataclass(frozen=True)
class Style:
    """How one demonstration differs from the next; drawn once an episode, as people differ from day to day.

    speed: share of the fastest motion. side: horizontal offset of the hover point above an object, metres (2,).
    height: of the hover point above the object, metres. turn: which of the symmetric grasps (an integer; each task
    says how many it has). overshoot: how far beyond the grasp point the first try goes, metres. pause: chance of a
    short rest at the end of a motion.
    """

    speed: float
    side: tuple[float, float]
    height: float
    turn: int
    overshoot: float
    pause: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Style:
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.05)
        return cls(
            speed=rng.uniform(0.6, 1.0),
            side=(float(reach * np.cos(angle)), float(reach * np.sin(angle))),
            height=rng.uniform(0.06, 0.12),
            turn=int(rng.integers(4)),
            overshoot=rng.uniform(0.0, 0.004),
            pause=0.15,
        )


@dataclass(frozen=True)
class Actions:
    """What the noise has to know of an environment's actions.

    grippers: their places in an action; never disturbed. targets: whether the rest says where to be, instead of how
    far to move.
    """

    grippers: tuple[int, ...]
    targets: bool


class Expert:
    """One task's script on one env, from reset to reset.

    disturbance: standard deviation of smooth noise that is added to the executed action and not to the recorded one
    (DART, arXiv 1703.09327), in parts of the motion's size: demonstrations then hold corrections.
    """

    def __init__(self, script: Callable[..., Script], actions: Actions, disturbance: float = 0.0) -> None:
        self._make, self._actions, self._disturbance = script, actions, disturbance

    def reset(self, simulator: object, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self._script = self._make(simulator, Style.draw(self._rng), self._rng)
        self._drift: Action | float = 0.0
        self._astray: Action | float = 0.0
        self._last: Action | None = None

    def act(self) -> tuple[Action, Action] | None:
        """(recorded, executed) actions, both (A,); None when the script has nothing more to do."""
        action = next(self._script, None)
        if action is None:
            return None
        executed = action + self._noise(action)
        grippers = list(self._actions.grippers)
        executed[grippers] = action[grippers]
        return action, executed

    def _noise(self, action: Action) -> Action:
        """(A,). In proportion to the motion, as in people (Harris and Wolpert 1998): what is slow is precise."""
        self._drift = 0.8 * self._drift + 0.6 * self._rng.normal(size=action.shape)
        noise = self._disturbance * self._drift
        if not self._actions.targets:
            return noise * np.abs(np.delete(action, self._actions.grippers)).max()
        # Errors of a motion add up in where it leads to, but not in a target: so they are added up here, each joint's
        # for itself because an arm that rests is steady, and forgotten within half a second.
        change = np.abs(action - (action if self._last is None else self._last))
        self._last = action
        astray = 0.95 * self._astray + noise * change
        self._astray = astray
        return astray

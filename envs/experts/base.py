"""Scripted closed-loop experts that make demonstrations. They may use information that a policy does not have.

A script is a generator. When resumed it reads the simulator and yields the next action, so it reacts to errors within a
tick.
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
    """Random variation between demonstrations, drawn once per episode.

    speed: share of the maximum speed. side, height: offset of the hover point above an object, metres, (2,) and scalar.
    turn: index of one of the symmetric grasps. overshoot: distance beyond the grasp point on the first try, metres.
    pause: probability of a short rest at the end of a motion.
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
    """The layout of an environment's actions.

    grippers: indices of gripper entries, to which no noise is added. targets: the others are targets; False: displacements.
    keeps: share of an error in targets that is left after a tick.
    """

    grippers: tuple[int, ...]
    targets: bool
    keeps: float = 0.95


class Expert:
    """The expert of one task.

    disturbance: standard deviation of smooth noise relative to the size of the motion. It is added to the executed action, not
    to the recorded one (DART, arXiv 1703.09327), so that demonstrations contain corrections.
    """

    def __init__(self, script: Callable[..., Script], actions: Actions, disturbance: float = 0.0) -> None:
        self._make, self._actions, self._disturbance = script, actions, disturbance

    def reset(self, simulator: object, seed: int) -> None:
        """Start an episode."""
        self._rng = np.random.default_rng([seed, 1])
        self._script = self._make(simulator, Style.draw(self._rng), self._rng)
        self._drift: Action | float = 0.0
        self._error: Action | float = 0.0
        self._last: Action | None = None

    def act(self) -> tuple[Action, Action] | None:
        """(recorded, executed) actions, both (A,); None when the script has ended."""
        action = next(self._script, None)
        if action is None:
            return None
        executed = action + self._noise(action)
        grippers = list(self._actions.grippers)
        executed[grippers] = action[grippers]
        return action, executed

    def _noise(self, action: Action) -> Action:
        """Noise (A,) proportional to the motion, as in people (Harris and Wolpert 1998): slow motions are precise."""
        self._drift = 0.8 * self._drift + 0.6 * self._rng.normal(size=action.shape)
        noise = self._disturbance * self._drift
        if not self._actions.targets:
            return noise * np.abs(np.delete(action, self._actions.grippers)).max()
        # Errors in displacements accumulate, errors in targets do not. So they are accumulated here, for each joint in
        # proportion to its own motion, and decay within half a second.
        change = np.abs(action - (action if self._last is None else self._last))
        self._last = action
        error = self._actions.keeps * self._error + noise * change
        self._error = error
        return error

"""Scripted, closed-loop experts that make demonstrations. They may look at what a policy cannot (object poses).

A script is a generator: it reads the simulator when it is resumed and yields the next action, so what went wrong since
the last tick is corrected in this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebt_policy.errors import UserError

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


class Expert:
    """One task's script on one env, from reset to reset.

    disturbance: standard deviation of smooth noise that is added to the executed action and not to the recorded one
    (DART, arXiv 1703.09327), in parts of the action's size: demonstrations then hold corrections.
    """

    def __init__(self, script: Callable[..., Script], disturbance: float = 0.0) -> None:
        self._make, self._disturbance = script, disturbance

    def reset(self, simulator: object, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self._script = self._make(simulator, Style.draw(self._rng), self._rng)
        self._drift = 0.0

    def act(self) -> tuple[Action, Action] | None:
        """(recorded, executed) actions, both (A,); None when the script has nothing more to do."""
        action = next(self._script, None)
        if action is None:
            return None
        self._drift = 0.8 * self._drift + 0.6 * self._rng.normal(size=action.shape)
        # In proportion to the motion, as in people (Harris and Wolpert 1998): what is done slowly is done precisely.
        executed = action + self._disturbance * self._drift * np.abs(action[:-1]).max()
        executed[-1] = action[-1]  # never the gripper
        return action, executed


def experts() -> list[str]:
    """Names of the environments that have one."""
    from ebt_policy.envs.experts.robosuite_scripts import SCRIPTS

    return sorted(SCRIPTS)


def expert(env_name: str, disturbance: float = 0.0) -> Expert:
    """The expert of an environment by its name. Raises UserError where there is none."""
    from ebt_policy.envs.experts.robosuite_scripts import SCRIPTS

    if env_name not in SCRIPTS:
        raise UserError(f"There is no expert for '{env_name}'. There are: {', '.join(experts())}.")
    return Expert(SCRIPTS[env_name], disturbance)

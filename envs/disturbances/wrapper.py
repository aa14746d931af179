"""What all disturbances share: a gymnasium wrapper around the time limit. `render` shows the world as it is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbances.exposure import KINDS, Disturbable, Disturbance
from ebt_policy.envs.spec import EnvSpec

WINDOW = (0.25, 0.60)  # when it begins, in parts of a usual episode
STRETCH = 0.20  # how long it lasts, likewise
MOMENT = 0.5  # seconds: of a push, and of an opened gripper
_SUCCESSORS = 0  # the number, beside those of KINDS, of the generator for episodes that are given no seed


class Disturbed(gym.Wrapper):
    """One disturbance in each episode; `disturbance` is the present one.

    The info of `reset` has it as `disturbance_plan`, and all else in that of the world before a disturbance from the
    outset. The info of `step` says whether it acts on this tick (`disturbance`), and whether it should have but found
    no free place (`disturbance_skipped`). Ticks count from 0: the one that executes the first action.
    """

    from_the_outset = False
    disturbance: Disturbance | None = None

    def __init__(self, env: gym.Env, facts: EnvSpec, kind: str, strength: float) -> None:
        super().__init__(env)
        self._facts, self._kind, self._strength = facts, kind, strength
        self._exposure = facts.exposure
        self._seeds = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is None:  # a vector's automatic reset
            seed = int(self._seeds.integers(2**31))
        else:
            self._seeds = np.random.default_rng([seed, _SUCCESSORS])
        self._rng = np.random.default_rng([seed, KINDS[self._kind]])
        self._tick = 0
        self._begin, self._end = self._span()
        self.disturbance = Disturbance(self._kind, self._strength, self._begin, self._end)
        self._prepare(observation)
        if self.from_the_outset:
            observation = self.unwrapped.get_obs()  # type: ignore[attr-defined]
        return observation, info | {"disturbance_plan": asdict(self.disturbance)}

    def step(self, action: NDArray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        due = self._begin <= self._tick < self._end
        action = self._command(action, due)
        acts = due and self._stir()
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation = self._sense(observation, due)
        self._tick += 1
        info = info | {"disturbance": acts, "disturbance_skipped": due and not acts}
        return observation, reward, terminated, truncated, info

    def _span(self) -> tuple[int, int]:
        """(begin, end) in ticks. `begin` is drawn first of all, and so is the same at every strength."""
        if self.from_the_outset:
            return 0, self._facts.max_ticks
        usual = self._facts.usual_ticks
        begin = int(self._rng.integers(round(WINDOW[0] * usual), round(WINDOW[1] * usual) + 1))
        return begin, min(begin + max(1, round(self._length())), self._facts.max_ticks)

    def _length(self) -> float:
        """Ticks."""
        return STRETCH * self._facts.usual_ticks * self._strength

    def _prepare(self, observation: Any) -> None:
        """Draw what the episode needs; whatever acts from the outset is done here."""

    def _command(self, action: NDArray, due: bool) -> NDArray:
        """The action that is executed."""
        return action

    def _stir(self) -> bool:
        """Meddle with the world before a tick of the disturbance. Whether that was possible."""
        return True

    def _sense(self, observation: Any, due: bool) -> Any:
        """The observation that is returned."""
        return observation

    @property
    def _world(self) -> Disturbable:
        return self.unwrapped.disturbable  # type: ignore[attr-defined]

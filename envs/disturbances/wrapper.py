"""The base class of all disturbances: a gymnasium wrapper around the time limit. `render` shows the undisturbed view."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbance_spec import KINDS, Disturbable, Disturbance
from ebt_policy.envs.spec import EnvSpec

WINDOW = (0.25, 0.60)  # earliest and latest begin, as shares of a usual successful episode
DURATION = 0.20  # duration at strength 1, as a share of a usual successful episode
IMPULSE_S = 0.5  # seconds: duration of a push and of an opened gripper
_SUCCESSORS = (
    0  # number of the generator that seeds episodes reset without a seed; no kind has it (see KINDS)
)


class Disturbed(gym.Wrapper):
    """Adds one disturbance to each episode; `disturbance` holds the current one.

    The info of `reset` holds it as `disturbance_plan`. The info of `step` says whether it acted on this tick
    (`disturbance`), and whether it should have acted but found no free place (`disturbance_skipped`). Tick 0 is the tick
    that executes the first action.
    """

    acts_at_reset = False  # True: applied once, at the reset, and in effect for the whole episode
    disturbance: Disturbance | None = None

    def __init__(self, env: gym.Env, spec: EnvSpec, kind: str, strength: float) -> None:
        super().__init__(env)
        self._env_spec, self._kind, self._strength = spec, kind, strength
        self._sizes = spec.disturbances
        self._seeds = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is None:  # the automatic reset of a vector environment
            seed = int(self._seeds.integers(2**31))
        else:
            self._seeds = np.random.default_rng([seed, _SUCCESSORS])
        self._rng = np.random.default_rng([seed, KINDS[self._kind]])
        self._tick = 0
        self._begin, self._end = self._span()
        self.disturbance = Disturbance(self._kind, self._strength, self._begin, self._end)
        self._prepare(observation)
        if self.acts_at_reset:
            observation = self.unwrapped.get_obs()  # type: ignore[attr-defined]
        return observation, info | {"disturbance_plan": asdict(self.disturbance)}

    def step(self, action: NDArray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        due = self._begin <= self._tick < self._end
        action = self._command(action, due)
        acted = due and self._act()
        observation, reward, terminated, truncated, info = self.env.step(action)
        observation = self._observe(observation, due)
        self._tick += 1
        info = info | {"disturbance": acted, "disturbance_skipped": due and not acted}
        return observation, reward, terminated, truncated, info

    def _span(self) -> tuple[int, int]:
        """(begin, end) in ticks. `begin` is drawn first, so it is the same at every strength."""
        if self.acts_at_reset:
            return 0, self._env_spec.max_ticks
        usual = self._env_spec.usual_ticks
        begin = int(self._rng.integers(round(WINDOW[0] * usual), round(WINDOW[1] * usual) + 1))
        return begin, min(begin + max(1, round(self._duration())), self._env_spec.max_ticks)

    def _duration(self) -> float:
        """Duration in ticks."""
        return DURATION * self._env_spec.usual_ticks * self._strength

    def _prepare(self, observation: Any) -> None:
        """Draw the random numbers of the episode; disturbances that act at the reset act here."""

    def _command(self, action: NDArray, due: bool) -> NDArray:
        """The action that is executed instead of `action`."""
        return action

    def _act(self) -> bool:
        """Change the simulated world before a tick of the disturbance. Returns whether that was possible."""
        return True

    def _observe(self, observation: Any, due: bool) -> Any:
        """The observation that is returned instead of `observation`."""
        return observation

    @property
    def _world(self) -> Disturbable:
        return self.unwrapped.disturbable  # type: ignore[attr-defined]

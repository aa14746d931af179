"""Disturbances of what passes between a policy and the world: commands and observations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbances.wrapper import MOMENT, Disturbed

LATE = 0.3  # seconds
LOST = 0.5  # chance of an action
PIXEL_NOISE = 25.0  # of 255
WORLD = ("pixels", "environment_state")  # of an observation: what is seen of the world


class _Commanding(Disturbed):
    """What is executed is not what was sent."""

    def _prepare(self, observation: Any) -> None:
        self._sent: list[NDArray] = []
        self._executed: NDArray | None = None

    def _command(self, action: NDArray, due: bool) -> NDArray:
        self._sent.append(np.array(action))  # a worker's memory for actions is used again
        self._executed = self._received() if due else self._sent[-1]
        return self._executed if due else action

    def _received(self) -> NDArray:
        """The action (A,) that takes effect on this tick of the disturbance."""
        raise NotImplementedError

    def _nothing(self) -> NDArray:
        """(A,): what an arm does without a command."""
        if self._executed is None:  # so short an episode that it begins with the disturbance
            return self._sent[-1]
        if self._exposure.absolute:
            return self._executed
        rest = np.zeros_like(self._executed)
        grippers = list(self._exposure.grippers)
        rest[grippers] = self._executed[grippers]
        return rest


class OpenGripper(_Commanding):
    def _length(self) -> float:
        return MOMENT * self._facts.fps * self._strength

    def _received(self) -> NDArray:
        action = self._sent[-1].copy()
        action[list(self._exposure.grippers)] = self._exposure.open_gripper
        return action


class Delay(_Commanding):
    def _received(self) -> NDArray:
        sent_at = self._tick - max(1, round(LATE * self._facts.fps * self._strength))
        return self._sent[sent_at] if sent_at >= self._begin else self._nothing()


class Drop(_Commanding):
    def _prepare(self, observation: Any) -> None:
        super()._prepare(observation)
        self._lost = self._rng.random(self._end - self._begin) < LOST * self._strength

    def _received(self) -> NDArray:
        return self._nothing() if self._lost[self._tick - self._begin] else self._sent[-1]


class _Sensing(Disturbed):
    """What is seen of the world is not as it is."""

    def _prepare(self, observation: Any) -> None:
        self._last = observation

    def _sense(self, observation: Any, due: bool) -> Any:
        if not due:
            self._last = observation
            return observation
        return observation | {
            name: self._corrupt(name, observation[name]) for name in WORLD if name in observation
        }

    def _corrupt(self, name: str, seen: Any) -> Any:
        """What is seen instead, of the same shape: pixels (H, W, 3) or {camera: (H, W, 3)}, poses (E,)."""
        raise NotImplementedError


class Noise(_Sensing):
    def _corrupt(self, name: str, seen: Any) -> Any:
        return _each(lambda value: self._noisy(name, value), seen)

    def _noisy(self, name: str, value: NDArray) -> NDArray:
        size = PIXEL_NOISE if name == "pixels" else np.array(self._exposure.noise)
        noisy = value + self._strength * size * self._rng.normal(size=value.shape)
        if name == "pixels":
            return np.clip(noisy.round(), 0, 255).astype(np.uint8)
        space: Any = self.observation_space
        return np.clip(noisy, space[name].low, space[name].high)


class Freeze(_Sensing):
    def _corrupt(self, name: str, seen: Any) -> Any:
        return _each(np.copy, self._last[name])


class Blackout(_Sensing):
    def _corrupt(self, name: str, seen: Any) -> Any:
        return _each(np.zeros_like, seen)


def _each(function: Callable[[NDArray], NDArray], seen: Any) -> Any:
    """An array's or each camera's."""
    if isinstance(seen, dict):
        return {name: function(value) for name, value in seen.items()}
    return function(seen)


KINDS_OF_SIGNAL: dict[str, type[Disturbed]] = {
    "gripper": OpenGripper,
    "delay": Delay,
    "drop": Drop,
    "noise": Noise,
    "freeze": Freeze,
    "blackout": Blackout,
}

"""Disturbances of the actions and observations between a policy and the world."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.disturbances.wrapper import IMPULSE_S, Disturbed

DELAY_S = 0.3  # seconds
DROP_CHANCE = 0.5  # of each action
PIXEL_NOISE = 25.0  # standard deviation, of 255
WORLD = ("pixels", "environment_state")  # the observations that are disturbed; the robot's own state is not


class _ActionDisturbance(Disturbed):
    """Another action is executed than the one that was sent."""

    def _prepare(self, observation: Any) -> None:
        self._sent: list[NDArray] = []
        self._executed: NDArray | None = None

    def _command(self, action: NDArray, due: bool) -> NDArray:
        self._sent.append(np.array(action))  # a copy: vector environments reuse the memory of actions
        self._executed = self._received() if due else self._sent[-1]
        return self._executed if due else action

    def _received(self) -> NDArray:
        """The action (A,) to execute on this tick of the disturbance."""
        raise NotImplementedError

    def _no_command(self) -> NDArray:
        """The action (A,) of an arm that receives nothing: repeat a target, or do not move and keep the grip."""
        if self._executed is None:  # the disturbance begins on the first tick
            return self._sent[-1]
        if self._sizes.absolute_actions:
            return self._executed
        rest = np.zeros_like(self._executed)
        grippers = list(self._sizes.grippers)
        rest[grippers] = self._executed[grippers]
        return rest


class OpenGripper(_ActionDisturbance):
    def _duration(self) -> float:
        return IMPULSE_S * self._env_spec.fps * self._strength

    def _received(self) -> NDArray:
        action = self._sent[-1].copy()
        action[list(self._sizes.grippers)] = self._sizes.open_gripper
        return action


class Delay(_ActionDisturbance):
    def _received(self) -> NDArray:
        sent_at = self._tick - max(1, round(DELAY_S * self._env_spec.fps * self._strength))
        return self._sent[sent_at] if sent_at >= self._begin else self._no_command()


class Drop(_ActionDisturbance):
    def _prepare(self, observation: Any) -> None:
        super()._prepare(observation)
        self._dropped = self._rng.random(self._end - self._begin) < DROP_CHANCE * self._strength

    def _received(self) -> NDArray:
        return self._no_command() if self._dropped[self._tick - self._begin] else self._sent[-1]


class _ObservationDisturbance(Disturbed):
    """Cameras and poses of objects are observed otherwise than they are."""

    def _prepare(self, observation: Any) -> None:
        self._last = observation

    def _observe(self, observation: Any, due: bool) -> Any:
        if not due:
            self._last = observation
            return observation
        return observation | {
            name: self._corrupt(name, observation[name]) for name in WORLD if name in observation
        }

    def _corrupt(self, name: str, seen: Any) -> Any:
        """The disturbed value, of the same shape: pixels (H, W, 3) or {camera: (H, W, 3)}, poses (E,)."""
        raise NotImplementedError


class Noise(_ObservationDisturbance):
    def _corrupt(self, name: str, seen: Any) -> Any:
        return _map_arrays(lambda value: self._noisy(name, value), seen)

    def _noisy(self, name: str, value: NDArray) -> NDArray:
        size = PIXEL_NOISE if name == "pixels" else np.array(self._sizes.noise)
        noisy = value + self._strength * size * self._rng.normal(size=value.shape)
        if name == "pixels":
            return np.clip(noisy.round(), 0, 255).astype(np.uint8)
        space: Any = self.observation_space
        return np.clip(noisy, space[name].low, space[name].high)


class Freeze(_ObservationDisturbance):
    def _corrupt(self, name: str, seen: Any) -> Any:
        return _map_arrays(np.copy, self._last[name])


class Blackout(_ObservationDisturbance):
    def _corrupt(self, name: str, seen: Any) -> Any:
        return _map_arrays(np.zeros_like, seen)


def _map_arrays(function: Callable[[NDArray], NDArray], seen: Any) -> Any:
    """The function of one array, or of each camera's array."""
    if isinstance(seen, dict):
        return {name: function(value) for name, value in seen.items()}
    return function(seen)


SIGNAL_DISTURBANCES: dict[str, type[Disturbed]] = {
    "gripper": OpenGripper,
    "delay": Delay,
    "drop": Drop,
    "noise": Noise,
    "freeze": Freeze,
    "blackout": Blackout,
}

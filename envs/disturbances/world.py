"""Disturbances of the simulated world: objects are moved, or their mass or friction changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebt_policy.envs.disturbance_spec import Region, Vector
from ebt_policy.envs.disturbances.wrapper import IMPULSE_S, Disturbed

CANDIDATES = 16  # random places to try; if none is free, the object is not moved


class _Displacement(Disturbed):
    """Moves one object to the first free place among some random candidates."""

    def _prepare(self, observation: Any) -> None:
        names = self._sizes.targets if self._kind == "target" else tuple(self._sizes.regions)
        self._name = names[int(self._rng.integers(len(names)))]
        self._home = self._world.position(self._name)
        angles = self._rng.uniform(-np.pi, np.pi, CANDIDATES)
        self._turns = self._rng.uniform(-1, 1, CANDIDATES) * self._sizes.turn * self._strength
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self._shifts = directions * self._sizes.shift * self._strength  # (candidates, 2)

    def _move(self, to: Vector, turn: float, settle: bool = True) -> bool:
        return _inside(to, self._sizes.workspace) and self._world.displace(self._name, to, turn, settle)


class Teleport(_Displacement):
    """Moves an object or a target in one tick.

    If no place around the object is free (an arm carries it outside of the workspace, say), a place around its start
    position is used.
    """

    def _duration(self) -> float:
        return 1

    def _act(self) -> bool:
        return any(
            self._move(origin + shift, turn)
            for origin in (self._world.position(self._name), self._home)
            for shift, turn in zip(self._shifts, self._turns, strict=True)
        )


class Push(_Displacement):
    """Moves an object a little on each tick, in the first free direction. An obstacle in its way stops it."""

    _chosen: int | None

    def _duration(self) -> float:
        return IMPULSE_S * self._env_spec.fps

    def _prepare(self, observation: Any) -> None:
        super()._prepare(observation)
        self._chosen = None

    def _act(self) -> bool:
        here, ticks = self._world.position(self._name), self._end - self._begin
        for index in range(CANDIDATES) if self._chosen is None else [self._chosen]:
            ahead = self._shifts[index] * (1 if self._chosen is None else 1 / ticks)
            if _inside(here + ahead, self._sizes.workspace) and self._move(
                here + self._shifts[index] / ticks, self._turns[index] / ticks, settle=False
            ):
                self._chosen = index
                return True
        return False


class Start(_Displacement):
    """Starts an object outside of its training region, `start_margin` away from it."""

    acts_at_reset = True

    def _prepare(self, observation: Any) -> None:
        super()._prepare(observation)
        margin = self._sizes.start_margin * self._strength
        places = _on_edge(self._sizes.regions[self._name], margin, self._rng)
        self._placed = any(self._move(place, 0.0) for place in places)

    def _act(self) -> bool:
        return self._placed


class ChangePhysics(Disturbed):
    """Changes mass or friction."""

    acts_at_reset = True

    def _prepare(self, observation: Any) -> None:
        self._world.alter(self._kind, self._strength)


def _inside(point: Vector, region: Region) -> bool:
    return bool(region[0] <= point[0] <= region[1] and region[2] <= point[1] <= region[3])


def _on_edge(region: Region, margin: float, rng: np.random.Generator) -> list[Vector]:
    """Points (2,) drawn uniformly from the boundary of the region enlarged by `margin` on all sides."""
    left, right, low, high = region[0] - margin, region[1] + margin, region[2] - margin, region[3] + margin
    width, depth = right - left, high - low
    points = []
    for distance in rng.random(CANDIDATES) * 2 * (width + depth):
        if distance < 2 * width:
            points.append(np.array([left + distance % width, low if distance < width else high]))
        else:
            distance -= 2 * width
            points.append(np.array([left if distance < depth else right, low + distance % depth]))
    return points


WORLD_DISTURBANCES: dict[str, type[Disturbed]] = {
    "push": Push,
    "teleport": Teleport,
    "start": Start,
    "mass": ChangePhysics,
    "friction": ChangePhysics,
    "target": Teleport,
}

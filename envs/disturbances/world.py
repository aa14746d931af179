"""Disturbances of the world itself: objects are moved, or weigh and slide differently."""

from __future__ import annotations

from typing import Any

import numpy as np

from ebt_policy.envs.disturbances.exposure import Region, Vector
from ebt_policy.envs.disturbances.wrapper import MOMENT, Disturbed

CANDIDATES = 16  # places to try before a displacement is given up


class _Displacing(Disturbed):
    """One object is moved to the first of some drawn places that is free."""

    def _prepare(self, observation: Any) -> None:
        names = self._exposure.targets if self._kind == "target" else tuple(self._exposure.regions)
        self._name = names[int(self._rng.integers(len(names)))]
        self._home = self._world.position(self._name)
        angles = self._rng.uniform(-np.pi, np.pi, CANDIDATES)
        self._turns = self._rng.uniform(-1, 1, CANDIDATES) * self._exposure.turn * self._strength
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self._shifts = directions * self._exposure.shift * self._strength  # (candidates, 2)

    def _move(self, to: Vector, turn: float, settle: bool = True) -> bool:
        return _inside(to, self._exposure.workspace) and self._world.displace(self._name, to, turn, settle)


class Teleport(_Displacing):
    """Also of targets. Where no place around the object is free (it is carried across a wall, say), one around its
    start is taken.
    """

    def _length(self) -> float:
        return 1

    def _stir(self) -> bool:
        return any(
            self._move(origin + shift, turn)
            for origin in (self._world.position(self._name), self._home)
            for shift, turn in zip(self._shifts, self._turns, strict=True)
        )


class Push(_Displacing):
    """A little at each tick, in the first direction that is free; what gets into its way holds it up."""

    _chosen: int | None

    def _length(self) -> float:
        return MOMENT * self._facts.fps

    def _prepare(self, observation: Any) -> None:
        super()._prepare(observation)
        self._chosen = None

    def _stir(self) -> bool:
        here, ticks = self._world.position(self._name), self._end - self._begin
        for index in range(CANDIDATES) if self._chosen is None else [self._chosen]:
            ahead = self._shifts[index] * (1 if self._chosen is None else 1 / ticks)
            if _inside(here + ahead, self._exposure.workspace) and self._move(
                here + self._shifts[index] / ticks, self._turns[index] / ticks, settle=False
            ):
                self._chosen = index
                return True
        return False


class Start(_Displacing):
    """On the edge of the training region, grown on all sides."""

    from_the_outset = True

    def _prepare(self, observation: Any) -> None:
        super()._prepare(observation)
        margin = self._exposure.beyond * self._strength
        places = _on_edge(self._exposure.regions[self._name], margin, self._rng)
        self._placed = any(self._move(place, 0.0) for place in places)

    def _stir(self) -> bool:
        return self._placed


class Alter(Disturbed):
    from_the_outset = True

    def _prepare(self, observation: Any) -> None:
        self._world.alter(self._kind, self._strength)


def _inside(point: Vector, region: Region) -> bool:
    return bool(region[0] <= point[0] <= region[1] and region[2] <= point[1] <= region[3])


def _on_edge(region: Region, margin: float, rng: np.random.Generator) -> list[Vector]:
    """Points (2,) drawn evenly from the edge of the region grown by `margin` on all sides."""
    left, right, low, high = region[0] - margin, region[1] + margin, region[2] - margin, region[3] + margin
    width, depth = right - left, high - low
    points = []
    for way in rng.random(CANDIDATES) * 2 * (width + depth):
        if way < 2 * width:
            points.append(np.array([left + way % width, low if way < width else high]))
        else:
            way -= 2 * width
            points.append(np.array([left if way < depth else right, low + way % depth]))
    return points


KINDS_OF_WORLD: dict[str, type[Disturbed]] = {
    "push": Push,
    "teleport": Teleport,
    "start": Start,
    "mass": Alter,
    "friction": Alter,
    "target": Teleport,
}

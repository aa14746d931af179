"""The kinds of disturbance, and what an environment says of those that it can have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Region = tuple[float, float, float, float]  # least x, most x, least y, most y
Vector = NDArray[np.float64]

# kind -> its number in the seed of its generator; never another kind's, or its disturbances would be others.
KINDS = {
    "push": 1,
    "teleport": 2,
    "gripper": 3,
    "delay": 4,
    "drop": 5,
    "noise": 6,
    "freeze": 7,
    "blackout": 8,
    "start": 9,
    "mass": 10,
    "friction": 11,
    "target": 12,
}


@dataclass(frozen=True)
class Disturbance:
    """What happens in one episode: it acts on the ticks from `begin` up to and without `end`."""

    kind: str
    strength: float
    begin: int
    end: int


@dataclass(frozen=True)
class Exposure:
    """What can befall an environment, and what a strength of 1 is there. Metres and radians; PushT: its pixels.

    regions: object -> where training starts it; one of them is drawn for an episode.
    targets: what the task is about and can be moved; one is drawn likewise. workspace: where either may be put.
    shift, turn: how far an object is moved, and the most that it is turned meanwhile.
    beyond: how far outside of its region it starts.
    noise (E,): standard deviations of the poses of objects.
    absolute: actions are targets. grippers: their places in an action; open_gripper: the command that opens one.
    refused: kind -> why it cannot be.
    """

    regions: dict[str, Region]
    workspace: Region
    targets: tuple[str, ...]
    shift: float
    turn: float
    beyond: float
    noise: tuple[float, ...]
    absolute: bool
    grippers: tuple[int, ...]
    open_gripper: float
    refused: dict[str, str]

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(kind for kind in KINDS if kind not in self.refused)


class Disturbable(Protocol):
    """A simulator's side of it. `name`: an object or a target of its Exposure."""

    def position(self, name: str) -> Vector:
        """(2,): x and y of the object's origin."""

    def displace(self, name: str, to: Vector, turn: float, settle: bool) -> bool:
        """Put the object's origin at `to` (2,), turned by `turn` about the vertical. False, and all is as it was, where
        it would be inside of something.

        settle: it comes to rest there upright; otherwise it keeps its height, its tilt and its velocity.
        """

    def alter(self, quantity: str, strength: float) -> None:
        """`mass` or `friction`, up to the next reset."""

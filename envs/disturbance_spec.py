"""Which disturbances an environment allows and how large they are; no simulator is needed to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Region = tuple[float, float, float, float]  # x min, x max, y min, y max
Vector = NDArray[np.float64]

# Kind -> its number in the seed of its random generator. Never change or reuse a number: the episodes would change.
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
    """The disturbance of one episode. It acts on the ticks begin <= tick < end."""

    kind: str
    strength: float
    begin: int
    end: int


@dataclass(frozen=True)
class DisturbanceSpec:
    """The disturbances of one environment at strength 1. Metres and radians; for PushT pixels and radians.

    regions: object -> region where it starts in training; each episode draws one object to disturb.
    workspace: region in which an object or target may be placed. targets: movable goal bodies (kind `target`).
    shift: distance that an object is moved. turn: largest rotation about the vertical while it is moved.
    start_margin: distance outside of its region at which an object starts (kind `start`).
    noise (E,): standard deviation of each entry of the environment state.
    absolute_actions: actions are joint or position targets; False: they are displacements.
    grippers: indices of the gripper entries in an action. open_gripper: the command that opens one.
    refused: kind -> why this environment cannot have it.
    """

    regions: dict[str, Region]
    workspace: Region
    targets: tuple[str, ...]
    shift: float
    turn: float
    start_margin: float
    noise: tuple[float, ...]
    absolute_actions: bool
    grippers: tuple[int, ...]
    open_gripper: float
    refused: dict[str, str]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that this environment can have."""
        return tuple(kind for kind in KINDS if kind not in self.refused)

    @property
    def largest_start(self) -> float:
        """Above this strength of `start` some object has no place: its enlarged region lies around the workspace."""
        left, right, low, high = self.workspace
        room = [
            max(r[0] - left, right - r[1], r[2] - low, high - r[3]) / self.start_margin
            for r in self.regions.values()
        ]
        return min(room, default=0.0)


class Disturbable(Protocol):
    """What a simulator offers to disturbances. `name` is an object or a target of its DisturbanceSpec."""

    def position(self, name: str) -> Vector:
        """x and y of the object's origin, shape (2,)."""
        ...

    def displace(self, name: str, to: Vector, turn: float, settle: bool) -> bool:
        """Move the object's origin to `to` (2,) and turn it by `turn` radians about the vertical.

        settle: stand it upright, at rest. Otherwise it keeps its height, tilt and velocity. Returns False and changes
        nothing if the object would overlap something there.
        """
        ...

    def alter(self, quantity: str, strength: float) -> None:
        """Change `mass` or `friction` until the next reset."""
        ...

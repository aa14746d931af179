"""What can befall an episode: `ENV+KIND` or `ENV+KIND:STRENGTH` wherever an environment is named.

A disturbance depends on the episode's seed, its kind and its strength alone, never on what was done before it
begins: in a paired comparison every policy meets the same one at the same tick.

    push      an object is shoved over half a second
    teleport  an object is moved at once; one that is held is knocked out of the hand
    gripper   every gripper is forced open for half a second times the strength
    delay     actions arrive .3 s times the strength late: none until the first has come; those overtaken are lost
    drop      each action is lost with a chance of one half times the strength
    noise     what is seen of the world is noisy
    freeze    what is seen of the world stays as it was
    blackout  nothing is seen of the world: cameras are black and poses of objects zero
    start     from the outset: an object lies just outside the region that training starts it in
    mass      from the outset: objects are heavier
    friction  from the outset: contacts have another friction
    target    the place that the task is about is moved at once

delay, drop, noise, freeze and blackout last a fifth of a usual episode times the strength. For an action that does
not arrive the last one is repeated where actions are targets; where they are displacements, the arm rests and keeps
its grip. "What is seen of the world" is cameras and poses of objects; what the robot feels of itself stays live and
exact.

PushT's keypoints and the nut tasks' states say nothing of the target: a policy without cameras cannot recover from
`target` there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs import EnvSpec, environment
from ebt_policy.errors import UserError

if TYPE_CHECKING:
    import gymnasium as gym

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


def disturbances(env_name: str) -> list[str]:
    """The kinds that are possible in an environment. Raises UserError for an unknown one."""
    return list(environment(env_name).exposure.kinds)


def parse(spec: EnvSpec, text: str) -> tuple[str, float]:
    """(kind, strength) of "KIND" or "KIND:STRENGTH". Raises UserError where `spec` cannot have it."""
    kind, colon, number = text.partition(":")
    possible = f"Choose one of: {', '.join(spec.exposure.kinds)}."
    if kind not in KINDS:
        raise UserError(f"Unknown disturbance '{kind}' of {spec.name}. {possible}")
    if kind in spec.exposure.refused:
        raise UserError(f"{spec.name} cannot have '{kind}': {spec.exposure.refused[kind]}. {possible}")
    try:
        strength = float(number) if colon else 1.0
    except ValueError:
        strength = math.nan
    if not 0 < strength < math.inf:
        raise UserError(
            f"The strength of the disturbance '{text}' is '{number}'; it has to be a number above 0. Leave it out "
            "for 1, which is clear but recoverable."
        )
    return kind, strength


def disturbed(spec: EnvSpec, text: str) -> EnvSpec:
    """`spec` with the disturbance "KIND" or "KIND:STRENGTH" in each of its episodes."""
    kind, strength = parse(spec, text)
    with_cameras = spec.make_with_cameras
    return dataclasses.replace(
        spec,
        name=f"{spec.name}+{text}",
        make=lambda render: _wrap(spec.make(render), spec, kind, strength),
        make_with_cameras=with_cameras
        and (lambda names, size: _wrap(with_cameras(names, size), spec, kind, strength)),
    )


def make_disturbed(make: Callable[[], gym.Env], env_name: str, text: str) -> gym.Env:
    """An env from `make` with a disturbance. At module level, so that worker processes can import it."""
    spec = environment(env_name)
    return _wrap(make(), spec, *parse(spec, text))


def _wrap(env: gym.Env, spec: EnvSpec, kind: str, strength: float) -> gym.Env:
    from ebt_policy.envs.disturbed_signals import KINDS_OF_SIGNAL
    from ebt_policy.envs.disturbed_world import KINDS_OF_WORLD

    return (KINDS_OF_WORLD | KINDS_OF_SIGNAL)[kind](env, spec, kind, strength)

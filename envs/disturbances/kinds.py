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
from typing import TYPE_CHECKING

from ebt_policy.envs.disturbances.exposure import KINDS
from ebt_policy.envs.disturbances.signals import KINDS_OF_SIGNAL
from ebt_policy.envs.disturbances.world import KINDS_OF_WORLD
from ebt_policy.envs.spec import EnvSpec
from ebt_policy.errors import UserError

if TYPE_CHECKING:
    import gymnasium as gym


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
        make=lambda render: wrap(spec.make(render), spec, kind, strength),
        make_with_cameras=with_cameras
        and (lambda names, size: wrap(with_cameras(names, size), spec, kind, strength)),
    )


def wrap(env: gym.Env, spec: EnvSpec, kind: str, strength: float) -> gym.Env:
    return (KINDS_OF_WORLD | KINDS_OF_SIGNAL)[kind](env, spec, kind, strength)

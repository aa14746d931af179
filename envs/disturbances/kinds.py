"""Disturbed environments by name: `ENV+KIND` or `ENV+KIND:STRENGTH` wherever an environment is named.

A disturbance depends only on the episode's seed, its kind and its strength. It does not depend on the actions before it
begins, so in a paired comparison every policy meets the same disturbance at the same tick.

    push      an object is moved steadily for half a second
    teleport  an object is moved in one tick; a held object is knocked out of the hand
    gripper   every gripper is forced open for half a second x strength
    delay     actions arrive .3 s x strength late; no action arrives before the first late one
    drop      each action is lost with probability .5 x strength
    noise     noise on cameras and object poses
    freeze    cameras and object poses keep their last value
    blackout  cameras are black and object poses zero
    start     from the reset on: an object lies just outside the region where training starts it
    mass      from the reset on: objects are heavier
    friction  from the reset on: contacts have another friction
    target    the goal body of the task is moved in one tick

delay, drop, noise, freeze and blackout last a fifth of a usual episode x strength. When an action does not arrive, the
last one is repeated if actions are targets; if they are displacements, the arm stands still and keeps its grip. noise,
freeze and blackout never change the robot's own state.

The observations of pusht_keypoints and of the nut tasks do not contain the target: a policy without cameras cannot
recover from `target` there.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from ebt_policy.envs.disturbance_spec import KINDS
from ebt_policy.envs.disturbances.signals import SIGNAL_DISTURBANCES
from ebt_policy.envs.disturbances.world import WORLD_DISTURBANCES
from ebt_policy.envs.spec import EnvSpec
from ebt_policy.errors import UserError

if TYPE_CHECKING:
    import gymnasium as gym


def parse(spec: EnvSpec, text: str) -> tuple[str, float]:
    """(kind, strength) of "KIND" or "KIND:STRENGTH". Raises UserError if the environment cannot have it."""
    kind, colon, number = text.partition(":")
    possible = f"Choose one of: {', '.join(spec.disturbances.kinds)}."
    if kind not in KINDS:
        raise UserError(f"Unknown disturbance '{kind}' of {spec.name}. {possible}")
    if kind in spec.disturbances.refused:
        raise UserError(f"{spec.name} cannot have '{kind}': {spec.disturbances.refused[kind]}. {possible}")
    try:
        strength = float(number) if colon else 1.0
    except ValueError:
        strength = math.nan
    if not 0 < strength < math.inf:
        raise UserError(
            f"The strength of the disturbance '{text}' is '{number}'; it has to be a number above 0. The default is 1."
        )
    if kind == "start" and strength > spec.disturbances.largest_start:
        raise UserError(
            f"{spec.name} cannot have '{text}': an object would start outside of the workspace. The largest strength of 'start' here is "
            f"{math.floor(100 * spec.disturbances.largest_start) / 100:g}."
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
    """The env with the disturbance; `parse` has checked the kind."""
    return (WORLD_DISTURBANCES | SIGNAL_DISTURBANCES)[kind](env, spec, kind, strength)

"""The environments by name, with or without a disturbance."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from ebt_policy.envs.disturbances.kinds import disturbed, parse, wrap
from ebt_policy.envs.spec import EnvSpec
from ebt_policy.errors import UserError

if TYPE_CHECKING:
    import gymnasium as gym

_MODULES = {  # name -> module with SPECS[name]
    "adroit_door": "adroit",
    "metaworld_mt10": "metaworld",
    "metaworld_mt50": "metaworld",
    "pusht_keypoints": "pusht",
    "pusht_pixels": "pusht",
    "aloha_transfer_cube": "aloha",
    "aloha_insertion": "aloha",
    "robosuite_lift": "robosuite_tasks",
    "robosuite_stack": "robosuite_tasks",
    "robosuite_pickplacecan": "robosuite_tasks",
    "robosuite_nutassemblysquare": "robosuite_tasks",
    "robosuite_nutassembly": "robosuite_tasks",
    "robosuite_pickplace": "robosuite_tasks",
    "robosuite_door": "robosuite_tasks",
    "robosuite_toolhang": "robosuite_tasks",
}


def environment(name: str) -> EnvSpec:
    """The environment called `name`; "NAME+KIND" and "NAME+KIND:STRENGTH" add a disturbance (see disturbances.kinds).

    metaworld_<task> is one of Meta-World's 50 tasks. Raises UserError for an unknown name.
    """
    name, plus, disturbance = name.partition("+")
    if name not in _MODULES and name.startswith("metaworld_"):
        from ebt_policy.envs.metaworld import spec_of

        spec = spec_of(name)
        return disturbed(spec, disturbance) if plus else spec
    if name not in _MODULES:
        raise UserError(f"Unknown environment '{name}'. Choose one of: {', '.join(environments())}.")
    spec = importlib.import_module(f"ebt_policy.envs.{_MODULES[name]}").SPECS[name]
    if not plus:
        return spec
    return disturbed(spec, disturbance)


def environments() -> list[str]:
    """The names of all environments, without disturbances, and without the single tasks of Meta-World."""
    return sorted(_MODULES)


def disturbances(env_name: str) -> list[str]:
    """The kinds of disturbance that an environment can have. Raises UserError for an unknown environment."""
    return list(environment(env_name).disturbances.kinds)


def make_disturbed(make: Callable[[], gym.Env], env_name: str, text: str) -> gym.Env:
    """An env from `make` with the disturbance `text`. At module level, so that worker processes can import it."""
    spec = environment(env_name)
    return wrap(make(), spec, *parse(spec, text))

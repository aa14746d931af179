"""The experts by environment name."""

from __future__ import annotations

from collections.abc import Callable

from ebt_policy.envs.experts.base import Actions, Expert, Script
from ebt_policy.errors import UserError


def experts() -> list[str]:
    """Names of the environments that have an expert."""
    return sorted(_registry())


def expert(env_name: str, disturbance: float = 0.0) -> Expert:
    """The expert of an environment by its name. Raises UserError if it has none."""
    registry = _registry()
    if env_name not in registry:
        raise UserError(f"There is no expert for '{env_name}'. There are: {', '.join(sorted(registry))}.")
    return Expert(*registry[env_name], disturbance)


def _registry() -> dict[str, tuple[Callable[..., Script], Actions]]:
    from ebt_policy.envs.experts import aloha_scripts, metaworld_scripts, pusht_scripts, robosuite_scripts

    return {
        **{name: (script, Actions((6,), False)) for name, script in robosuite_scripts.SCRIPTS.items()},
        **{name: (script, Actions((6, 13), True)) for name, script in aloha_scripts.SCRIPTS.items()},
        # Ten ticks a second: an error decays within as many seconds as with ALOHA's fifty.
        **{name: (script, Actions((), True, 0.75)) for name, script in pusht_scripts.SCRIPTS.items()},
        **{name: (script, Actions((3,), False)) for name, script in metaworld_scripts.SCRIPTS.items()},
    }

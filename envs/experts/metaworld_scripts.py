"""Meta-World's own scripted policies as experts: of one task, or of the task that the seed has chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ebt_policy.envs.experts.base import Script, Style
from ebt_policy.envs.metaworld import PREFIX, TASKS, package_name


def scripted(simulator: Any, style: Style, rng: np.random.Generator) -> Script:
    """The package's policy of the simulator's present task, until the time limit. It has no style of its own."""
    import warnings

    from metaworld.policies import ENV_POLICY_MAP

    made: Any = ENV_POLICY_MAP[package_name(simulator.task)]  # declared as abstract
    policy = made()
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its constants are high: what it asks for is clipped
            action = policy.get_action(simulator.observed)
        yield np.clip(np.asarray(action, np.float64), -1, 1)


SCRIPTS: dict[str, Callable[[Any, Style, np.random.Generator], Script]] = {
    f"{PREFIX}{task}": scripted for task in TASKS
}

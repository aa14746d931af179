"""Optional dependencies: which extra of this package to install for a module that is missing."""

import importlib.metadata
import re

from ebt_policy.errors import UserError

PACKAGE = "lerobot_policy_ebt"
# Module -> distribution, where the names differ.
DISTRIBUTIONS = {
    "rerun": "rerun-sdk",
    "scservo_sdk": "feetech-servo-sdk",
    "gym_aloha": "gym-aloha",
    "gymnasium_robotics": "gymnasium-robotics",
    "OpenGL": "mujoco",
}


def missing_extra(module: str, needed_for: str = "This") -> UserError:
    """The error that says how to install `module`, by the extra that holds it where there is one."""
    name = module.split(".")[0]
    distribution = DISTRIBUTIONS.get(name, name)
    extra = _extra_of(distribution)
    install = f"'{PACKAGE}[{extra}]'" if extra else distribution
    return UserError(f"{needed_for} needs {name}, which is not installed: pip install {install}")


def _extra_of(distribution: str) -> str | None:
    """The first extra that requires this distribution, None where none does."""
    wanted = _normalised(distribution)
    for requirement in importlib.metadata.requires(PACKAGE) or []:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra and _normalised(name[0]) == wanted and extra[1] != "dev":
            return extra[1]
    return None


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

"""What a checkpoint's JSON files may name. LeRobot imports and calls what they say, before it looks at what that is.

Light to import: neither torch nor LeRobot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from ebt_policy.errors import UserError

PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
# LeRobot loads these with trust_remote_code: they run Python files of the repository on the Hub that the checkpoint names.
STEPS_WITH_CODE = ("action_tokenizer_processor", "groot_n1_7_vlm_encode_v1")
POLICIES_WITH_CODE = ("gaussian_actor", "groot", "pi0_fast", "wall_x")


def check_files(folder: Path) -> None:
    """Raises UserError where config.json or a processor of the checkpoint in `folder` could run a program or leave the folder.

    A processor's steps must be registered ones, and their state files lie beside it; neither they nor the policy may be of a
    kind that runs code from the Hub.
    """
    kind = _read(folder / "config.json").get("type")
    if kind in POLICIES_WITH_CODE:
        raise _refused(
            folder / "config.json", f"a policy of type '{kind}' runs code that it names on the Hub"
        )
    for name in PROCESSORS:
        steps = _read(folder / name).get("steps")
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise UserError(f"{folder / name} is no processor: expected a list of steps.")
        for step in steps:
            _check_step(step, folder / name)


def _check_step(step: Mapping[str, Any], file: Path) -> None:
    registered = step.get("registry_name")
    if "class" in step or not isinstance(registered, str):
        raise _refused(
            file, f"its step {step.get('class') or registered!r} is named by import path and not registered"
        )
    if registered in STEPS_WITH_CODE:
        raise _refused(file, f"its step '{registered}' runs code that it names on the Hub")
    if "state_file" not in step:
        return
    state = step["state_file"]
    # As a Windows path both kinds of slashes and drives count.
    bare = isinstance(state, str) and PureWindowsPath(state).name == state
    if not bare or not (file.parent / state).is_file():
        raise UserError(
            f"{file}: the step '{registered}' has the state file {state!r}; expected the name of a file in the same folder. "
            "The checkpoint is incomplete or was changed: fetch it again, or use another one."
        )


def _refused(file: Path, why: str) -> UserError:
    return UserError(
        f"{file} could run any program on this computer, so it is not loaded: {why}. Use a checkpoint without it. If you trust "
        "whoever made it as you would trust a program, LeRobot's own commands load it."
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error} Is the download complete?") from error
    if not isinstance(values, dict):
        raise UserError(f"{file} cannot be read: expected an object of names and values.")
    return values

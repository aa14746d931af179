"""Where a policy lies: a folder on this computer, one that comes with the package, or a repository on the Hugging Face Hub.

Light to import: neither torch nor LeRobot.
"""

from __future__ import annotations

import importlib.resources
import re
from functools import lru_cache
from pathlib import Path

from ebt_policy.errors import UserError
from ebt_policy.inference.untrusted import PROCESSORS, check_files

SHIPPED = "shipped:"
FILES = ("model.safetensors", *PROCESSORS)
# No Python and nothing pickled. The JSON files can still name what is to be imported: see `check_files`.
HUB_PATTERNS = ["*.json", "*.safetensors", "*.yaml", "*.md"]
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def list_shipped() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(config.parent.name for config in _shipped_folder().glob("*/config.json"))


def find_checkpoint(spec: str | Path) -> Path:
    """The pretrained_model folder that `spec` means; one on the Hub is downloaded. Raises UserError when there is none,
    and for one whose files could run a program.

    spec: a run, a checkpoint or a pretrained_model folder, `shipped:NAME`, or `USER/NAME` on the Hub, there with a branch,
    tag or commit as `USER/NAME@REVISION`.
    """
    text = str(spec)
    if text.startswith(SHIPPED):
        name = text.removeprefix(SHIPPED)
        if name not in list_shipped():
            available = ", ".join(list_shipped()) or "none in this installation"
            raise UserError(f"No checkpoint called '{name}' comes with the package. Shipped: {available}.")
        return _shipped_folder() / name
    path = Path(spec)
    for folder in (path, path / "pretrained_model", path / "checkpoints" / "last" / "pretrained_model"):
        if (folder / "config.json").is_file():
            return _complete(folder, str(folder))
    on_hub = _HUB.fullmatch(text)
    # runs/typo beside an existing runs/ is a mistyped path and no question to the Hub.
    if on_hub and not path.exists() and ("@" in text or not path.parent.is_dir()):
        return _complete(_downloaded(on_hub["repo"], on_hub["revision"]), text)
    reason = "holds no checkpoint" if path.exists() else "does not exist"
    raise UserError(
        f"'{spec}' {reason}. Give a run, a checkpoint or a pretrained_model folder, USER/NAME[@REVISION] on the Hugging "
        f"Face Hub, or one of: {', '.join(SHIPPED + name for name in list_shipped()) or 'shipped:NAME'}."
    )


@lru_cache  # one revision for the whole of a command, and one question
def _downloaded(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import HFValidationError

    asked = f"'{repo_id}'" + (f" at revision '{revision}'" if revision else "")
    try:
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=HUB_PATTERNS, etag_timeout=5)
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, HfHubHTTPError):
            raise UserError(
                f"{asked} is no folder here, and the Hub does not give it: {str(error).splitlines()[0]} Is the name or the "
                "revision right? For a private one log in with `hf auth login`."
            ) from error
        raise UserError(
            f"{asked} is no folder here and not in the cache, and the Hub cannot be reached (no network, or HF_HUB_OFFLINE "
            "is set). Download it where there is a network, or give a local folder."
        ) from error
    except HFValidationError as error:
        raise UserError(f"{asked} is no folder here and no name that the Hub allows: {error}") from error


def _complete(folder: Path, name: str) -> Path:
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{name} holds a PEFT adapter and not a whole policy. Run it with lerobot-eval or lerobot-rollout."
        )
    missing = [file for file in ("config.json", *FILES) if not (folder / file).is_file()]
    if missing:
        raise UserError(f"The checkpoint {name} is incomplete: {', '.join(missing)} is missing.")
    check_files(folder)
    return folder


def _shipped_folder() -> Path:
    return Path(str(importlib.resources.files("ebt_policy"))) / "shipped"

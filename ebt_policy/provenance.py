"""Origin of a result: versions, commit, command, machine. Imports neither torch nor LeRobot."""

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "lerobot_policy_ebt",
    "lerobot",
    "torch",
    "numpy",
    "gymnasium",
    "gym-pusht",
    "gym-aloha",
    "gymnasium-robotics",
    "robosuite",
    "mujoco",
    "pymunk",
    "diffusers",
    "accelerate",
)


def versions() -> dict[str, str]:
    """Python and the packages that can change a result, by name; those not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_hash() -> str | None:
    """Commit of this package's checkout, with "-dirty" when tracked files differ; None when not a checkout."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        # An installed copy may lie inside somebody else's repository: only ours tracks this file.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run_record() -> dict[str, Any]:
    """What produced a run or a report, ready for JSON."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "git": git_hash(),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
    }


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes the whole file or nothing: readers never see a half-written one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Atomic, indented JSON."""
    write_atomic(path, json.dumps(value, indent=2) + "\n")


def plain(value: Any) -> Any:
    """Values for JSON: NaN and infinity become None and paths strings, also inside mappings and sequences."""
    if isinstance(value, Mapping):
        return {str(name): plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if getattr(value, "ndim", None) == 0:  # a scalar of numpy, which is not imported for it
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value

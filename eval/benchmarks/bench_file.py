"""Reading bench files: their `kind`, records that refuse unknown keys, and names of the files that a bench writes."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from ebt_policy.errors import UserError
from ebt_policy.suggestions import did_you_mean


def bench_kind(path: Path) -> str | None:
    """The `kind` in the file; None for a bench of policies, and for a file that cannot be read (reported by its reader)."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return None
    return data.get("kind") if isinstance(data, dict) else None


def record[T](kind: type[T], data: Any, where: str) -> T:
    """The dataclass `kind` from a mapping; lists become tuples. Raises UserError naming an unknown or missing key."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected a mapping of keys to values, found {data!r}.")
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in data:
        if key not in known:
            raise UserError(f"{where}: unknown key '{key}'.{did_you_mean(str(key), known)}")
    try:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in data.items()})
    except TypeError as error:
        raise UserError(f"{where}: {error}") from error


def slug(name: str) -> str:
    """The name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

"""Dataclasses from JSON, with clear errors for files that are not as expected."""

from __future__ import annotations

import json
import math
import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any

from ebt_policy.errors import UserError

_NAMES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def from_plain[T](kind: type[T], record: Any, where: str = "") -> T:
    """The dataclass `kind` from a JSON object. Unknown keys are ignored.

    Its fields are scalars, X | None, tuple[X, ...] or dataclasses. Raises UserError naming the first field that is missing or of another type.
    """
    if not isinstance(record, dict):
        raise UserError(f"expected an object{f' for {where!r}' if where else ''}, found {_shown(record)}")
    hints = typing.get_type_hints(kind)
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]  # mypy does not see that T is a dataclass
        name = f"{where}.{field.name}" if where else field.name
        if field.name not in record:
            raise UserError(f"expected the field '{name}', found {', '.join(record) or 'none'}")
        values[field.name] = _value(hints[field.name], record[field.name], name)
    return kind(**values)


def finite(value: float) -> float | None:
    """The value, or None for NaN and infinity."""
    return value if math.isfinite(value) else None


def _value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(kind, types.UnionType):
        return None if value is None else _value(typing.get_args(kind)[0], value, where)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise UserError(f"expected a list for '{where}', found {_shown(value)}")
        item = typing.get_args(kind)[0]
        return tuple(_value(item, v, f"{where}[{i}]") for i, v in enumerate(value))
    if isinstance(kind, type) and is_dataclass(kind):
        return from_plain(kind, value, where)
    if kind is float and value is None:
        return math.nan
    number = kind is float and isinstance(value, int | float) and not isinstance(value, bool)
    if not number and type(value) is not kind:
        raise UserError(f"expected {_NAMES[kind]} for '{where}', found {_shown(value)}")
    return kind(value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else text[:37] + "..."

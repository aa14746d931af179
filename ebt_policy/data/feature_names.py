"""Names of the entries of a vector feature, in whichever form a LeRobot dataset keeps them."""

from collections.abc import Mapping
from math import prod
from typing import Any


def feature_names(features: Mapping[str, Any], key: str) -> list[str] | None:
    """Names of the entries of `features[key]`, in column order; None where the dataset names not each of them.

    features: as in meta/info.json. LeRobot keeps names as a list, as {"motors": list}, as {name: column}, and as a list
    in a list.
    """
    feature = features.get(key, {})
    names = _flat(feature.get("names"))
    return names if names and len(names) == prod(feature["shape"]) else None


def _flat(names: Any) -> list[str]:
    if isinstance(names, str):
        return [names]
    if isinstance(names, Mapping):
        if all(isinstance(column, int) for column in names.values()):
            return sorted(names, key=lambda name: names[name])
        return [name for part in names.values() for name in _flat(part)]
    if isinstance(names, list | tuple):
        return [name for part in names for name in _flat(part)]
    return []

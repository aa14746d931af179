"""Reading HDF5 demonstrations of robomimic and robosuite. Sizes, types and links are checked first: files may be malicious.

Layouts: robomimic (attribute `env_args`, groups `data/demo_0/obs`, lists `mask/train`) and robosuite 1.0 (attributes
`env` and `env_info`, states and actions alone). T ticks, S size of a MuJoCo state, A of an action.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.errors import UserError

if TYPE_CHECKING:
    import h5py

LARGEST = 2**30  # bytes of one array; a small compressed file can declare any size


@dataclass(frozen=True)
class Recorded:
    """One demonstration. `states[t]` and `observations[key][t]` are what `actions[t]` was chosen in.

    actions (T, A); states (T, S) [time, qpos, qvel] or None; observations: key -> (T, D), of those that were asked
    for; scene: MuJoCo's XML, or None.
    """

    name: str
    actions: NDArray[np.float64]
    states: NDArray[np.float64] | None
    observations: dict[str, NDArray[np.float64]]
    scene: str | None


class DemonstrationFile:
    """An open file.

    env_name, env_version: as recorded, "" where the file does not say. env_kwargs: the simulator's settings.
    names: demonstrations in their order; filter_keys: robomimic's named selections of them.
    """

    def __init__(self, file: h5py.File) -> None:
        import h5py

        data = file.get("data")
        if not isinstance(data, h5py.Group):
            raise UserError(
                f"{file.filename}: no group 'data' (found: {', '.join(file) or 'nothing'}). "
                "Expected demonstrations in the layout of robomimic or robosuite."
            )
        self._file, self._data = file, data
        self.path = Path(file.filename)
        self.env_name, self.env_version, self.env_kwargs = _environment(data)
        self.names = sorted((name for name in map(str, data) if name.startswith("demo")), key=_natural)
        if not self.names:
            raise UserError(f"{self.path}: data holds no demonstration (expected demo_0, demo_1, ...).")
        masks = file.get("mask")
        self.filter_keys = (
            {key: self._selection(key) for key in map(str, masks)} if isinstance(masks, h5py.Group) else {}
        )

    @property
    def fps(self) -> int:
        """Control periods a second; robosuite's default where the file does not say."""
        frequency = self.env_kwargs.get("control_freq", 20)
        if not isinstance(frequency, int | float) or frequency < 1 or frequency != int(frequency):
            raise UserError(f"{self.path}: control_freq is {frequency!r}; expected a whole number of hertz.")
        return int(frequency)

    def read(self, name: str, keys: tuple[str, ...]) -> Recorded:
        """Demonstration `name`, with those observations of `keys` that it has. Raises UserError for a bad one."""
        import h5py

        with _damage_explained(self.path):
            demo = self._data[name]
            if not isinstance(demo, h5py.Group) or "actions" not in demo:
                raise UserError(f"{self.path}: data/{name} has no actions.")
            actions = self._array(f"data/{name}/actions", None)
            if not len(actions):
                raise UserError(f"{self.path}: data/{name} is empty.")
            rows, scene, recorded = len(actions), _text(demo.attrs.get("model_file", "")), demo.get("obs")
            observed = recorded if isinstance(recorded, h5py.Group) else ()
            return Recorded(
                name=name,
                actions=actions,
                states=self._array(f"data/{name}/states", rows) if "states" in demo else None,
                observations={k: self._array(f"data/{name}/obs/{k}", rows) for k in keys if k in observed},
                # robosuite 1.0 kept the scene beside the file, and only its name in it.
                scene=scene if scene.lstrip().startswith("<") else None,
            )

    def _selection(self, key: str) -> list[str]:
        array = self._dataset(f"mask/{key}")
        found = [_text(name) for name in np.ravel(array[()])]
        unknown = sorted(set(found) - set(self.names))
        if unknown:
            raise UserError(f"{self.path}: mask/{key} names {unknown[0]}, which is not in data.")
        return found

    def _array(self, where: str, rows: int | None) -> NDArray[np.float64]:
        """(T, D), one row a tick and finite."""
        dataset = self._dataset(where)
        if dataset.dtype.kind not in "fiu" or dataset.ndim not in (1, 2):
            raise UserError(
                f"{self.path}: {where} is {dataset.dtype} {dataset.shape}; expected numbers, (ticks, size)."
            )
        values = np.asarray(dataset[()], np.float64).reshape(len(dataset), -1 if dataset.size else 0)
        if rows is not None and len(values) != rows:
            raise UserError(f"{self.path}: {where} has {len(values)} rows; its actions have {rows}.")
        finite = np.isfinite(values).all(1)
        if not finite.all():
            raise UserError(f"{self.path}: {where} is NaN or infinite at tick {int(np.argmin(finite))}.")
        return values

    def _dataset(self, where: str) -> h5py.Dataset:
        import h5py

        dataset = self._file[where]
        if not isinstance(dataset, h5py.Dataset):
            raise UserError(f"{self.path}: {where} is a group; expected an array.")
        # HDF5 links can point to any other file of this computer: not followed.
        if dataset.file.filename != self._file.filename or dataset.external or dataset.is_virtual:
            raise UserError(f"{self.path}: {where} lies in another file. Copy its contents into this one.")
        if dataset.nbytes > LARGEST:
            raise UserError(f"{self.path}: {where} claims {dataset.nbytes:,} bytes; at most {LARGEST:,}.")
        return dataset


@contextmanager
def open_demonstrations(path: Path) -> Iterator[DemonstrationFile]:
    """The file at `path`. Raises UserError for what is missing, damaged or too large."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            "Reading HDF5 needs h5py. Install the extra: pip install 'lerobot_policy_ebt[robosuite]'"
        ) from error
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    with _damage_explained(path):
        file = h5py.File(path, "r")
    with file:
        with _damage_explained(path):
            opened = DemonstrationFile(file)
        yield opened


@contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    """Raises UserError instead of what h5py raises for truncated and damaged files."""
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(
            f"{path} is no HDF5 file, or a damaged or incomplete one. Download or copy it again. Cause: {error}"
        ) from error


def _environment(data: h5py.Group) -> tuple[str, str, dict[str, Any]]:
    """(name, version, settings)"""
    attributes = {
        name: _text(data.attrs[name])
        for name in ("env_args", "env_info", "env", "repository_version")
        if name in data.attrs
    }
    which = "env_args" if "env_args" in attributes else "env_info"
    try:
        settings = json.loads(attributes.get(which, "{}"))
        if which == "env_args":
            return (
                str(settings["env_name"]),
                str(settings.get("env_version", "")),
                dict(settings.get("env_kwargs") or {}),
            )
        return attributes.get("env", ""), attributes.get("repository_version", ""), dict(settings)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{data.file.filename}: the attribute {which} of data cannot be understood ({error!r}). "
            "Expected JSON with the simulator's name and settings."
        ) from error


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _natural(name: str) -> tuple[str | int, ...]:
    """demo_2 comes before demo_10."""
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))

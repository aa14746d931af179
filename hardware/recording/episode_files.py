"""Files of a LeRobot dataset that grows by whole episodes: reads what is there, removes leftovers, moves new episodes in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebt_policy.data.outcomes import RECORDING
from ebt_policy.errors import UserError

INFO = Path("meta/info.json")


def checked(root: Path, fps: int, features: Mapping[str, Mapping[str, Any]]) -> int:
    """Number of episodes in the dataset at `root`. Files that a killed process moved only in part are removed first."""
    from lerobot.utils.constants import DEFAULT_FEATURES

    try:
        info = json.loads((root / INFO).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{root} is there but holds no LeRobot dataset ({INFO}: {error}). Record to a new folder, or remove it."
        ) from error
    differences = [
        f"{name}: {_described(info['features'].get(name))} there, {_described(features.get(name))} here"
        for name in sorted({*info["features"], *features} - set(DEFAULT_FEATURES))
        if _described(info["features"].get(name)) != _described(features.get(name))
    ]
    if info["fps"] != fps:
        differences.insert(0, f"fps: {info['fps']} there, {fps} here")
    if differences:
        raise UserError(
            f"The dataset in {root} is of another kind: {'; '.join(differences)}. Record to a new folder."
        )
    _tidy(root, info["total_episodes"])
    return int(info["total_episodes"])


def _described(feature: Mapping[str, Any] | None) -> str:
    if feature is None:
        return "missing"
    names = feature.get("names")
    return f"{feature['dtype']} {tuple(feature['shape'])}" + (f" {list(names)}" if names else "")


def _tidy(root: Path, episodes: int) -> None:
    """Removes what belongs to an episode that info.json does not count. It can only be the last file of each kind."""
    import pyarrow.parquet as pq

    for folder in ("data", "meta/episodes"):
        for path in sorted((root / folder).glob("*/*.parquet"))[-1:]:
            if min(pq.read_table(path, columns=["episode_index"])["episode_index"].to_pylist()) >= episodes:
                path.unlink()
    if (root / RECORDING).exists():
        lines = (root / RECORDING).read_text().splitlines(keepends=True)
        known = [line for line in lines if json.loads(line)["episode"] < episodes]
        if known != lines:
            draft = root / RECORDING.with_suffix(".draft")
            draft.write_text("".join(known))
            os.replace(draft, root / RECORDING)


def publish(staging: Path, root: Path) -> None:
    """Moves the finished files. A reader sees the new episode only when info.json, the last one, has changed."""
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    for path in files:  # the power may fail too
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    if not root.exists():
        os.replace(staging, root)
        return
    files.sort(key=lambda path: (path.is_relative_to(staging / "meta"), path == staging / INFO))
    for path in files:
        target = root / path.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)

"""Demonstrations and an operator's corrections in one training: whether they fit together, and how batches are mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from ebt_policy.data.fingerprints import episode_fingerprints
from ebt_policy.data.open_dataset import INFO, local_name
from ebt_policy.data.statistics import Statistics
from ebt_policy.data.windows import Windows
from ebt_policy.errors import UserError
from ebt_policy.language.encoders import TASK
from ebt_policy.training.optimise import balanced_order, sample_order

OTHER_UNITS = (
    20.0  # times the size of the demonstrations' numbers, or less than the inverse: not the same unit
)
FILTERED = "ebt_safe"  # what recordings through the safety filter once said in place of their robot


def located(dataset: str) -> tuple[str, str | None]:
    """(repo id, root) of a dataset given by its folder or its repo id."""
    folder = Path(dataset).expanduser()
    return (local_name(folder), str(folder)) if (folder / INFO).is_file() else (dataset, None)


@dataclass(frozen=True)
class Mixture:
    """Samples of the demonstrations followed by those of all corrections, as one."""

    demonstrations: Windows
    corrections: tuple[Windows, ...]
    share: float  # of the corrections in each batch

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    @property
    def _parts(self) -> tuple[Windows, ...]:
        return (self.demonstrations, *self.corrections)

    @property
    def cameras(self) -> list[str]:
        """As `Windows.cameras`."""
        return self.demonstrations.cameras

    def order(self, step: int, batch_size: int, seed: int, by_task: bool = False) -> Tensor:
        """Sample numbers (batch_size,) int64 of one step, `share` of them corrections (at least one of each kind).

        by_task: of the demonstrations, all tasks equally often. It depends on its arguments only, so a resumed run continues
        with the same data.
        """
        n_corrections = min(max(round(self.share * batch_size), 1), batch_size - 1)
        first = len(self.demonstrations)
        shown = batch_order(self.demonstrations, step, batch_size - n_corrections, seed, by_task)
        corrected = sample_order(step, n_corrections, len(self) - first, seed)
        return torch.cat([shown, first + corrected])

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Samples `indices` (B,) int64 in their order, as `Windows.batch`."""
        begin, found, places = 0, [], []
        for part in self._parts:
            chosen = torch.nonzero((indices >= begin) & (indices < begin + len(part))).flatten()
            if len(chosen):
                found.append(part.batch(indices[chosen] - begin))
                places.append(chosen)
            begin += len(part)
        back = torch.argsort(torch.cat(places))
        return {
            name: torch.cat([one[name] for one in found])[back.to(found[0][name].device)] for name in found[0]
        }

    def sentences(self, indices: Tensor) -> list[str]:
        """As `Windows.sentences`."""
        found = [""] * len(indices)
        begin = 0
        for part in self._parts:
            chosen = torch.nonzero((indices >= begin) & (indices < begin + len(part))).flatten()
            for place, text in zip(chosen.tolist(), part.sentences(indices[chosen] - begin), strict=True):
                found[place] = text
            begin += len(part)
        return found

    def samples(self, indices: Tensor) -> dict[str, Any]:
        """As `Windows.samples`."""
        return {**self.batch(indices), TASK: self.sentences(indices)}


def batch_order(
    windows: Windows | Mixture, step: int, batch_size: int, seed: int, by_task: bool = False
) -> Tensor:
    """Sample numbers (batch_size,) int64 of one step. by_task: all tasks equally often, however many frames they have."""
    if isinstance(windows, Mixture):
        return windows.order(step, batch_size, seed, by_task)
    if by_task and len(windows.by_task) > 1:
        return balanced_order(step, batch_size, windows.by_task, seed)
    return sample_order(step, batch_size, len(windows), seed)


def check_features(
    demonstrations: LeRobotDatasetMetadata, corrections: LeRobotDatasetMetadata, features: Sequence[str]
) -> None:
    """Raises UserError where the corrections lack a feature, have another size, other joints, another rate or robot."""

    def refuse(what: str, expected: object, found: object, remedy: str) -> None:
        raise UserError(
            f"Corrections '{corrections.repo_id}', {what}: the demonstrations have {expected}, the corrections {found}. {remedy}"
        )

    same_robot = "Corrections have to be recorded on the robot, and with the settings, of the demonstrations."
    for name in features:
        if name not in corrections.features:
            refuse(name, "it", f"only {', '.join(corrections.features)}", same_robot)
        ours, theirs = (meta.features[name] for meta in (demonstrations, corrections))
        if tuple(ours["shape"]) != tuple(theirs["shape"]):
            refuse(name, f"the shape {tuple(ours['shape'])}", tuple(theirs["shape"]), same_robot)
        if ours.get("names") and theirs.get("names") and list(ours["names"]) != list(theirs["names"]):
            refuse(name, ours["names"], theirs["names"], "The same numbers would mean other joints.")
    if demonstrations.fps != corrections.fps:
        refuse(
            "frames a second",
            demonstrations.fps,
            corrections.fps,
            "An action would last another time. Record with --fps of the demonstrations.",
        )
    kinds = demonstrations.robot_type, corrections.robot_type
    if all(kinds) and kinds[0] != kinds[1] and FILTERED not in kinds:
        refuse("robot type", *kinds, same_robot)


def check_units(
    demonstrations: Mapping[str, Statistics], corrections: Mapping[str, Statistics], dataset: str
) -> None:
    """Raises UserError where the robot's numbers are of another size altogether, as degrees are in place of radians.

    Compared is the median over the entries of state and action of the quotient of their root mean squares.
    """
    for name in (OBS_STATE, ACTION):
        if name not in demonstrations or name not in corrections:
            continue
        ours, theirs = (
            np.sqrt(np.ravel(stats[name]["mean"]) ** 2 + np.ravel(stats[name]["std"]) ** 2)
            for stats in (demonstrations, corrections)
        )
        used = (ours > 0) & (theirs > 0)
        quotient = float(np.median(theirs[used] / ours[used])) if used.any() else 1.0
        if not 1 / OTHER_UNITS < quotient < OTHER_UNITS:
            raise UserError(
                f"Corrections '{dataset}', {name}: its values are {quotient:.3g} times as large as in the demonstrations, so "
                "they have another unit (degrees and radians, or another calibration of the arm). Record them with the "
                "settings of the demonstrations."
            )


def describe(dataset: str, windows: Windows) -> dict[str, Any]:
    """What run.json says of one dataset of corrections: name, episodes imitated, samples, fingerprints."""
    repo_id, root = located(dataset)
    episodes = [int(episode) for episode in windows.episode_index.unique()]
    prints = episode_fingerprints(repo_id, root, episodes)
    return {
        "dataset": dataset,
        "episodes": len(episodes),
        "samples": len(windows),
        "fingerprints": list(prints.values()),
    }

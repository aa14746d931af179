"""robomimic's and robosuite's HDF5 demonstrations as a LeRobot dataset, with the features of our environments.

Observations are taken from the file where it has all of them by name. robomimic's `object` is never used: it is a
concatenation whose order is nowhere in the file. Where names are missing the recorded states are replayed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ebt_policy.envs.convert.robomimic_file import DemonstrationFile, Recorded, open_demonstrations
from ebt_policy.envs.convert.robomimic_replay import Replay
from ebt_policy.envs.dataset_writer import refuse_existing, staged, write_episodes
from ebt_policy.envs.robosuite_tasks import ACTIONS, ROBOSUITE, SPECS, STATE_KEYS, TASKS
from ebt_policy.errors import UserError
from ebt_policy.provenance import run_record, sha256, write_json

# Controller settings that change the meaning of an action.
CONTROLLER = (
    *("type", "input_type", "input_ref_frame", "input_min", "input_max", "output_min", "output_max"),
    *("kp", "damping_ratio", "impedance_mode"),
)
Columns = dict[str, NDArray[np.float32]]  # feature -> (T, D)


@dataclass(frozen=True)
class Outcome:
    """One demonstration: the source of its observations, and whether it ends solved (None: unknown without a simulator)."""

    name: str
    observations: Literal["recorded", "replayed"]
    solved: bool | None


def convert(
    path: Path, output: Path, repo_id: str, *, env: str | None = None, keep_failed: bool = False
) -> dict[str, Any]:
    """Convert the demonstrations of the file at `path` that end in success into a dataset in the new folder `output`.

    env: the environment whose features to write, for files of real robots or of tasks with other names; these files must
    contain the observations. Returns a record of kept and dropped demonstrations, also written to `output`/convert.json.
    Raises UserError for an invalid file, or if no demonstration is left; then nothing is written.
    """
    refuse_existing(output)
    with open_demonstrations(path) as file:
        reader = Reader(file, env)
        names, splits = _in_splits(file)
        outcomes: list[Outcome] = []
        with staged(output) as folder:
            write_episodes(
                folder,
                repo_id,
                file.fps,
                TASKS[reader.task].description,
                _episodes(reader, names, keep_failed, outcomes),
            )
            kept = [outcome for outcome in outcomes if keep_failed or outcome.solved is not False]
            if not kept:
                raise UserError(
                    f"{path}: none of the {len(names)} demonstrations ends in success. --keep-failed keeps them."
                )
            _write_selections(folder, file.filter_keys, splits, [outcome.name for outcome in kept])
            record = {
                "source": {"file": path.name, "sha256": sha256(path)},
                "recorded": {"env": file.env_name, "version": file.env_version, "settings": file.env_kwargs},
                "env": reader.env,
                "warnings": _warnings(reader, kept),
                "fps": file.fps,
                "attempted": len(names),
                "kept": [asdict(outcome) for outcome in kept],
                "dropped": [asdict(outcome) for outcome in outcomes if outcome not in kept],
                "keep_failed": keep_failed,
                **run_record(),
            }
            write_json(folder / "convert.json", record)
    return record


class Reader:
    """Reads demonstrations with the features of an environment. env, task: its name here and in TASKS."""

    def __init__(self, file: DemonstrationFile, env: str | None) -> None:
        self.file = file
        self.env = env or f"robosuite_{file.env_name.lower()}"
        if self.env not in SPECS:
            found = f"unknown environment '{env}'" if env else f"its environment is '{file.env_name}'"
            raise UserError(f"{file.path}: {found}. Environments to convert for: {', '.join(SPECS)}.")
        self.task = next(task for task in TASKS if self.env == f"robosuite_{task.lower()}")
        self._replay: Replay | None = None

    def read(self, name: str) -> tuple[Columns, Outcome]:
        """Read one demonstration. Raises UserError for other sizes, or if it has neither observations nor states."""
        keys = (*STATE_KEYS, *ROBOSUITE[self.task].keys)
        demo = self.file.read(name, keys)
        missing = [key for key in keys if key not in demo.observations]
        replay = self._entered(demo)
        if missing and replay is None:
            raise UserError(
                f"{self.file.path}: data/{name}/obs has no {', '.join(missing)}, and there "
                f"{'are no states to replay' if demo.states is None else 'is no simulator for its states'} "
                f"(environment '{self.file.env_name}', features of {self.env})."
            )
        if not missing:
            robot, objects = _joined(demo, STATE_KEYS), _joined(demo, ROBOSUITE[self.task].keys)
        else:
            assert replay is not None
            robot, objects = replay.observe(demo)
        columns = {
            "observation.state": robot,
            "observation.environment_state": objects,
            "action": demo.actions.astype(np.float32),
        }
        task = TASKS[self.task]
        for (feature, values), size in zip(
            columns.items(), (task.state_size, task.environment_size, ACTIONS), strict=True
        ):
            if values.shape[1] != size:
                raise UserError(
                    f"{self.file.path}: data/{name}: {feature} has {values.shape[1]} numbers; {self.env} has {size}. "
                    "Is the file of another robot or controller?"
                )
        solved = None if replay is None else replay.ends_solved(demo)
        return columns, Outcome(name, "replayed" if missing else "recorded", solved)

    def controllers(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of the arm's controller, recorded and in our environment; {} if unknown."""
        here = self._replay.controller if self._replay else {}
        return _arm_controller(self.file.env_kwargs), _arm_controller(here)

    def _entered(self, demo: Recorded) -> Replay | None:
        """The simulator with the scene of `demo`; None if it has no states or is of another task."""
        if demo.states is None or self.file.env_name != self.task:
            return None
        if self._replay is None:
            robots = self.file.env_kwargs.get("robots", "Panda")
            if robots not in ("Panda", ["Panda"]):
                raise UserError(f"{self.file.path}: the robot is {robots}; {self.env} has a Panda.")
            self._replay = Replay(self.task, rendering=False)
            self._replay.reset(seed=0)
        self._replay.enter(demo, f"{self.file.path}: data/{demo.name}")
        return self._replay


def _episodes(
    reader: Reader, names: list[str], keep_failed: bool, outcomes: list[Outcome]
) -> Iterator[Columns]:
    """Yields the demonstrations to keep, and appends the outcome of each one to `outcomes`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[dropped]} dropped"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, transient=True) as bar:
        shown = bar.add_task(reader.file.path.name, total=len(names), dropped=0)
        for name in names:
            episode, outcome = reader.read(name)
            outcomes.append(outcome)
            if keep_failed or outcome.solved is not False:
                yield episode
            failed = sum(outcome.solved is False for outcome in outcomes)
            bar.update(shown, advance=1, dropped=0 if keep_failed else failed)


def _warnings(reader: Reader, kept: list[Outcome]) -> list[str]:
    """Differences from our environment that matter for a policy trained on the dataset."""
    warnings = []
    recorded, here = reader.controllers()
    if not (recorded and here):
        warnings.append(
            f"the file or its replay names no controller: check that actions are those of {reader.env}."
        )
    warnings += [
        f"recorded with the controller's {key} = {recorded[key]}; {reader.env} has {here[key]}. Actions mean "
        "something else there."
        for key in CONTROLLER
        if key in recorded and key in here and recorded[key] != here[key]
    ]
    if reader.file.fps != SPECS[reader.env].fps:
        warnings.append(f"recorded at {reader.file.fps} Hz; {reader.env} has {SPECS[reader.env].fps} Hz.")
    if any(outcome.solved is None for outcome in kept):
        warnings.append("nothing was replayed, so it is not known which demonstrations end in success.")
    return warnings


def _joined(demo: Recorded, keys: tuple[str, ...]) -> NDArray[np.float32]:
    return np.concatenate([demo.observations[key] for key in keys], axis=1).astype(np.float32)


def _in_splits(file: DemonstrationFile) -> tuple[list[str], list[str]]:
    """(names in the order of the dataset, filter keys that become LeRobot splits).

    LeRobot's splits are ranges of episodes. If `train` and `valid` are a partition of all demonstrations, they are ordered to
    form two ranges. Other filter keys overlap.
    """
    train, valid = (file.filter_keys.get(key, []) for key in ("train", "valid"))
    if train and valid and sorted(train + valid) == sorted(file.names):
        return sorted(file.names, key=lambda name: name in set(valid)), ["train", "valid"]
    return file.names, []


def _write_selections(
    folder: Path, filter_keys: dict[str, list[str]], splits: list[str], kept: list[str]
) -> None:
    """meta/filter_keys.json {key: [episode]}, and the ranges of `splits` in LeRobot's meta/info.json."""
    episodes = {
        key: [number for number, name in enumerate(kept) if name in set(names)]
        for key, names in filter_keys.items()
    }
    write_json(folder / "meta" / "filter_keys.json", episodes)
    info = folder / "meta" / "info.json"
    ranges = {key: f"{episodes[key][0]}:{episodes[key][-1] + 1}" for key in splits if episodes[key]}
    if ranges:
        write_json(info, json.loads(info.read_text()) | {"splits": ranges})


def _arm_controller(settings: dict[str, Any]) -> dict[str, Any]:
    """The arm's controller settings with the names of the current robosuite; {} if there are none."""
    arm = settings.get("controller_configs", settings)
    for part in ("body_parts", "arms", "right"):
        if isinstance(arm, dict):
            arm = arm.get(part, arm)
    if not isinstance(arm, dict) or "type" not in arm:
        return {}
    arm = dict(arm)
    if "control_delta" in arm:  # until 1.4
        arm["input_type"] = "delta" if arm["control_delta"] else "absolute"
    if "damping" in arm:  # before 1.0
        arm.setdefault("damping_ratio", arm["damping"])
    if arm.get("input_ref_frame") == "world":
        arm["input_ref_frame"] = "base"  # the same axes: no task turns the robot's base
    return arm

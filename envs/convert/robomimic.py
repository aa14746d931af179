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

# What an action means to robosuite's arm.
CONTROLLER = (
    *("type", "input_type", "input_ref_frame", "input_min", "input_max", "output_min", "output_max"),
    *("kp", "damping_ratio", "impedance_mode"),
)
Columns = dict[str, NDArray[np.float32]]  # feature -> (T, D)


@dataclass(frozen=True)
class Outcome:
    """One demonstration: where its observations are from, and whether the task is solved at its end (None: there is
    no simulator to tell)."""

    name: str
    observations: Literal["recorded", "replayed"]
    solved: bool | None


def convert(
    path: Path, output: Path, repo_id: str, *, env: str | None = None, keep_failed: bool = False
) -> dict[str, Any]:
    """Write the demonstrations of the file at `path` that end in success into the new folder `output`.

    env: the environment whose features are wanted, for files of real robots and of tasks by other names; these must
    hold the observations themselves. Returns (and leaves in `output`/convert.json) what was kept and what was not.
    Raises UserError, leaving nothing behind, for a bad file and when no demonstration is left.
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
    """Demonstrations of a file with an environment's features. env, task: its name, here and in TASKS."""

    def __init__(self, file: DemonstrationFile, env: str | None) -> None:
        self.file = file
        self.env = env or f"robosuite_{file.env_name.lower()}"
        if self.env not in SPECS:
            found = f"unknown environment '{env}'" if env else f"its environment is '{file.env_name}'"
            raise UserError(f"{file.path}: {found}. Environments to convert for: {', '.join(SPECS)}.")
        self.task = next(task for task in TASKS if self.env == f"robosuite_{task.lower()}")
        self._replay: Replay | None = None

    def read(self, name: str) -> tuple[Columns, Outcome]:
        """Raises UserError where a demonstration has other sizes, or neither the observations nor states."""
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
        facts = TASKS[self.task]
        for (feature, values), size in zip(
            columns.items(), (facts.state_size, facts.environment_size, ACTIONS), strict=True
        ):
            if values.shape[1] != size:
                raise UserError(
                    f"{self.file.path}: data/{name}: {feature} has {values.shape[1]} numbers; {self.env} has {size}. "
                    "Is the file of another robot or controller?"
                )
        solved = None if replay is None else replay.ends_solved(demo)
        return columns, Outcome(name, "replayed" if missing else "recorded", solved)

    def controllers(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arm's controller as recorded and in our environment; {} where that is not known."""
        here = self._replay.controller if self._replay else {}
        return _arm_controller(self.file.env_kwargs), _arm_controller(here)

    def _entered(self, demo: Recorded) -> Replay | None:
        """The simulator with the scene of `demo`; None where it has no states or is of something else."""
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
    """What is to be kept of the demonstrations `names`; all that were read are appended to `outcomes`."""
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
    """What a policy that is trained on the dataset should not be surprised by."""
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
    """The demonstrations in the order of the dataset, and the filter keys that become its splits.

    LeRobot's splits are ranges of episodes: where `train` and `valid` share out all demonstrations, each is put in
    one piece. Other filter keys overlap.
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
    """The arm's controller in robosuite's terms of today; {} where `settings` name none."""
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

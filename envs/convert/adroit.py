"""The people's demonstrations of Adroit Door (hand_dapg) as a LeRobot dataset, with the features of our environment.

The file is an .npz with the arrays NN/actions (T, 28), NN/init/door_body_pos (3,), NN/init/qpos (30,) and NN/init/qvel (30,)
of each demonstration NN. The actions are replayed from the start state, and the observations are those of the replay: the
recorded ones begin with the hand elsewhere than the recorded start state and all episodes here.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ebt_policy.envs.adroit import ACTION_NAMES, ENVIRONMENT_NAMES, FPS, STATE_NAMES, TASKS, DoorSimulator
from ebt_policy.envs.dataset_writer import refuse_existing, staged, write_episodes
from ebt_policy.errors import UserError
from ebt_policy.provenance import run_record, sha256, write_json

ENV = "adroit_door"
POSITIONS = 30  # joints of the model: arm, hand, hinge and latch
SPREAD = 0.03  # metres, in each of the three directions
AFTER = 10  # ticks kept after success in replays at other places, as in robosuite's recordings
LARGEST = 2**28  # bytes of one array; a small compressed file can declare any size
NAMES = {
    "observation.state": STATE_NAMES,
    "observation.environment_state": ENVIRONMENT_NAMES,
    "action": ACTION_NAMES,
}
_START = {"door_body_pos": 3, "qpos": POSITIONS, "qvel": POSITIONS}


@dataclass(frozen=True)
class Outcome:
    """One demonstration in the replay: its ticks, the first tick after which the door is open (None: never), the widest
    angle of the hinge in rad, and the share of recorded action entries beyond -1..1, which are clipped.
    """

    name: str
    ticks: int
    solved_after: int | None
    widest: float
    clipped: float


@dataclass(frozen=True)
class Demonstration:
    """actions (T, 28) as recorded; start: name in _START -> start state."""

    name: str
    actions: NDArray[np.float64]
    start: dict[str, NDArray[np.float64]]


def convert(
    path: Path, output: Path, repo_id: str, *, keep_failed: bool = False, places: int = 0
) -> dict[str, Any]:
    """Convert the demonstrations that open the door in the replay into a dataset in the new folder `output`.

    keep_failed: convert the others too. places: replay each demonstration with the door at so many other places too, drawn
    within SPREAD of the recorded one, and keep the replays that open it. Returns a record of kept and dropped
    demonstrations, also written to `output`/convert.json. Raises UserError for an invalid file, or if no demonstration is
    left; then nothing is written.
    """
    refuse_existing(output)
    demonstrations = [there for demo in read(path) for there in (demo, *_elsewhere(demo, places))]
    outcomes: list[Outcome] = []
    with staged(output) as folder:
        task = TASKS["door"].description
        episodes = _episodes(demonstrations, keep_failed, outcomes, AFTER if places else None)
        write_episodes(folder, repo_id, FPS, task, episodes, NAMES)
        kept = [outcome for outcome in outcomes if keep_failed or outcome.solved_after is not None]
        if not kept:
            raise UserError(
                f"{path}: none of the {len(outcomes)} demonstrations opens the door. --keep-failed keeps them."
            )
        record = {
            "source": {"file": path.name, "sha256": sha256(path)},
            "env": ENV,
            "warnings": [],
            "fps": FPS,
            "attempted": len(outcomes),
            "kept": [asdict(outcome) for outcome in kept],
            "dropped": [asdict(outcome) for outcome in outcomes if outcome not in kept],
            "keep_failed": keep_failed,
            "places": places,
            **run_record(),
        }
        write_json(folder / "convert.json", record)
    return record


def read(path: Path) -> Iterator[Demonstration]:
    """The demonstrations of the file, by name. Raises UserError for a missing, damaged or different file."""
    if not path.is_file():
        raise UserError(f"{path}: no such file.")
    try:
        _refuse_large(path)
        with np.load(path, allow_pickle=False) as file:
            names = sorted({key.split("/")[0] for key in file.files if key.endswith("/actions")})
            if not names:
                raise UserError(
                    f"{path}: no array NN/actions (found: {', '.join(file.files[:5]) or 'nothing'})."
                )
            for name in names:
                actions = _array(file, path, f"{name}/actions")
                if actions.ndim != 2 or actions.shape[1] != len(ACTION_NAMES) or not len(actions):
                    raise UserError(
                        f"{path}: {name}/actions has shape {actions.shape}; expected (ticks, {len(ACTION_NAMES)})."
                    )
                start = {key: _array(file, path, f"{name}/init/{key}") for key in _START}
                for key, size in _START.items():
                    if start[key].shape != (size,):
                        raise UserError(
                            f"{path}: {name}/init/{key} has shape {start[key].shape}; expected ({size},)."
                        )
                yield Demonstration(name, actions, start)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise UserError(f"{path} cannot be read as .npz: {error}") from error


def replay(simulator: DoorSimulator, demo: Demonstration) -> tuple[dict[str, NDArray[np.float32]], Outcome]:
    """What is observed before each action (T, 30 and 9) and the action that is executed (T, 28), clipped to -1..1."""
    simulator.enter(demo.start["door_body_pos"], demo.start["qpos"], demo.start["qvel"])
    actions = np.clip(demo.actions, -1, 1)
    state, objects = [], []
    hinges: list[float] = []
    solved = []
    for action in actions:
        state.append(simulator.state())
        objects.append(simulator.environment_state())
        simulator.tick(action)
        hinges.append(float(simulator.environment_state()[ENVIRONMENT_NAMES.index("door_hinge")]))
        solved.append(simulator.score().solved)
    columns = {
        "observation.state": np.stack(state).astype(np.float32),
        "observation.environment_state": np.stack(objects).astype(np.float32),
        "action": actions.astype(np.float32),
    }
    return columns, Outcome(
        name=demo.name,
        ticks=len(actions),
        solved_after=solved.index(True) + 1 if any(solved) else None,
        widest=round(max(hinges), 3),
        clipped=round(float((np.abs(demo.actions) > 1).mean()), 4),
    )


def _elsewhere(demo: Demonstration, places: int) -> Iterator[Demonstration]:
    """The same actions with the door at other places. They depend on the demonstration's actions and nothing else."""
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(demo.actions.tobytes()).digest(), np.uint32))
    for number in range(1, places + 1):
        door = demo.start["door_body_pos"] + rng.uniform(-SPREAD, SPREAD, 3)
        yield Demonstration(f"{demo.name}+{number}", demo.actions, demo.start | {"door_body_pos": door})


def _episodes(
    demonstrations: list[Demonstration], keep_failed: bool, outcomes: list[Outcome], after: int | None
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yields the demonstrations to keep, and appends the outcome of each one to `outcomes`.

    after: ticks to keep after the door is open; None: all.
    """
    simulator = DoorSimulator()
    try:
        for demo in demonstrations:
            columns, outcome = replay(simulator, demo)
            outcomes.append(outcome)
            if outcome.solved_after is not None and after is not None:
                columns = {name: values[: outcome.solved_after + after] for name, values in columns.items()}
            if keep_failed or outcome.solved_after is not None:
                yield columns
    finally:
        simulator.close()


def _refuse_large(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > LARGEST:
                raise UserError(
                    f"{path}: {entry.filename} claims {entry.file_size:,} bytes; at most {LARGEST:,} are read."
                )


def _array(file: Any, path: Path, key: str) -> NDArray[np.float64]:
    if key not in file.files:
        raise UserError(f"{path}: there is no array {key}.")
    values = file[key]
    if values.dtype.kind != "f":
        raise UserError(f"{path}: {key} holds {values.dtype}; expected floating-point numbers.")
    if not np.isfinite(values).all():
        raise UserError(f"{path}: {key} has entries that are NaN or infinite.")
    return values.astype(np.float64)

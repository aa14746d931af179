"""Demonstrations by a scripted expert, as a LeRobot dataset: many processes, any interruption, one result.

Every attempt belongs to its seed alone and lies in a file of its own beside the dataset until enough of them have
succeeded; the dataset is then written at one stroke from the first successes in the order of their seeds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ebt_policy.envs import environment
from ebt_policy.envs.experts import Expert, expert
from ebt_policy.errors import UserError
from ebt_policy.provenance import run_record, write_json

HOPELESS = 40  # attempts without one success
Demonstration = dict[str, NDArray[np.float32]]  # feature -> (T, D)


@dataclass(frozen=True)
class Collection:
    """What determines a dataset, down to the last bit."""

    env: str
    episodes: int
    seed: int
    disturbance: float


def collect(wanted: Collection, output: Path, repo_id: str, processes: int = 1) -> dict[str, Any]:
    """Collect `wanted.episodes` successful demonstrations into the new folder `output`; goes on where it stopped.

    Returns (and leaves in `output`/collect.json) the attempts, the successes among them and the settings. Raises
    UserError when the folder is there, when its parts belong to other settings, or when the expert never succeeds.
    """
    if output.exists():
        raise UserError(f"{output} is already there. Give a new folder, or remove it.")
    expert(wanted.env)  # an unknown one is named before anything is written
    parts = output.with_name(output.name + ".parts")
    _claim(parts, wanted)
    seeds, attempts = _attempts(wanted, parts, processes)
    record = {
        **asdict(wanted),
        "attempts": attempts,
        "successes": len(seeds),
        "seeds": seeds,
        **run_record(),
    }
    _write_dataset(wanted, parts, seeds, output, repo_id, record)
    shutil.rmtree(parts)
    return record


def demonstrate(env_name: str, disturbance: float, seed: int) -> Demonstration | None:
    """One attempt: what the expert saw and wanted, tick by tick, up to success; None when it failed."""
    spec, env, script = _stage(env_name, disturbance)
    observation, _ = env.reset(seed=seed)
    script.reset(env.unwrapped.simulator, seed)
    frames: dict[str, list[NDArray]] = {}
    low, high = env.action_space.low, env.action_space.high
    while (chosen := script.act()) is not None:
        recorded, executed = (np.clip(action, low, high) for action in chosen)
        for name, value in (spec.to_policy(observation) | {"action": recorded}).items():
            frames.setdefault(name, []).append(np.asarray(value, np.float32))
        observation, _, terminated, truncated, info = env.step(executed)
        if spec.success(info):
            return {name: np.stack(values) for name, values in frames.items()}
        if terminated or truncated:
            return None
    return None


@cache
def _stage(env_name: str, disturbance: float) -> tuple[Any, Any, Expert]:
    """The environment and the expert of this process."""
    spec = environment(env_name)
    return spec, spec.make(False), expert(env_name, disturbance)


def _claim(parts: Path, wanted: Collection) -> None:
    """Make the folder of parts, or find out that it holds parts of the same collection."""
    settings = parts / "settings.json"
    if settings.is_file():
        found = Collection(**json.loads(settings.read_text()))
        # A longer collection of the same demonstrations may use what is there.
        if found != Collection(wanted.env, found.episodes, wanted.seed, wanted.disturbance):
            raise UserError(
                f"{parts} holds demonstrations of other settings ({found}). Remove it, or repeat them."
            )
        return
    parts.mkdir(parents=True, exist_ok=True)
    write_json(settings, asdict(wanted))


def _attempts(wanted: Collection, parts: Path, processes: int) -> tuple[list[int], int]:
    """Seeds of the first successes, and how many seeds were tried up to the last of them."""
    succeeded: list[int] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[tried]} tried"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(wanted.env, total=wanted.episodes, tried=0)
        for tried, (seed, success) in enumerate(_outcomes(wanted, parts, processes), 1):
            if success:
                succeeded.append(seed)
            bar.update(task, completed=len(succeeded), tried=tried)
            if len(succeeded) == wanted.episodes:
                break
            if tried == HOPELESS and not succeeded:
                raise UserError(
                    f"The expert of {wanted.env} failed {tried} times in a row; nothing to collect."
                )
    return succeeded, tried


def _outcomes(wanted: Collection, parts: Path, processes: int) -> Iterator[tuple[int, bool]]:
    """(seed, success) in the order of the seeds, without end; seeds that have a file are not tried again."""
    seed = wanted.seed
    if processes == 1:
        while True:
            yield seed, _attempt(wanted, parts, seed)
            seed += 1
    # Simulators and OpenGL survive no fork.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        ahead: list[Future[bool]] = []
        try:
            while True:
                while len(ahead) < 2 * processes:
                    ahead.append(pool.submit(_attempt, wanted, parts, seed + len(ahead)))
                yield seed, ahead.pop(0).result()
                seed += 1
        finally:
            pool.shutdown(cancel_futures=True)


def _attempt(wanted: Collection, parts: Path, seed: int) -> bool:
    done, failed = parts / f"{seed}.npz", parts / f"{seed}.failed"
    if not done.exists() and not failed.exists():
        demonstration = demonstrate(wanted.env, wanted.disturbance, seed)
        if demonstration is None:
            failed.touch()
        else:
            temporary = parts / f"{seed}.tmp.npz"
            np.savez(temporary, **demonstration)
            os.replace(temporary, done)
    return done.exists()


def _write_dataset(
    wanted: Collection, parts: Path, seeds: list[int], output: Path, repo_id: str, record: dict[str, Any]
) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    spec = environment(wanted.env)
    task = str(spec.make(False).unwrapped.task_description)
    staging = parts / "dataset"
    shutil.rmtree(staging, ignore_errors=True)
    dataset = None
    for seed in seeds:
        with np.load(parts / f"{seed}.npz") as demonstration:
            columns = dict(demonstration)
        if dataset is None:
            features = {
                name: {"dtype": "float32", "shape": values.shape[1:], "names": None}
                for name, values in columns.items()
            }
            dataset = LeRobotDataset.create(repo_id, spec.fps, features, root=staging, use_videos=False)
        for tick in range(len(columns["action"])):
            dataset.add_frame({name: values[tick] for name, values in columns.items()} | {"task": task})
        dataset.save_episode()
    assert dataset is not None  # at least one episode was asked for
    dataset.finalize()
    write_json(staging / "collect.json", record)
    output.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staging, output)

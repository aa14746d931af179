"""Demonstrations by a scripted expert, as a LeRobot dataset. Processes and interruptions do not change the result.

Every attempt depends only on its seed and is saved in a file of its own. When enough attempts have succeeded, the dataset is
written from the first successes in the order of their seeds.
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

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ebt_policy.envs.dataset_writer import refuse_existing, staged, write_episodes
from ebt_policy.envs.experts import Expert, expert
from ebt_policy.envs.registry import environment
from ebt_policy.errors import UserError
from ebt_policy.provenance import run_record, write_json

MAX_FAILURES = 40  # attempts without one success before collecting gives up
Demonstration = dict[str, NDArray[Any]]  # feature -> (T, ...), pictures uint8 (T, H, W, 3), all else float32


@dataclass(frozen=True)
class Collection:
    """Settings that determine a dataset exactly (with cameras: as far as OpenGL renders the same).

    episodes: successful demonstrations, of each task where the env plays several. seed: of the first attempt. disturbance: noise on the expert's actions, see Expert.
    cameras: names of the cameras to record. image_size: their (H, W) in pixels.
    """

    env: str
    episodes: int
    seed: int
    disturbance: float
    cameras: tuple[str, ...] = ()
    image_size: tuple[int, int] = (96, 96)

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return json.loads(json.dumps(asdict(self)))


def collect(wanted: Collection, output: Path, repo_id: str, processes: int = 1) -> dict[str, Any]:
    """Collect `wanted.episodes` successful demonstrations (of each task) into the new folder `output`; continues an interrupted run.

    Returns attempts, successes and settings, which are also written to `output`/collect.json. Raises UserError if the
    folder exists, if saved attempts belong to other settings, or if the expert never succeeds.
    """
    refuse_existing(output)
    expert(wanted.env)  # raises for an unknown name before anything is written
    available = environment(wanted.env).cameras
    for camera in wanted.cameras:
        if camera not in available:
            raise UserError(f"{wanted.env} has no camera '{camera}'. It has: {', '.join(available)}.")
    parts = output.with_name(output.name + ".parts")
    _open_attempts(parts, wanted)
    spec = environment(wanted.env)
    try:
        found = [_attempts(wanted, parts, processes, turn) for turn in range(max(len(spec.tasks), 1))]
    finally:
        _close()
    seeds = [seed for succeeded, _ in found for seed in succeeded]
    record = {
        **wanted.settings(),
        "attempts": sum(tried for _, tried in found),
        "successes": len(seeds),
        "seeds": seeds,
        **(
            {"attempts_by_task": [tried for _, tried in found]} if len(found) > 1 else {}
        ),  # in the env's order
        **run_record(),
    }
    task = str(spec.make(False).get_wrapper_attr("task_description"))
    with staged(output) as folder:
        write_episodes(folder, repo_id, spec.fps, task, _episodes(parts, seeds), spec.names)
        write_json(folder / "collect.json", record)
    shutil.rmtree(parts)
    return record


def demonstrate(wanted: Collection, seed: int) -> Demonstration | None:
    """One attempt up to success: observations and the expert's actions on each tick. None if it failed."""
    spec, env, script = _setup(wanted.env, wanted.disturbance, wanted.cameras, wanted.image_size)
    observation, _ = env.reset(seed=seed)
    script.reset(env.unwrapped.simulator, seed)
    frames: dict[str, list[NDArray]] = {}
    low, high = env.action_space.low, env.action_space.high
    while (chosen := script.act()) is not None:
        recorded, executed = (np.clip(action, low, high) for action in chosen)
        vectors = {name: value for name, value in observation.items() if name != "pixels"}
        seen = spec.to_policy(vectors) | {"action": recorded.astype(np.float32)}
        seen |= _pictures(observation)
        for name, value in seen.items():
            frames.setdefault(name, []).append(value)
        observation, _, terminated, truncated, info = env.step(executed)
        if spec.success(info):
            stacked = {name: np.stack(values) for name, values in frames.items()}
            return stacked | (
                {"task": np.array(env.get_wrapper_attr("task_description"))} if spec.tasks else {}
            )
        if terminated or truncated:
            return None
    return None


def _pictures(observation: dict[str, Any]) -> dict[str, NDArray]:
    """The cameras' pictures as features, uint8 (H, W, 3): `to_policy` would convert them to float."""
    pixels = observation.get("pixels", {})
    if isinstance(pixels, dict):
        return {f"observation.images.{camera}": picture for camera, picture in pixels.items()}
    return {"observation.image": pixels}  # LeRobot's name of an env's only camera


_open: list[gym.Env] = []  # environments of this process


@cache
def _setup(
    env_name: str, disturbance: float, cameras: tuple[str, ...], image_size: tuple[int, int]
) -> tuple[Any, Any, Expert]:
    """The environment and the expert, created once per process."""
    spec = environment(env_name)
    if cameras:
        assert spec.make_with_cameras is not None  # it has names of cameras
        env = spec.make_with_cameras(cameras, image_size)
    else:
        env = spec.make(False)
    _open.append(env)
    return spec, env, expert(env_name, disturbance)


def _close() -> None:
    """Frees the environments while the interpreter still runs: a renderer of dm_control that is freed at its end prints errors."""
    while _open:
        _open.pop().close()
    _setup.cache_clear()


def _open_attempts(parts: Path, wanted: Collection) -> None:
    """Create the folder of attempts, or check that the existing one has the same settings."""
    settings = parts / "settings.json"
    if settings.is_file():
        found = json.loads(settings.read_text())
        # The number of episodes may differ: saved attempts are reused.
        if found | {"episodes": wanted.episodes} != wanted.settings():
            raise UserError(
                f"{parts} holds demonstrations of other settings ({found}). Remove it, or repeat them."
            )
        return
    parts.mkdir(parents=True, exist_ok=True)
    write_json(settings, wanted.settings())


def _attempts(wanted: Collection, parts: Path, processes: int, turn: int) -> tuple[list[int], int]:
    """Seeds of the first successes, and the number of attempts up to the last of them; of one task where there are several.

    turn: the number of the task, of those that the env plays in turn.
    """
    sentences = environment(wanted.env).tasks
    step = max(len(sentences), 1)
    name = sentences[turn] if step > 1 else wanted.env
    first = wanted.seed + (turn - wanted.seed) % step
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
        task = bar.add_task(name, total=wanted.episodes, tried=0)
        for tried, (seed, success) in enumerate(_outcomes(wanted, parts, processes, first, step), 1):
            if success:
                succeeded.append(seed)
            bar.update(task, completed=len(succeeded), tried=tried)
            if len(succeeded) == wanted.episodes:
                break
            if tried == MAX_FAILURES and not succeeded:
                raise UserError(
                    f"The expert of {wanted.env} failed {tried} times in a row at '{name}'; nothing to collect."
                )
    return succeeded, tried


def _outcomes(
    wanted: Collection, parts: Path, processes: int, seed: int, step: int
) -> Iterator[tuple[int, bool]]:
    """(seed, success) of every step-th seed, without end. Saved attempts are not repeated."""
    if processes == 1:
        while True:
            yield seed, _attempt(wanted, parts, seed)
            seed += step
    # Simulators and OpenGL do not work after a fork.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        ahead: list[Future[bool]] = []
        try:
            while True:
                while len(ahead) < 2 * processes:
                    ahead.append(pool.submit(_attempt, wanted, parts, seed + step * len(ahead)))
                yield seed, ahead.pop(0).result()
                seed += step
        finally:
            pool.shutdown(cancel_futures=True)


def _attempt(wanted: Collection, parts: Path, seed: int) -> bool:
    done, failed = parts / f"{seed}.npz", parts / f"{seed}.failed"
    if not done.exists() and not failed.exists():
        demonstration = demonstrate(wanted, seed)
        if demonstration is None:
            failed.touch()
        else:
            temporary = parts / f"{seed}.tmp.npz"
            np.savez(temporary, allow_pickle=False, **demonstration)
            os.replace(temporary, done)
    return done.exists()


def _episodes(parts: Path, seeds: list[int]) -> Iterator[Demonstration]:
    for seed in seeds:
        with np.load(parts / f"{seed}.npz") as demonstration:
            yield dict(demonstration)

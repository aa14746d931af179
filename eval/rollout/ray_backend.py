"""Episodes on a Ray cluster (https://docs.ray.io), in the same groups as with processes, so with the same results."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.rollout import Decider, OnProgress, WatchedDecider, rollout

RETRIES = 3  # of a group whose worker died; an exception in the policy is not retried


@dataclass(frozen=True)
class Cluster:
    """address: of a running cluster ("auto", "host:port", "ray://host:port"); "local" starts one on this machine.

    processes: workers of a local cluster; None: one per core.
    """

    address: str = "local"
    processes: int | None = None


def run_groups(
    make_runner: Any,
    env_name: str,
    groups: Sequence[list[int]],
    record: Collection[int],
    advance: OnProgress,
    cluster: Cluster,
) -> list[Episode]:
    """Run `rollout` for each group of seeds, one Ray task per group; returns the episodes in the order of the groups.

    make_runner must be picklable; it runs once per worker. A group is repeated up to RETRIES times if its worker dies.
    Raises UserError if Ray is not installed or the cluster cannot be reached, and re-raises exceptions of workers.
    """
    ray = _connect(cluster)
    work = ray.remote(max_retries=RETRIES, num_cpus=1)(_work)
    name, made = uuid.uuid4().hex, ray.put(make_runner)
    tasks = [work.remote(name, made, env_name, group, record) for group in groups]
    pending = list(tasks)
    try:
        while pending:
            done, pending = ray.wait(pending)
            for episodes in ray.get(done):
                advance(sum(episode.ticks for episode in episodes), len(episodes))
        return [episode for part in ray.get(tasks) for episode in part]
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.WorkerCrashedError as error:
        raise UserError(
            f"Workers of the Ray cluster died {1 + RETRIES} times over the same episodes."
        ) from error
    finally:
        for task in pending:
            ray.cancel(task)


def portable(load: Any, folder: Path) -> Any:
    """A function for workers that carries the files of the checkpoint `folder` along and returns load(folder)."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    return partial(_unpack, load, files)


def _unpack(load: Any, files: dict[str, bytes]) -> Decider | WatchedDecider:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return load(folder)


_runners: dict[str, Decider | WatchedDecider] = {}  # the last runner of this worker process, by its name


def _work(
    name: str, make_runner: Any, env_name: str, seeds: list[int], record: Collection[int]
) -> list[Episode]:
    from ebt_policy.eval.rollout.one_thread import one_thread

    with one_thread():
        if name not in _runners:
            _runners.clear()
            _runners[name] = make_runner()
        return rollout(_runners[name], env_name, seeds, record=record)


def _connect(cluster: Cluster) -> Any:
    if cluster.address == "local":
        # Workers on this machine have the driver's environment already: no need to start each through `uv run`.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(
            f"The Ray backend needs Ray ({error}). Install the extra: pip install 'lerobot_policy_ebt[ray]'"
        ) from error
    if ray.is_initialized():
        return ray
    try:
        if cluster.address == "local":
            ray.init("local", num_cpus=cluster.processes, include_dashboard=False, log_to_driver=False)
        else:
            ray.init(cluster.address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"There is no Ray cluster at '{cluster.address}': {error}") from error
    return ray

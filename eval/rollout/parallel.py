"""Episodes in several processes, with one progress bar. The result is the same for every number of processes.

Seeds are split into groups first, and groups are given to processes: the batches, and so their rounding, stay the same.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ebt_policy.envs import environment
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.eval.rollout.ray_backend import Cluster, run_groups
from ebt_policy.eval.rollout.rollout import Decider, OnProgress, WatchedDecider, rollout

GROUP_SIZE = 25  # episodes in a batch: large enough for speed, small enough to share among processes
MakeRunner = Callable[[], Decider | WatchedDecider]
# Imported once, in the process that the workers are forked from.
_PRELOAD = [__name__, "lerobot.policies.factory"]


def run_episodes(
    make_runner: MakeRunner,
    env_name: str,
    seeds: Sequence[int],
    *,
    processes: int = 1,
    group_size: int = GROUP_SIZE,
    record: Collection[int] = (),
    show_progress: bool = True,
    title: str = "episodes",
    cluster: Cluster | None = None,
) -> list[Episode]:
    """Run `rollout` for all seeds in groups of `group_size`, in processes with one torch thread each.

    make_runner must be picklable if processes > 1, for example `functools.partial(load_runner, spec)`. The episodes have the
    order of the seeds and are identical for every number of processes. cluster: use this Ray cluster instead.
    """
    groups = [list(seeds[i : i + group_size]) for i in range(0, len(seeds), group_size)]
    ticks = environment(env_name).max_ticks * len(seeds)
    with _progress_bar(title, ticks, len(seeds), show_progress) as advance:
        if cluster is not None:
            return run_groups(make_runner, env_name, groups, record, advance, cluster)
        if processes == 1 or len(groups) == 1:
            with one_thread():
                runner = make_runner()
                parts = [
                    rollout(runner, env_name, seeds, progress=advance, record=record) for seeds in groups
                ]
                return [episode for part in parts for episode in part]
        return _in_processes(make_runner, env_name, groups, min(processes, len(groups)), record, advance)


def prepare_workers() -> None:
    """Start the imports of worker processes, which take seconds, in the background. Optional."""
    if _context().get_start_method() == "forkserver":
        from multiprocessing import forkserver

        forkserver.ensure_running()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _progress_bar(title: str, ticks: int, episodes: int, show: bool) -> Iterator[OnProgress]:
    """A progress bar over ticks that shows the number of finished episodes."""
    begin, finished = time.perf_counter(), 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[finished]}/{task.fields[episodes]} episodes, {task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, disable=not show, transient=True) as bar:
        task = bar.add_task(title, total=ticks, finished=0, episodes=episodes, rate=0.0)

        def advance(new_ticks: int, new_episodes: int) -> None:
            nonlocal finished
            finished += new_episodes
            rate = finished / (time.perf_counter() - begin)
            bar.update(task, advance=new_ticks, finished=finished, rate=rate)

        yield advance


@dataclass
class _Worker:
    """The state of a worker process."""

    make_runner: MakeRunner
    counters: Any  # shared memory: (ticks, episodes) done so far by all workers
    runner: Decider | WatchedDecider | None = None

    def advance(self, ticks: int, episodes: int) -> None:
        with self.counters.get_lock():
            self.counters[0] += ticks
            self.counters[1] += episodes


_worker: _Worker


def _start_worker(make_runner: MakeRunner, counters: Any) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = _Worker(make_runner, counters)


def _work(env_name: str, seeds: list[int], record: Collection[int]) -> list[Episode]:
    if _worker.runner is None:
        # Not in _start_worker: an exception there would only break the pool.
        _worker.runner = _worker.make_runner()
    return rollout(_worker.runner, env_name, seeds, progress=_worker.advance, record=record)


def _in_processes(
    make_runner: MakeRunner,
    env_name: str,
    groups: Sequence[list[int]],
    processes: int,
    record: Collection[int],
    advance: OnProgress,
) -> list[Episode]:
    context = _context()
    counters = context.Array("q", 2)
    seen = [0, 0]
    with ProcessPoolExecutor(processes, context, _start_worker, (make_runner, counters)) as pool:
        futures = [pool.submit(_work, env_name, group, record) for group in groups]
        pending = set(futures)
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2)
                now = counters[:]
                advance(now[0] - seen[0], now[1] - seen[1])
                seen = now
                for future in done:
                    future.result()  # raises what the worker raised
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [episode for future in futures for episode in future.result()]


def _context() -> BaseContext:
    """Fork server where available, else spawn: torch's threads do not survive a plain fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context

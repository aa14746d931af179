"""How long one decision takes: batch 1, warmed up, device synchronised, on observations of real episodes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.inference.runner import Runner, RunnerDecision
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import Trace
from ebt_policy.monitoring.calibration import Calibration
from ebt_policy.monitoring.watched import WatchedRunner


@dataclass(frozen=True)
class Latency:
    """Milliseconds from raw observations to raw actions: `decisions` measured, on `threads` CPU threads.

    trace: median of putting together a decision's Trace; part of the others, 0 for a policy without an energy.
    """

    p50: float
    p95: float
    trace: float
    decisions: int
    threads: int
    device: str


def measure_latency(
    runner: Runner,
    env_name: str,
    *,
    seed: int = 0,
    decisions: int = 150,
    warm_up: int = 10,
    max_seconds: float = 20.0,
) -> Latency:
    """Acts through whole episodes, so that warm starts and adaptive stopping cost what they cost in use.

    Stops after the episode in which `decisions` were measured or `max_seconds` passed. One CPU thread: it is
    the fastest setting for a batch of one, and it does not depend on the machine's number of cores.
    """
    timed = _Timed(runner)
    begin = time.perf_counter()
    with one_thread():
        while len(timed.milliseconds) < warm_up + decisions:
            rollout(timed, env_name, [seed])
            seed += 1
            if len(timed.milliseconds) > warm_up and time.perf_counter() - begin > max_seconds:
                break
        trace = _trace_milliseconds(timed.last) if timed.last is not None else 0.0
    measured = timed.milliseconds[warm_up:]
    p50, p95 = np.percentile(measured, [50, 95])
    return Latency(float(p50), float(p95), trace, len(measured), threads=1, device=runner.device)


def _trace_milliseconds(trace: Trace, repeats: int = 200) -> float:
    """Median time to make this trace again from the tensors that descent collects."""
    columns = [trace.energy, trace.residual_rms, trace.step_size, trace.accepted]
    steps = [
        (torch.from_numpy(e), torch.from_numpy(r), torch.from_numpy(s), torch.from_numpy(a))
        for e, r, s, a in zip(*(c.T.copy() for c in columns), strict=True)
    ]
    evaluations, reason = torch.from_numpy(trace.evaluations), torch.from_numpy(trace.stop_reason)
    if not steps:
        return 0.0
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        Trace.from_steps(steps, evaluations, reason)
        times.append((time.perf_counter() - begin) * 1e3)
    return float(np.median(times))


def measure_watching(runner: Runner, env_name: str, calibration: Calibration, *, seed: int = 0) -> float:
    """Median milliseconds that watching adds to a decision: signals, running score and quantile, for one episode."""
    inner = _Timed(runner)
    outer = _Timed(WatchedRunner(lambda **_: inner, calibration))
    with one_thread():
        rollout(outer, env_name, [seed])
    return float(np.median(np.subtract(outer.milliseconds, inner.milliseconds)[3:]))


class _Timed:
    """A runner that notes how long each of its decisions took, and is that runner for all else."""

    def __init__(self, runner: Any) -> None:
        self.runner, self.milliseconds = runner, list[float]()
        self.last: Trace | None = None
        self.n_obs_steps, self.n_action_steps = runner.n_obs_steps, runner.n_action_steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)

    def decide(
        self,
        observations: dict[str, np.ndarray],
        noise: Noise,
        previous: np.ndarray | None = None,
        **watching: Any,
    ) -> RunnerDecision:
        self._synchronise()
        begin = time.perf_counter()
        decision = self.runner.decide(observations, noise, previous, **watching)
        self._synchronise()
        self.milliseconds.append((time.perf_counter() - begin) * 1e3)
        self.last = decision.trace
        return decision

    def _synchronise(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

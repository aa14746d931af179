"""Wall-clock time of one decision at batch size 1, after warm-up, on the observations of whole episodes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from ebt_policy.eval.rollout.one_thread import one_thread
from ebt_policy.eval.rollout.rollout import rollout
from ebt_policy.inference.runner import Runner, RunnerDecision
from ebt_policy.model.noise import Noise
from ebt_policy.model.overlap import Overlap
from ebt_policy.model.trace import Trace
from ebt_policy.monitoring.calibration import Calibration
from ebt_policy.monitoring.watched import WatchedRunner


@dataclass(frozen=True)
class Latency:
    """Milliseconds from raw observations to raw actions: percentiles over `decisions`, on `threads` CPU threads.

    trace: median time to build a decision's Trace, contained in p50 and p95; 0 for a policy without an energy.
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
    """Runs whole episodes, so warm starts and adaptive stopping are measured as in use.

    Ends with the first episode after which `decisions` were measured or `max_seconds` have passed. One CPU thread: the
    fastest setting for batch size 1, and independent of the machine's number of cores. (A decision returns numpy arrays, so
    a GPU has finished when it returns.)
    """
    milliseconds: list[float] = []
    last: list[Trace] = []

    def note(_: dict[str, np.ndarray], decision: RunnerDecision, seconds: float) -> None:
        milliseconds.append(1e3 * seconds)
        last[:] = [decision.trace]

    begin = time.perf_counter()
    with one_thread():
        while len(milliseconds) < warm_up + decisions:
            rollout(runner, env_name, [seed], on_decision=note)
            seed += 1
            if len(milliseconds) > warm_up and time.perf_counter() - begin > max_seconds:
                break
        trace = _trace_milliseconds(last[0])
    measured = milliseconds[warm_up:]
    p50, p95 = np.percentile(measured, [50, 95])
    return Latency(float(p50), float(p95), trace, len(measured), threads=1, device=runner.device)


def _trace_milliseconds(trace: Trace, repeats: int = 200) -> float:
    """Median time in milliseconds to build this trace from the tensors that descent collects."""
    columns = [trace.energy, trace.residual_rms, trace.step_size]
    steps = [
        (torch.from_numpy(e), torch.from_numpy(r), torch.from_numpy(s))
        for e, r, s in zip(*(c.T.copy() for c in columns), strict=True)
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
    """Median milliseconds that a WatchedRunner adds to a decision (signals, running score, quantile), over one episode."""
    inner, outer = _TimedRunner(runner), list[float]()
    watched = WatchedRunner(inner, calibration)
    with one_thread():
        rollout(watched, env_name, [seed], on_decision=lambda _, __, seconds: outer.append(1e3 * seconds))
    return float(np.median(np.subtract(outer, inner.milliseconds)[3:]))  # the first decisions warm up


class _TimedRunner(Runner):
    """The same runner (it shares everything with the given one), which records the time of each decision."""

    def __init__(self, runner: Runner) -> None:
        self.__dict__.update(runner.__dict__)
        self.milliseconds: list[float] = []

    def decide(
        self,
        observations: Mapping[str, np.ndarray],
        noise: Noise,
        previous: np.ndarray | None = None,
        overlap: Overlap | None = None,
    ) -> RunnerDecision:
        began = time.perf_counter()
        decision = super().decide(observations, noise, previous, overlap)
        self.milliseconds.append(1e3 * (time.perf_counter() - began))
        return decision

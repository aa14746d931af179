"""Closed-loop episodes, many in one process: they begin together, decide in one batch and leave it when
finished.

Each has its own env and its own noise, both begun from its seed, so no episode depends on its batch-mates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from ebt_policy.envs import EnvSpec, environment
from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.inference.runner import RunnerDecision
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import Trace

_CAMERA = "observation.images."
OnProgress = Callable[[int, int], None]  # (ticks done, episodes finished) since the last call


class Decider(Protocol):
    """What a rollout needs of a Runner."""

    n_obs_steps: int
    n_action_steps: int

    def decide(
        self,
        observations: dict[str, np.ndarray],
        noise: Noise,
        previous: np.ndarray | None = None,
        **watching: Any,
    ) -> RunnerDecision: ...


class _Running:
    """One episode under way."""

    def __init__(self, spec: EnvSpec, seed: int, n_obs_steps: int, record: bool) -> None:
        self.spec, self.seed = spec, seed
        self.env = spec.make(record)
        observation, info = self.env.reset(seed=seed)
        self.disturbance = info.get("disturbance_plan")
        self.history = deque([spec.to_policy(observation)] * n_obs_steps, maxlen=n_obs_steps)
        self.frames: list[np.ndarray] | None = [self.env.render()] if record else None
        self.coverages: list[float] = []
        self.traces: list[Trace] = []
        self.decision_ticks: list[int] = []
        self.ticks_to_success: int | None = None
        self.done = False

    def decided(self, trace: Trace) -> None:
        self.decision_ticks.append(len(self.coverages))
        self.traces.append(trace)

    def execute(self, actions: np.ndarray, last: bool = False) -> None:
        """Up to n actions (n, A), fewer when the episode ends; `last`: it ends with them."""
        for action in actions:
            observation, _, terminated, truncated, info = self.env.step(action)
            self.history.append(self.spec.to_policy(observation))
            self.coverages.append(self.spec.coverage(info))
            if self.frames is not None:
                self.frames.append(self.env.render())
            if self.ticks_to_success is None and self.spec.success(info):
                self.ticks_to_success = len(self.coverages)
            if terminated or truncated or len(self.coverages) == self.spec.max_ticks:
                self.done = True
                break
        self.done |= last
        if self.done:
            self.env.close()

    def episode(self, n_action_steps: int, watch: Any) -> Episode:
        energies = np.array([trace.final_energy[0] for trace in self.traces], np.float64)
        known = energies[~np.isnan(energies)]
        return Episode(
            seed=self.seed,
            env=self.spec.name,
            success=self.ticks_to_success is not None,
            max_coverage=max(self.coverages),
            final_coverage=self.coverages[-1],
            ticks=len(self.coverages),
            ticks_to_success=self.ticks_to_success,
            n_action_steps=n_action_steps,
            decisions=len(self.traces),
            evaluations_per_decision=float(np.mean([trace.evaluations[0] for trace in self.traces])),
            inner_steps=float(np.mean([trace.steps_taken[0] for trace in self.traces])),
            final_energy_mean=float(known.mean()) if len(known) else float("nan"),
            final_energy_max=float(known.max()) if len(known) else float("nan"),
            traces=self.traces,
            frames=self.frames,
            coverages=None if self.frames is None else self.coverages,
            disturbance=self.disturbance,
            decision_ticks=self.decision_ticks,
            watch=watch,
        )


def rollout(
    runner: Decider,
    env_name: str,
    seeds: Sequence[int],
    *,
    progress: OnProgress | None = None,
    record: Collection[int] = (),
) -> list[Episode]:
    """One episode per seed, all in one batch in this process; `record` names the seeds whose frames are kept.

    Receding horizon: each decision executes n_action_steps ticks, or as many as it says, and the next one is given
    what is left of its chunk. A runner with `watch` gets one watch for each episode.
    """
    spec = with_cameras(environment(env_name), runner)
    episodes = [_Running(spec, seed, runner.n_obs_steps, seed in record) for seed in seeds]
    watches = [runner.watch() if hasattr(runner, "watch") else None for _ in seeds]
    _check_actions(runner, episodes)
    noise = Noise.from_seeds(seeds)
    live, memory = list(range(len(episodes))), PlanMemory()
    while live:
        running = [episodes[i] for i in live]
        watching = {"watches": [watches[i] for i in live]} if watches[0] is not None else {}
        now = np.array([len(episode.coverages) for episode in running])  # tick of each episode
        decision = runner.decide(_stack(running), noise.rows(live), memory.at(now), **watching)
        memory.store(decision.chunk, now)
        planned = np.full(len(live), runner.n_action_steps) if decision.ticks is None else decision.ticks
        ticks = 0
        for row, episode in enumerate(running):
            before = len(episode.coverages)
            episode.decided(decision.trace.row(row))
            last = decision.ended is not None and bool(decision.ended[row])
            episode.execute(decision.actions[row, : planned[row]], last)
            # An episode that ends early has done its share of the work ahead.
            ticks += (spec.max_ticks if episode.done else len(episode.coverages)) - before
        still = [row for row, episode in enumerate(running) if not episode.done]
        memory.keep(still)
        live = [live[row] for row in still]
        if progress is not None:
            progress(ticks, len(running) - len(live))
    return [
        episode.episode(runner.n_action_steps, watch)
        for episode, watch in zip(episodes, watches, strict=True)
    ]


def with_cameras(spec: EnvSpec, runner: Any) -> EnvSpec:
    """The environment observing the cameras, and at the size, that the policy was trained on."""
    features = getattr(getattr(runner, "config", None), "input_features", None) or {}
    wanted = {k.removeprefix(_CAMERA): f.shape for k, f in features.items() if k.startswith(_CAMERA)}
    make = spec.make_with_cameras
    if not wanted or make is None:
        return spec
    for name in wanted:
        if name not in spec.cameras:
            raise UserError(
                f"The policy sees a camera '{name}'; environment '{spec.name}' has {', '.join(spec.cameras)}. Choose the "
                "environment that it was trained for."
            )
    sizes = {tuple(shape[-2:]) for shape in wanted.values()}
    if len(sizes) > 1:
        raise UserError(
            f"The policy's cameras differ in size ({sorted(sizes)}); '{spec.name}' draws all at one size."
        )
    names, size = tuple(wanted), sizes.pop()
    return replace(spec, make=lambda render: make(names, size))


def _stack(running: Sequence[_Running]) -> dict[str, np.ndarray]:
    """Observation histories as {name: (B, T, ...)}."""
    return {
        name: np.stack([np.stack([frame[name] for frame in episode.history]) for episode in running])
        for name in running[0].history[0]
    }


def _check_actions(runner: Any, episodes: Sequence[_Running]) -> None:
    feature = getattr(getattr(runner, "config", None), "action_feature", None)
    if feature is not None and episodes and tuple(feature.shape) != episodes[0].env.action_space.shape:
        raise UserError(
            f"The policy's actions have shape {tuple(feature.shape)}; environment '{episodes[0].spec.name}' "
            f"takes {episodes[0].env.action_space.shape}. Choose the environment that it was trained for."
        )

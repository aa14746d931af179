"""Closed-loop episodes of many seeds in one batch.

Each episode has an env and a noise generator of its own, both seeded by its seed, so its result does not depend on the
other episodes of the batch. Legend: B running episodes, T observation steps, H horizon, A action dimension.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np

from ebt_policy.envs import EnvSpec, environment
from ebt_policy.envs.simulated import SimulatedEnv
from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.inference.plan_memory import PlanMemory
from ebt_policy.inference.runner import RunnerDecision
from ebt_policy.language.encoders import TASK
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import Trace

_CAMERA = "observation.images."
OnProgress = Callable[[int, int], None]  # (ticks done, episodes finished) since the last call


# Called after each decision of the batch with its observations {name: (B, T, ...)} and its wall-clock time in seconds.
OnDecision = Callable[[dict[str, np.ndarray], RunnerDecision, float], None]


class Decider(Protocol):
    """The part of a Runner that a rollout uses; see there."""

    n_obs_steps: int
    n_action_steps: int

    def decide(
        self, observations: dict[str, np.ndarray], noise: Noise, previous: np.ndarray | None = None
    ) -> RunnerDecision: ...


@runtime_checkable
class WatchedDecider(Protocol):
    """The part of a WatchedRunner that a rollout uses: one `watch` for each episode is given to all of its decisions."""

    n_obs_steps: int
    n_action_steps: int

    def watch(self) -> Any: ...

    def decide(
        self,
        observations: dict[str, np.ndarray],
        noise: Noise,
        previous: np.ndarray | None,
        watches: Sequence[Any],
    ) -> RunnerDecision: ...


class Operator(Protocol):
    """Somebody who takes over from the policy at a decision, and drives to the end of the episode."""

    def takes_over(self, seed: int, tick: int, watch: Any) -> bool:
        """Whether to take over before this decision of the episode `seed` is executed. watch: see `WatchedDecider`."""
        ...

    def drive(self, spec: EnvSpec, env: gym.Env, seed: int, observation: dict[str, np.ndarray]) -> None:
        """Act in `env` from its present observation {name: (...)} on."""
        ...


class RunningEpisode:
    """A running episode."""

    def __init__(self, spec: EnvSpec, seed: int, n_obs_steps: int, record: bool) -> None:
        self.spec, self.seed = spec, seed
        self.env = spec.make(record)
        observation, info = self.env.reset(seed=seed)
        self.disturbance = info.get("disturbance_plan")
        self.disturbed = False
        self.task = sentence(self.env)
        self.history = deque([spec.to_policy(observation)] * n_obs_steps, maxlen=n_obs_steps)
        # A disturbance may need the pictures of every tick.
        inner = None if self.disturbance else getattr(self.env, "unwrapped", None)
        self._skips_pictures = inner if isinstance(inner, SimulatedEnv) else None
        self.frames: list[np.ndarray] | None = [] if record else None
        self._record_frame()
        self.coverages: list[float] = []
        self.traces: list[Trace] = []
        self.decision_ticks: list[int] = []
        self.ticks_to_success: int | None = None
        self.done = False

    def decided(self, trace: Trace) -> None:
        self.decision_ticks.append(len(self.coverages))
        self.traces.append(trace)

    def execute(self, actions: np.ndarray, last: bool = False) -> None:
        """Execute actions (n, A) until the episode ends. last: it ends after them in any case."""
        for tick, action in enumerate(actions):
            if self._skips_pictures is not None:  # the next decision sees those of the last ticks alone
                self._skips_pictures.draws = tick >= len(actions) - len(self.history)
            observation, _, terminated, truncated, info = self.env.step(action)
            self.history.append(self.spec.to_policy(observation))
            self.coverages.append(self.spec.coverage(info))
            self.disturbed |= bool(info.get("disturbance"))
            self._record_frame()
            if self.ticks_to_success is None and self.spec.success(info):
                self.ticks_to_success = len(self.coverages)
            if terminated or truncated or len(self.coverages) == self.spec.max_ticks:
                self.done = True
                break
        self.done |= last
        if self.done:
            self.env.close()

    def hand_over(self, operator: Operator) -> None:
        """The operator acts from here on. What happens then is the operator's record, not part of this episode."""
        operator.drive(self.spec, self.env, self.seed, self.history[-1])
        self.done = True
        self.env.close()

    def _record_frame(self) -> None:
        if self.frames is not None:
            frame = self.env.render()
            assert isinstance(frame, np.ndarray)  # EnvSpec.make promises it
            self.frames.append(frame)

    def episode(self, n_action_steps: int, watch: Any) -> Episode:
        energies = np.array([trace.final_energy[0] for trace in self.traces], np.float64)
        known = energies[~np.isnan(energies)]
        return Episode(
            seed=self.seed,
            env=self.spec.name,
            success=self.ticks_to_success is not None,
            max_coverage=max(self.coverages, default=0.0),  # none where an operator took over at once
            final_coverage=self.coverages[-1] if self.coverages else 0.0,
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
            coverages=self.coverages,
            disturbance=self.disturbance and self.disturbance | {"acted": self.disturbed},
            task=self.task,
            decision_ticks=self.decision_ticks,
            watch=watch,
        )


def rollout(
    runner: Decider | WatchedDecider,
    env_name: str,
    seeds: Sequence[int],
    *,
    progress: OnProgress | None = None,
    record: Collection[int] = (),
    on_decision: OnDecision | None = None,
    operator: Operator | None = None,
) -> list[Episode]:
    """One episode per seed, all in one batch in this process; the episodes in `record` (seeds) keep their frames.

    Receding horizon: each decision executes n_action_steps ticks, and the next decision gets the rest of its chunk. operator: may take over at any decision; the episode then ends there.
    Raises UserError if cameras or actions of the policy do not fit the environment.
    """
    spec = with_cameras(environment(env_name), runner)
    episodes = [RunningEpisode(spec, seed, runner.n_obs_steps, seed in record) for seed in seeds]
    watches = [runner.watch() if isinstance(runner, WatchedDecider) else None for _ in seeds]
    _check_actions(runner, episodes)
    noise = Noise.from_seeds(seeds)
    told = bool(getattr(runner, "sentences", ()))
    live, memory = list(range(len(episodes))), PlanMemory()
    while live:
        running = [episodes[i] for i in live]
        now = np.array([len(episode.coverages) for episode in running])  # tick of each episode
        observations, previous = stacked(running, told), memory.at(now)
        began = time.perf_counter()
        if isinstance(runner, WatchedDecider):
            decision = runner.decide(observations, noise.rows(live), previous, [watches[i] for i in live])
        else:
            decision = runner.decide(observations, noise.rows(live), previous)
        if on_decision is not None:
            on_decision(observations, decision, time.perf_counter() - began)
        memory.store(decision.chunk, now)
        ticks = 0
        for row, episode in enumerate(running):
            before = len(episode.coverages)
            episode.decided(decision.trace.row(row))
            last = decision.ended is not None and bool(decision.ended[row])
            if operator is not None and operator.takes_over(episode.seed, before, watches[live[row]]):
                episode.hand_over(operator)
            else:
                episode.execute(decision.actions[row], last)
            # The progress bar counts an episode that ends early as complete.
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
    """The environment with the cameras and the picture size that the policy expects. Raises UserError if it has no such camera."""
    features = getattr(getattr(runner, "config", None), "input_features", None) or {}
    there = {_CAMERA + name for name in spec.cameras}
    named = {runner.name_in(there, name): feature for name, feature in features.items()}
    wanted = {k.removeprefix(_CAMERA): f.shape for k, f in named.items() if k.startswith(_CAMERA)}
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


def sentence(env: Any) -> str:
    """The sentence of the task that an env plays after its last reset; "" where it has none."""
    try:
        return str(env.get_wrapper_attr("task_description"))
    except AttributeError:
        return ""


def stacked(running: Sequence[RunningEpisode], told: bool = False) -> dict[str, np.ndarray]:
    """The observation histories of all running episodes: {name: (B, T, ...)}, and where the policy is told them also their
    sentences, `task` (B,)."""
    sentences = {TASK: np.array([episode.task for episode in running])} if told else {}
    return sentences | {
        name: np.stack([np.stack([frame[name] for frame in episode.history]) for episode in running])
        for name in running[0].history[0]
    }


def _check_actions(runner: Any, episodes: Sequence[RunningEpisode]) -> None:
    feature = getattr(getattr(runner, "config", None), "action_feature", None)
    if feature is not None and episodes and tuple(feature.shape) != episodes[0].env.action_space.shape:
        raise UserError(
            f"The policy's actions have shape {tuple(feature.shape)}; environment '{episodes[0].spec.name}' "
            f"takes {episodes[0].env.action_space.shape}. Choose the environment that it was trained for."
        )

"""A Runner with failure detection: signals of every decision, their calibrated score, and recovery actions on alarms.

Legend: B episodes deciding together, T observation steps, H horizon, A action dimension, n ticks executed of a chunk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from ebt_policy.errors import UserError
from ebt_policy.inference.runner import Runner, RunnerDecision
from ebt_policy.model.noise import Noise
from ebt_policy.model.overlap import Overlap
from ebt_policy.monitoring.calibration import Calibration
from ebt_policy.monitoring.learned_signals import LearnedSignals, learned
from ebt_policy.monitoring.monitor import Monitor, Reading
from ebt_policy.monitoring.recovery import Hold, Ladder, RecoveryState
from ebt_policy.monitoring.signals import decision_signals, rows
from ebt_policy.monitoring.transition import feature_vector


class Watch:
    """The record of one episode, one entry for each decision. readings, recovery: empty without a calibration."""

    def __init__(self, calibration: Calibration | None, ladder: Ladder, keep_inputs: bool) -> None:
        self.monitor = None if calibration is None else Monitor(calibration)
        self.recovery_state = RecoveryState(ladder)
        self.signals: list[dict[str, float]] = []
        self.readings: list[Reading] = []
        self.recovery: list[str] = []
        self.state: np.ndarray | None = None  # normalised, at the last decision
        self.features: Tensor | None = None  # (S,) input of the learned signals, at the last decision
        # (n, A) normalised, the last actions; None where not all were executed.
        self.done: np.ndarray | None = None
        self.action: np.ndarray | None = None  # (A,) the last robot action sent
        # With keep_inputs: observations {name: (T, ...)} and chunks (H, A) normalised of each decision.
        self.keep_inputs = keep_inputs
        self.observations: list[dict[str, np.ndarray]] = []
        self.chunks: list[np.ndarray] = []

    def read(self, values: dict[str, float]) -> str:
        """Adds the signals of a decision; returns the recovery action to take, "" for none."""
        self.signals.append(values)
        if self.monitor is None:
            return ""
        reading = self.monitor.update(values)
        self.readings.append(reading)
        action = self.recovery_state.step(reading.alarm)
        self.recovery.append(action)
        if self.recovery_state.done():
            self.monitor.reset_score()
        return action


class WatchedRunner:
    """A Runner for rollouts and planners that also records and reacts. Without a ladder it decides as the Runner does."""

    def __init__(
        self,
        runner: Runner,
        calibration: Calibration | None = None,
        ladder: Ladder | None = None,
        hold: Hold | None = None,
        keep_inputs: bool = False,
        nets: LearnedSignals | None = None,
    ) -> None:
        """hold is needed for the recovery action of that name, nets for learned signals. Raises UserError when the calibration is of
        another checkpoint, of the same one acting otherwise, or needs a net that is not given.
        """
        self.runner = runner
        self._calibration, self._ladder = calibration, ladder or Ladder(actions=())
        if calibration is not None:
            _check(calibration, self.runner)
        if hold is None and "hold" in self._ladder.actions:
            raise UserError(
                "The ladder has the recovery action 'hold', and nothing says how this robot holds still."
            )
        self._hold, self._keep_inputs, self._nets = hold, keep_inputs, nets or LearnedSignals()
        # A signal that is never read would leave the score as it is, and no alarm would ever come.
        if calibration is not None:
            for name in learned(calibration.statistic.signals):
                if name not in self._nets.names:
                    raise UserError(f"The calibration uses the signal '{name}', and its net is not here.")
        self.config, self.sentences = self.runner.config, self.runner.sentences
        self.needs, self.name_in = self.runner.needs, self.runner.name_in
        self.n_obs_steps, self.n_action_steps = self.runner.n_obs_steps, self.runner.n_action_steps
        self.device = self.runner.device

    def describe(self) -> dict[str, Any]:
        return self.runner.describe() | {"ladder": dataclasses.asdict(self._ladder)}

    def watch(self) -> Watch:
        """A Watch for a new episode; pass it to each of its decisions."""
        return Watch(self._calibration, self._ladder, self._keep_inputs)

    def decide(
        self,
        observations: dict[str, np.ndarray],
        noise: Noise,
        previous: np.ndarray | None,
        watches: Sequence[Watch],
        overlap: Overlap | None = None,
    ) -> RunnerDecision:
        """As Runner.decide. watches: one for each of the B episodes; the decision is added to it."""
        decision = self.runner.decide(observations, noise, previous, overlap)
        last = [watch.state for watch in watches]
        moved = None
        if decision.state is not None:
            known = [
                state if state is not None else np.full_like(decision.state[0], np.nan) for state in last
            ]
            moved = decision.state - np.stack(known)
        found = rows(decision_signals(decision.trace, decision.chunk, self.n_action_steps, previous, moved))
        if self._nets.names:
            self._add_learned(decision, watches, found)
        ended = np.zeros(len(watches), bool)
        taken: dict[str, list[int]] = {}
        for row, (watch, values) in enumerate(zip(watches, found, strict=True)):
            watch.state = None if decision.state is None else decision.state[row]
            taken.setdefault(watch.read(values), []).append(row)
        for action, chosen in taken.items():
            if action in ("hold", "ask"):
                self._stay(chosen, decision, observations, watches)
                ended[chosen] = action == "ask"
        for row, watch in enumerate(watches):
            if np.isfinite(decision.actions[row]).all():  # else it was not sent
                watch.action = decision.actions[row, -1]
            planned = bool(np.isfinite(decision.chunk[row]).all())
            watch.done = decision.chunk[row, : self.n_action_steps] if planned else None
            if self._keep_inputs:
                watch.observations.append({name: value[row] for name, value in observations.items()})
                watch.chunks.append(decision.chunk[row])
        return dataclasses.replace(decision, ended=ended)

    def _add_learned(
        self,
        decision: RunnerDecision,
        watches: Sequence[Watch],
        found: Sequence[dict[str, float]],
    ) -> None:
        """Adds the learned signals of the present observation, and of the transition to it, to `found`."""
        energy, novelty = self._nets.transition, self._nets.rnd
        with torch.no_grad():
            assert decision.observations is not None  # a Runner's own decision has them
            features = feature_vector(self.runner.policy, decision.observations, decision.encoded)
            if novelty is not None:
                for i, value in enumerate(novelty(features).tolist()):
                    found[i]["rnd"] = value
            known = (
                []
                if energy is None
                else [
                    (i, watch.features, watch.done)
                    for i, watch in enumerate(watches)
                    if watch.features is not None and watch.done is not None
                ]
            )
            if energy is not None and known:
                index = [i for i, _, _ in known]
                before = torch.stack([last for _, last, _ in known])
                done = torch.from_numpy(np.stack([actions for _, _, actions in known])).float()
                values = energy(before, done.to(before.device), features[index]).tolist()
                for i, value in zip(index, values, strict=True):
                    found[i]["transition"] = value
        for watch, seen in zip(watches, features, strict=True):
            watch.features = seen

    def _stay(
        self,
        chosen: list[int],
        decision: RunnerDecision,
        observations: dict[str, np.ndarray],
        watches: Sequence[Watch],
    ) -> None:
        """Replaces the actions of some rows by holding still, and drops their plan (NaN): no warm start afterwards. Where nobody
        knows an action that holds, the actions are NaN too.
        """
        states = observations[self.name_in(observations, "observation.state")]
        for row in chosen:
            state = states[row, -1]
            if self._hold is not None:
                action = self._hold(state, watches[row].action)
                decision.actions[row] = np.nan if action is None else action
            decision.chunk[row] = np.nan


# Options of a policy that its scores depend on, of any type of policy. Not those that say how it was trained, and not deadline_s: how
# many evaluations fit into it depends on the machine and its load, and the control loop sets it anew for every decision; a plan
# that it cut short says so (stop_reason deadline).
ACTING = (
    "n_action_steps",
    "max_evaluations",
    "min_evaluations",
    "start",
    "warm_start_share",
    "last_noise",
    "step_size",
    "descends",
    "stop_settled",
    "stop_energy",
    "unrolled_step_size",
    "unrolled_momentum",
    "unrolled_temperature",
    "num_inference_steps",
    "sampler",
    "timestep_spacing",
    "noise_scheduler_type",
)


def acting(runner: Runner) -> dict[str, Any]:
    """Those of ACTING that this policy has."""
    options = _options(runner.config)
    if runner.max_evaluations is not None:
        options.pop("num_inference_steps", None)  # follows from it
        options["max_evaluations"] = runner.max_evaluations
    return options


def _options(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in ACTING if hasattr(config, name)}


def _check(calibration: Calibration, runner: Runner) -> None:
    if calibration.checkpoint_sha256 != runner.checkpoint_sha256:
        raise UserError("The calibration was made for another checkpoint. Calibrate this one.")
    # An older file names fewer options: the policy acted as its checkpoint says then. Or more: options that are no more.
    saved = _options(runner.saved_config)
    made, now = saved | calibration.acting, saved | acting(runner)
    other = [name for name in ACTING if made.get(name) != now.get(name)]
    if other:
        said = "; with ".join(f"{name} = {made.get(name)}; here it is {now.get(name)}" for name in other)
        raise UserError(
            f"The calibration was made with {said}, and scores differ. Use the calibrated options, or calibrate with these: "
            f"ebt-policy calibrate --policy POLICY ...{_as_options(now, saved)}"
        )


def _as_options(now: dict[str, Any], saved: dict[str, Any]) -> str:
    """What differs from the checkpoint's own options, as options of `calibrate`."""
    changed = {name: now[name] for name in sorted(now) if now[name] != saved.get(name)}
    budget = changed.pop("max_evaluations", None)
    # As YAML, which --set reads: it takes 1e-05 for text.
    values = {name: yaml.safe_dump(value).splitlines()[0] for name, value in changed.items()}
    return "".join(
        [f" --max-evaluations {budget}" if budget else ""]
        + [f" --set {name}={value}" for name, value in values.items()]
    )

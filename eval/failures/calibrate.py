"""`ebt-policy calibrate`: the alarm threshold of a policy's score, from successful episodes, simulated or recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy import provenance
from ebt_policy.data.open_dataset import local_name, open_metadata
from ebt_policy.data.outcomes import corrected_episodes, failed_episodes
from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.failures.recorded import recorded_signals
from ebt_policy.eval.failures.transition_data import fitted_signals
from ebt_policy.eval.rollout.parallel import usable_cores
from ebt_policy.eval.rollout.watched_episodes import watch_episodes
from ebt_policy.inference.runner import find_checkpoint, load_runner
from ebt_policy.monitoring.calibration import Calibration, calibrated, episodes_needed
from ebt_policy.monitoring.learned_signals import beside, learned
from ebt_policy.monitoring.signals import DEFAULT_SIGNALS, Statistic, fit_statistic
from ebt_policy.monitoring.watched import acting
from ebt_policy.training.trained_on import unseen_episodes

FIT_SHARE = 0.2  # of the successful episodes, used for location and scale; not used for the threshold
Values = Sequence[dict[str, float]]  # of one episode: the signals of its decisions


def calibrate(
    policy: str,
    output: Path,
    *,
    env: str | None = None,
    dataset: str | None = None,
    root: Path | None = None,
    episodes: int = 250,
    seed: int = 300_000,
    alpha: float = 0.1,
    signals: Sequence[str] = DEFAULT_SIGNALS,
    max_evaluations: int | None = None,
    n_action_steps: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    processes: int | None = None,
    device: str = "cpu",
) -> Calibration:
    """Calibrate on new episodes in `env`, or on recorded successful ones in the LeRobot `dataset`; writes `output`.

    dataset, root: a repo id, a folder, or both. max_evaluations, n_action_steps, overrides: how the policy acts, as in `load_runner`.
    Recorded episodes that the policy was trained on are left out: its scores there are too low. So are those that the recording
    calls failures or in which an operator took over. Of the successful episodes
    every fifth sets the location and scale of the score, the others its threshold. Raises UserError if there are too few
    for alpha, with the number that is missing.
    """
    if dataset is None and root is not None:
        dataset = local_name(root)
    if (env is None) == (dataset is None):
        raise UserError(
            "Give either --env, to run episodes, or --dataset (or --root, a folder), with recorded successful ones."
        )
    acts: dict[str, Any] = {
        "max_evaluations": max_evaluations,
        "n_action_steps": n_action_steps,
        "overrides": overrides,
        "device": device,
    }
    runner = load_runner(policy, **acts)
    nets = beside(output) if learned(signals) else None
    if nets is not None:
        if env is None:
            raise UserError(
                f"The signals {', '.join(learned(signals))} are read while acting: calibrate with --env."
            )
        fitted_signals(runner, policy, learned(signals)).save(nets)
    if env is not None:
        ran = watch_episodes(
            policy,
            env,
            range(seed, seed + episodes),
            processes=processes or usable_cores(),
            title=f"{policy}, {env}",
            nets=nets,
            signals=signals,
            **acts,
        )
        seen = [episode.watch.signals for episode in ran if episode.success]
        horizon = -(-environment(env).max_ticks // runner.n_action_steps)
        fps = environment(env).fps
        print(f"{len(seen)} of {episodes} episodes succeeded; only these count.")
    else:
        unseen = _successful(unseen_episodes(find_checkpoint(policy), str(dataset), root), str(dataset), root)
        print(
            f"Calibrating on {len(unseen)} recorded episodes that the policy was not trained on.", flush=True
        )
        seen = recorded_signals(runner, str(dataset), root, unseen)
        horizon = max(map(len, seen))
        fps = open_metadata(str(dataset), root).fps
    statistic, scores = fit_and_score(seen, signals, horizon, alpha)
    made = calibrated(
        scores,
        statistic=statistic,
        horizon=horizon,
        alpha=alpha,
        checkpoint_sha256=runner.checkpoint_sha256,
        source=env or str(dataset),
        root=str(root.resolve()) if root else None,
        acting=acting(runner),
        versions=provenance.versions(),
        git_hash=provenance.git_hash(),
        usual_energy=_usual_energy(seen),
        fps=float(fps),
    )
    made.write(output)
    return made


def _successful(unseen: Sequence[int], dataset: str, root: Path | None) -> list[int]:
    """Without the episodes of which the recording says that they failed or were helped. Raises UserError where none is left."""
    meta = open_metadata(dataset, root)
    failed = failed_episodes(meta) & set(unseen)
    helped = corrected_episodes(meta, unseen) - failed
    kept = [episode for episode in unseen if episode not in failed | helped]
    if failed or helped:
        print(
            f"Left out: {len(failed)} episodes that failed, {len(helped)} in which an operator took over.",
            flush=True,
        )
    if not kept:
        raise UserError(
            f"Of the {len(unseen)} episodes of '{dataset}' that the policy was not trained on, {len(failed)} failed and an operator took "
            f"over in {len(helped)}: none shows the policy's task done. Record successful ones."
        )
    return kept


def _usual_energy(episodes: Sequence[Values]) -> float | None:
    """Median over all decisions of the energy of the last plan."""
    energies = [one.get("old_plan", np.nan) for episode in episodes for one in episode]
    known = [energy for energy in energies if np.isfinite(energy)]
    return float(np.median(known)) if known else None


def fit_and_score(
    episodes: Sequence[Values],
    signals: Sequence[str],
    horizon: int,
    alpha: float,
    window: int | None = None,
) -> tuple[Statistic, list[float]]:
    """A statistic fitted to every fifth episode, and the scores of the others. Raises UserError for too few episodes."""
    stride = round(1 / FIT_SHARE)
    needed = episodes_needed(alpha) * stride / (stride - 1)
    if len(episodes) < max(needed, stride):
        raise UserError(
            f"{len(episodes)} successful episodes are too few for alpha {alpha:g}: it takes {int(np.ceil(max(needed, stride)))}, "
            f"a fifth of which only sets the scale. Run or record {int(np.ceil(max(needed, stride))) - len(episodes)} more."
        )
    statistic = fit_statistic(episodes[::stride], signals, window=window)
    rest = [episode for i, episode in enumerate(episodes) if i % stride]
    return statistic, [episode_score(statistic, episode, horizon) for episode in rest]


def episode_score(statistic: Statistic, episode: Values, horizon: int) -> float:
    """The largest running score within the first `horizon` decisions."""
    return float(statistic.running(episode[:horizon]).max(initial=0.0))

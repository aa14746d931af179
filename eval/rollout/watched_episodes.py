"""Episodes of a WatchedRunner with the inputs and outputs of each decision, and their storage (npz, not pickled).

Legend: D decisions of an episode, T observation steps, H horizon, A action dimension.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.rollout.episodes import Episode
from ebt_policy.eval.rollout.parallel import run_episodes
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.runner import load_runner
from ebt_policy.monitoring.calibration import Calibration
from ebt_policy.monitoring.learned_signals import LearnedSignals, learned
from ebt_policy.monitoring.recovery import Ladder
from ebt_policy.monitoring.watched import WatchedRunner
from ebt_policy.provenance import sha256, write_atomic

_FORMAT = 1


@dataclass(eq=False)
class WatchedEpisode:
    """One episode as the input of failure detectors.

    length: ticks of the episode. ticks (D,): tick of each decision. signals: {name: (D,)}. observations: {name: (D, T, ...)},
    raw inputs of the policy. chunks (D, H, A): normalised.
    """

    env: str
    seed: int
    success: bool
    length: int
    ticks: np.ndarray
    signals: dict[str, np.ndarray]
    observations: dict[str, np.ndarray]
    chunks: np.ndarray

    @property
    def decisions(self) -> int:
        return len(self.ticks)

    def rows(self) -> list[dict[str, float]]:
        """The signals of each decision, without those that it does not have (NaN)."""
        return [
            {name: float(v[i]) for name, v in self.signals.items() if not np.isnan(v[i])}
            for i in range(self.decisions)
        ]


def watched_runner(
    policy: str,
    env: str,
    *,
    max_evaluations: int | None = None,
    n_action_steps: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    device: str = "cpu",
    calibration: Calibration | None = None,
    ladder: Ladder | None = None,
    keep_inputs: bool = False,
    nets: Path | None = None,
    signals: Sequence[str] = (),
    task: str = "",
) -> WatchedRunner:
    """The policy (see `load_runner`) in a WatchedRunner for `env`. At module level, so that worker processes can import it.

    nets: folder of learned signals. signals: which of them to compute; with a calibration, those that it uses.
    """

    runner = load_runner(policy, max_evaluations, n_action_steps, device, overrides, task)
    watched = partial(WatchedRunner, runner, calibration, ladder, environment(env).hold, keep_inputs)
    if nets is None:
        return watched()
    names = learned(calibration.statistic.signals if calibration is not None else signals)
    sha = sha256(find_checkpoint(policy) / "model.safetensors")
    return watched(nets=LearnedSignals.load(nets, names, sha))


def watch_episodes(
    policy: str, env: str, seeds: Sequence[int], *, processes: int = 1, title: str = "", **options: Any
) -> list[Episode]:
    """Run episodes on `seeds`, each with its `watch`. options: of `watched_runner`."""
    make = partial(watched_runner, policy, env, **options)
    return run_episodes(make, env, seeds, processes=processes, title=title or env)


def watched_episode(episode: Episode) -> WatchedEpisode:
    """The WatchedEpisode of an episode whose runner kept its inputs (keep_inputs)."""
    watch = episode.watch
    names = dict.fromkeys(name for one in watch.signals for name in one)
    return WatchedEpisode(
        env=episode.env,
        seed=episode.seed,
        success=episode.success,
        length=episode.ticks,
        ticks=np.array(episode.decision_ticks),
        signals={name: np.array([one.get(name, np.nan) for one in watch.signals]) for name in names},
        observations={
            name: np.stack([o[name] for o in watch.observations]) for name in watch.observations[0]
        },
        chunks=np.stack(watch.chunks),
    )


def write_watched(path: Path, episodes: Sequence[WatchedEpisode], made_with: Mapping[str, Any]) -> None:
    """Write all episodes into one file, atomically. made_with: JSON values that say how they were made."""
    meta = {
        "format": _FORMAT,
        "facts": dict(made_with),
        "episodes": [
            {"env": e.env, "seed": e.seed, "success": bool(e.success), "length": e.length} for e in episodes
        ],
    }
    arrays = {"decisions": np.array([e.decisions for e in episodes])}
    arrays["ticks"] = np.concatenate([e.ticks for e in episodes])
    arrays["chunks"] = np.concatenate([e.chunks for e in episodes])
    for name in episodes[0].signals:
        arrays[f"signal/{name}"] = np.concatenate([e.signals[name] for e in episodes])
    for name in episodes[0].observations:
        arrays[f"observation/{name}"] = np.concatenate([e.observations[name] for e in episodes])
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, meta=np.array(json.dumps(meta)), **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def read_watched(path: Path) -> tuple[list[WatchedEpisode], dict[str, Any]]:
    """Read (episodes, made_with) written by `write_watched`. Raises UserError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} holds no watched episodes: {error}") from error
    if meta.get("format") != _FORMAT:
        raise UserError(f"{path} holds no watched episodes of this version. Make them again.")
    ends = np.cumsum(arrays.pop("decisions"))
    episodes = []
    for record, begin, end in zip(meta["episodes"], [0, *ends[:-1]], ends, strict=True):
        part = {name: values[begin:end] for name, values in arrays.items()}
        episodes.append(
            WatchedEpisode(
                **record,
                ticks=part["ticks"],
                signals=_under("signal/", part),
                observations=_under("observation/", part),
                chunks=part["chunks"],
            )
        )
    return episodes, meta["facts"]


def _under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

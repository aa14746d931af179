"""Whether a policy has become better: both on the same seeds of an environment, with an interval of the difference."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.envs import environments
from ebt_policy.eval.failures.calibrate import calibrate
from ebt_policy.eval.report.report import percent, points, verdict
from ebt_policy.eval.rollout.evaluate import evaluate
from ebt_policy.eval.statistics.intervals import Interval, paired_success_difference, wilson
from ebt_policy.monitoring.calibration import read_calibration

ARGUMENTS = (
    "max_evaluations",
    "n_action_steps",
)  # of `calibrate` among those of `acting`; the others are options of the policy
SEED = 200_000  # of neither `eval` (100000) nor `calibrate` (300000): choosing by these episodes spoils no later figure


@dataclass(frozen=True)
class Improvement:
    """Success of both policies, and the new one's minus the old one's by Newcombe's interval for pairs."""

    old: Interval
    new: Interval
    difference: Interval

    def __str__(self) -> str:
        said = {
            "higher": "The new policy is better.",
            "lower": "The new policy is worse: keep the old one.",
            "not told apart": "So few episodes do not tell them apart.",
        }[verdict(self.difference)]
        return f"success {percent(self.old)} before, {percent(self.new)} after: {points(self.difference)}. {said}"


def improvement(
    old: str | Path,
    new: str | Path,
    env: str,
    episodes: int = 100,
    seed: int = SEED,
    processes: int | None = None,
) -> Improvement:
    """Both policies on the seeds seed, seed + 1, ... of `env`. Raises UserError as `evaluate` does."""
    solved = []
    for policy in (old, new):
        rows = evaluate(policy, env, episodes, seed, processes=processes, latency=False).rows
        solved.append([row.success for row in rows])
    before, after = (Interval(sum(s) / episodes, *wilson(sum(s), episodes)) for s in solved)
    return Improvement(before, after, paired_success_difference(solved[1], solved[0]))


def check_source(known: Path) -> None:
    """Raises UserError where a calibration, or the dataset that it was made from, is not there: before a training, not after it."""
    before = read_calibration(known)
    if before.source.partition("+")[0] not in environments():
        open_metadata(before.source, before.root)


def recalibrate(known: Path, run: Path, episodes: int, processes: int | None = None) -> str:
    """Calibrates the policy of `run` as the file `known` was: the same source, signals and alpha, into run/calibration.json.

    episodes: of an environment; of a dataset, all that the policy has not seen. Returns what was done. Raises UserError where
    the source is not there.
    """
    before, output = read_calibration(known), run / "calibration.json"
    simulated = before.source.partition("+")[0] in environments()
    again = partial(
        calibrate,
        str(run),
        output,
        env=before.source if simulated else None,
        dataset=None if simulated else before.source,
        root=Path(before.root) if before.root else None,
        episodes=episodes,
        alpha=before.alpha,
        signals=before.statistic.signals,
        max_evaluations=before.acting.get("max_evaluations"),
        n_action_steps=before.acting.get("n_action_steps"),
        processes=processes,
    )
    overrides = {name: value for name, value in before.acting.items() if name not in ARGUMENTS}
    if (
        overrides.get("stop_energy") is not None
    ):  # energies compare within one policy only: the new one has its own
        overrides["stop_energy"] = again(overrides=overrides | {"stop_energy": None}).usual_energy
    made = again(overrides=overrides)
    return f"Calibrated on {made.source}, {len(made.scores)} episodes: {output}"

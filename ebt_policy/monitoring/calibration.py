"""Split conformal thresholds on the score, with a bound on the rate of false alarms.

The score of an episode is the largest that its decisions reached within a fixed horizon. Of n calibration episodes, all
successful and none seen in training, the threshold is the k-th smallest score, k = ceil((n + 1)(1 - alpha)). A further
episode that is exchangeable with them exceeds it with probability at most alpha (Vovk et al., Algorithmic Learning in a
Random World, 2005). Nothing is promised about failures, and nothing once the world has changed.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from ebt_policy.errors import UserError
from ebt_policy.monitoring.signals import NOISY, Statistic
from ebt_policy.provenance import write_json

FORMAT = 1


def conformal_rank(n: int, alpha: float) -> int:
    """k = ceil((n + 1)(1 - alpha)), from 1. Raises UserError where it exceeds n: no finite threshold keeps alpha then."""
    if not 0 < alpha < 1:
        raise UserError(
            f"alpha is {alpha}; expected a rate of false alarms between 0 and 1, for example 0.1."
        )
    needed = episodes_needed(alpha)
    if n < needed:
        raise UserError(
            f"{n} successful episodes are too few to keep false alarms to {alpha:.0%}: {needed} are needed, "
            f"{needed - n} more. Record them, or allow a higher rate (alpha {1 / (n + 1):.2f} needs {n})."
            if n
            else f"There is no successful episode to calibrate on; {needed} are needed for alpha {alpha:g}."
        )
    return min(ceil((n + 1) * (1 - alpha) - 1e-9), n)


def episodes_needed(alpha: float) -> int:
    """The fewest episodes for which a threshold exists: 9 for .10, 19 for .05, 99 for .01."""
    return max(ceil(1 / alpha - 1 - 1e-9), 1)


def false_alarm_range(n: int, alpha: float, confidence: float = 0.9) -> tuple[float, float]:
    """Range of the realised rate of false alarms: central quantiles of Beta(n + 1 - k, k).

    alpha holds on average over calibrations; one calibration of n episodes has a rate of its own.
    """
    k = conformal_rank(n, alpha)
    tail = (1 - confidence) / 2
    low, high = beta.ppf([tail, 1 - tail], n + 1 - k, k)
    return float(low), float(high)


@dataclass(frozen=True)
class Calibration:
    """Scores of successful episodes of one checkpoint with given options, and the threshold that follows.

    statistic: how signals become a running score. horizon: decisions of an episode that count; its score is the
    largest among them; past it the rate of false alarms is not bounded. scores: of the calibration episodes, ascending. source: the environment or dataset they came
    from; root: the dataset's folder, where it was given. acting: options that the scores depend on, such as max_evaluations; a policy that acts otherwise needs a
    calibration of its own. usual_energy: median energy of the last plan at their decisions; None where unknown. fps: ticks a second
    of the source; None in older files.
    """

    statistic: Statistic
    horizon: int
    alpha: float
    scores: tuple[float, ...]
    checkpoint_sha256: str
    source: str
    root: str | None = None
    acting: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    git_hash: str | None = None
    usual_energy: float | None = None
    fps: float | None = None

    @property
    def rank(self) -> int:
        return conformal_rank(len(self.scores), self.alpha)

    @property
    def threshold(self) -> float:
        """A score above it is an alarm; one equal to it is none."""
        return self.scores[self.rank - 1]

    @property
    def false_alarms(self) -> tuple[float, float]:
        """Range (5 to 95 %) of the realised rate of false alarms per successful episode."""
        return false_alarm_range(len(self.scores), self.alpha)

    @property
    def covers(self) -> str:
        """How long an episode may be for the rate of false alarms to hold, in words."""
        ticks = self.acting.get("n_action_steps")
        seconds = f" ({self.horizon * ticks / self.fps:.0f} s at full speed)" if ticks and self.fps else ""
        return f"{self.horizon} decisions{seconds}"

    def quantile(self, score: float) -> float:
        """Share of calibration episodes that stayed below `score`, of n + 1: above 1 - alpha means alarm."""
        return bisect_left(self.scores, score) / (len(self.scores) + 1)

    def with_alpha(self, alpha: float) -> Calibration:
        """The same episodes with another rate of false alarms. Raises UserError when they are too few for it."""
        conformal_rank(len(self.scores), alpha)
        return replace(self, alpha=alpha)

    def write(self, path: Path) -> None:
        """Writes JSON atomically, with the derived threshold and range for human readers."""
        low, high = self.false_alarms
        derived = {
            "threshold": self.threshold,
            "rank": self.rank,
            "episodes": len(self.scores),
            "false_alarm_range_90": [low, high],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"format": FORMAT, **derived, **asdict(self)})


def calibrated(scores: Sequence[float], **facts: Any) -> Calibration:
    """A Calibration of these episode scores. Raises UserError for too few of them, or one that is not finite."""
    values = sorted(map(float, scores))
    if not np.isfinite(values).all():
        raise UserError(
            "A calibration episode has a score that is not a finite number: the signal does not suit this policy."
        )
    made = Calibration(scores=tuple(values), **facts)
    conformal_rank(len(values), made.alpha)
    return made


def read_calibration(path: Path | str, checkpoint_sha256: str | None = None) -> Calibration:
    """A calibration written by `Calibration.write`; with a hash, only if it is of that checkpoint.

    Raises UserError for any other file, one that was edited into nonsense, or one of another checkpoint.
    """
    try:
        data = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError(
            f"There is no calibration file {path}. Make one from successful episodes: ebt-policy calibrate --policy POLICY "
            f"--env ENV --output {path} (or --dataset REPO_ID, recorded on your arm)."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read a calibration from {path}: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{path} is no calibration of this version. Make one with `ebt-policy calibrate`.")
    known = {f.name for f in fields(Calibration)}
    try:
        kept = {name: value for name, value in data.items() if name in known}
        kept["statistic"] = Statistic(**{k: _tuples(v) for k, v in kept["statistic"].items()})
        made = calibrated(kept.pop("scores"), **kept)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}). Make it again with `ebt-policy calibrate`.") from error
    noisy = [name for name in made.statistic.signals if name in NOISY]
    if noisy:
        raise UserError(
            f"{path} was made from {', '.join(noisy)}, at a point that still has most of the noise drawn for the decision: "
            "chance decided when it alarms. Calibrate again; the default reads the energy of the last plan instead: "
            "ebt-policy calibrate."
        )
    if checkpoint_sha256 is not None and made.checkpoint_sha256 != checkpoint_sha256:
        raise UserError(
            f"{path} was made for another checkpoint ({made.checkpoint_sha256[:12]}, this one is "
            f"{checkpoint_sha256[:12]}): its thresholds mean nothing here. Calibrate this one: ebt-policy calibrate."
        )
    return made


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples they were."""
    return tuple(value) if isinstance(value, list) else value

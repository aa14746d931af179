"""Options of a bench file of kind `takeover`, read from YAML. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.bench_file import record
from ebt_policy.suggestions import did_you_mean


@dataclass(frozen=True)
class Arm:
    """One way to choose when the operator takes over. trigger: see `takeover_operator.foresight`.

    ticks_of: name of an arm before; then each round ends when the operator has driven as many ticks as in that arm's, and not
    after so many interventions.
    """

    name: str
    trigger: Literal["alarm", "random", "fixed", "start", "oracle"]
    ticks_of: str | None = None


@dataclass(frozen=True)
class TakeoverBench:
    """Rounds of: act and be helped in disturbed episodes, learn from it, be measured on held-out seeds.

    policy: a run of `ebt-policy train`. disturbances: KIND or KIND:STRENGTH, of collecting and of measuring. interventions: in a
    round, shared evenly by the disturbances. episodes, seed: measured after each round, undisturbed and with each disturbance.
    collect_seed: of the first episode acted in. operator_ticks: that the operator drives at most in an intervention.
    shown: interventions of each disturbance on the page of a round, next to the same seed after learning; 0: no page.
    improve: dotted options of the recipe of `improve` (steps, corrections.share, optimizer.lr). calibration_...: see `calibrate`.
    """

    name: str
    env: str
    policy: str
    disturbances: tuple[str, ...]
    arms: tuple[Arm, ...]
    rounds: int = 3
    interventions: int = 21
    episodes: int = 100
    seed: int = 100_000
    collect_seed: int = 50_000
    operator_ticks: int = 400
    calibration_episodes: int = 100
    calibration_seed: int = 300_000
    alpha: float = 0.1
    shown: int = 2
    improve: Mapping[str, Any] = field(default_factory=dict)


def load_takeover_bench(path: Path) -> TakeoverBench:
    """Read and check a file of kind `takeover`. Raises UserError naming a missing, unknown or wrong key."""
    data: dict[str, Any] = yaml.safe_load(path.read_text())
    data.pop("kind")
    arms = tuple(record(Arm, arm, f"{path}, arms") for arm in data.pop("arms", None) or [])
    config = record(TakeoverBench, data | {"name": path.stem, "arms": arms}, str(path))
    names = [arm.name for arm in arms]
    for i, arm in enumerate(arms):
        if arm.name in names[:i]:
            raise UserError(f"{path}: two arms are called '{arm.name}'.")
        if arm.ticks_of is not None and arm.ticks_of not in names[:i]:
            raise UserError(
                f"{path}, arm '{arm.name}': ticks_of '{arm.ticks_of}' is no arm before it."
                f"{did_you_mean(arm.ticks_of, names[:i])}"
            )
    for key, value in (("arms", arms), ("disturbances", config.disturbances)):
        if not value:
            raise UserError(f"{path}: '{key}' is missing.")
    if config.shown < 0:
        raise UserError(f"{path}: shown is {config.shown}; expected 0 or more.")
    if config.interventions < len(config.disturbances):
        raise UserError(
            f"{path}: interventions is {config.interventions}; expected at least one for each of the "
            f"{len(config.disturbances)} disturbances."
        )
    return config

"""Signals from small networks trained on the demonstrations, stored beside the calibration that uses them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebt_policy.monitoring.distillation import Distillation
from ebt_policy.monitoring.signals import LEARNED
from ebt_policy.monitoring.transition import TransitionEnergy


@dataclass(frozen=True)
class LearnedSignals:
    """One network for each signal of LEARNED; None where it is not used."""

    transition: TransitionEnergy | None = None
    rnd: Distillation | None = None

    @property
    def names(self) -> set[str]:
        return {name for name in LEARNED if getattr(self, name) is not None}

    def save(self, folder: Path) -> None:
        for name in self.names:
            getattr(self, name).save(folder)

    @classmethod
    def load(
        cls, folder: Path, names: Collection[str], checkpoint_sha256: str | None = None
    ) -> LearnedSignals:
        """Loads the networks of `names`. Raises UserError when one is missing or belongs to another checkpoint."""
        kinds: dict[str, Any] = {"transition": TransitionEnergy, "rnd": Distillation}
        return cls(**{name: kinds[name].load(folder, checkpoint_sha256) for name in names})


def learned(signals: Collection[str]) -> list[str]:
    """Those of `signals` that need a network."""
    return [name for name in LEARNED if name in signals]


def beside(calibration: Path) -> Path:
    """The folder for the networks of a calibration file."""
    return calibration.with_suffix(".signals")

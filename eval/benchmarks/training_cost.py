"""What training cost the rows of a bench, and how success grew with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ebt_policy.eval.report.report import Result
from ebt_policy.training.run_log import read_metrics


def flops(parameters: int, samples: int) -> float:
    """Of a training: 6 for each parameter and sample, as Kaplan et al. count (arXiv 2001.08361)."""
    return 6.0 * parameters * samples


@dataclass(frozen=True)
class LearningPoint:
    """Success of one setting after so many training samples and seconds (mean over seeds)."""

    samples: int
    seconds: float
    result: Result


@dataclass(frozen=True)
class TrainedRow:
    """The cost of training one row; seconds and held-out loss are means over its training seeds."""

    name: str
    parameters: int
    steps: int
    samples: int
    seconds: float
    held_out_loss: float | None
    learning_curve: Sequence[LearningPoint]

    @classmethod
    def read(cls, name: str, runs: Mapping[int, Path], learning_curve: Sequence[LearningPoint]) -> TrainedRow:
        """Read run.json and metrics.jsonl of the row's runs (training seed -> folder)."""
        metrics = [read_metrics(run) for run in runs.values()]
        held_out = [[m["held_out_loss"] for m in rows if "held_out_loss" in m][-1:] for rows in metrics]
        return cls(
            name=name,
            parameters=json.loads((next(iter(runs.values())) / "run.json").read_text())["parameters"],
            steps=metrics[0][-1]["step"],
            samples=metrics[0][-1]["samples"],
            seconds=sum(rows[-1]["seconds"] for rows in metrics) / len(metrics),
            held_out_loss=sum(h[0] for h in held_out) / len(held_out) if all(held_out) else None,
            learning_curve=learning_curve,
        )

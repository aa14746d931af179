"""`ebt-policy energy`: does the energy separate expert chunks from noised ones, and does descent lower it?

Legend: n observations, K noises for each, B batch, H horizon, A action dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from ebt_policy import provenance
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.unseen_windows import BATCH, unseen_windows, whole_windows
from ebt_policy.eval.report.report import Table
from ebt_policy.eval.statistics.intervals import auc
from ebt_policy.inference.checkpoints import find_checkpoint
from ebt_policy.inference.runner import Runner, load_runner
from ebt_policy.model.noise import Noise
from ebt_policy.model.trace import Trace
from ebt_policy.modeling_ebt import EBTPolicy

if TYPE_CHECKING:
    from lerobot.processor import PolicyProcessorPipeline

    from ebt_policy.data.windows import Windows


@dataclass(frozen=True)
class EnergyQuality:
    """The results; the field names are those of the JSON file.

    within_auc: mean over observations of the share of noised chunks with more energy than the expert's, and
    the mean of the worst episode. pooled_auc: expert against noised chunks, all observations together.
    descent_fell: share of the steps that lowered the energy.
    final_step_fell: share of decisions whose returned chunk has less energy than the last one evaluated.
    """

    within_auc: float
    within_auc_worst_episode: float
    pooled_auc: float
    expert_energy_median: float
    noised_energy_median: float
    descent_fell: float
    final_step_fell: float
    noise: float
    noises: int
    observations: int
    episodes: list[int]
    max_evaluations: int
    policy: str
    checkpoint_sha256: str
    versions: dict[str, str]

    def table(self) -> Table:
        rows = [
            ("AUC within one observation (mean)", f"{self.within_auc:.4f}"),
            ("AUC within one observation (worst episode)", f"{self.within_auc_worst_episode:.4f}"),
            ("AUC pooled over observations", f"{self.pooled_auc:.4f}"),
            ("Energy of expert chunks (median)", f"{self.expert_energy_median:.4g}"),
            ("Energy of noised chunks (median)", f"{self.noised_energy_median:.4g}"),
            ("Energy fell on a step", f"{self.descent_fell:.2%}"),
            ("Energy fell on the final step", f"{self.final_step_fell:.2%}"),
        ]
        note = (
            f"{self.observations} observations of {len(self.episodes)} held-out episodes, {self.noises} "
            f"noised chunks each, standard deviation {self.noise} in normalised units; descent of up to "
            f"{self.max_evaluations} evaluations."
        )
        return Table(("Energy", "Value"), tuple(rows), "", (note,))


def energy_quality(
    policy: str | Path,
    dataset: str | None = None,
    root: str | Path | None = None,
    *,
    episodes: Sequence[int] | None = None,
    noise: float = 0.15,
    noises: int = 8,
    max_observations: int = 2000,
    max_evaluations: int = 8,
    seed: int = 0,
    device: str = "cpu",
    json_path: Path | str | None = None,
    show: bool = True,
) -> EnergyQuality:
    """Measure the energy of `policy` on demonstrations that it was not trained on.

    dataset: LeRobot repo id; None: the training dataset. episodes: None: those that the policy was not trained on.
    noise: standard deviation in normalised action units. Windows that reach beyond their episode are not used.
    Raises UserError for a policy without an energy.
    """
    runner, windows, preprocess, episodes = held_out_windows(policy, dataset, root, episodes, device)
    model = runner.policy
    generator = torch.Generator().manual_seed(seed)
    samples = whole_windows(windows, max_observations)
    parts = []
    for indices in samples.split(BATCH):
        batch = preprocess(windows.samples(indices))
        parts.append(_measure(model, batch, noise, noises, max_evaluations, generator))
    expert, noised, steps, final = (np.concatenate(column) for column in zip(*parts, strict=True))
    within = ((expert[:, None] < noised) + 0.5 * (expert[:, None] == noised)).mean(1)
    owner = windows.episode_index[samples].cpu().numpy()
    tried, fell = steps.sum(0)
    result = EnergyQuality(
        within_auc=float(within.mean()),
        within_auc_worst_episode=float(min(within[owner == e].mean() for e in np.unique(owner))),
        pooled_auc=auc(noised, expert),
        expert_energy_median=float(np.median(expert)),
        noised_energy_median=float(np.median(noised)),
        descent_fell=float(fell / max(tried, 1)),
        final_step_fell=float(final.mean()),
        noise=noise,
        noises=noises,
        observations=len(expert),
        episodes=[int(e) for e in episodes],
        max_evaluations=max_evaluations,
        policy=str(policy),
        checkpoint_sha256=runner.checkpoint_sha256,
        versions=provenance.versions(),
    )
    if json_path is not None:
        Path(json_path).parent.mkdir(parents=True, exist_ok=True)
        provenance.write_json(Path(json_path), dataclasses.asdict(result))
    if show:
        table = result.table()
        Console().print(table.rich(), *table.notes, sep="\n", highlight=False)
    return result


def held_out_windows(
    policy: str | Path,
    dataset: str | None,
    root: str | Path | None,
    episodes: Sequence[int] | None = None,
    device: str = "cpu",
) -> tuple[Runner, Windows, PolicyProcessorPipeline, Sequence[int]]:
    """As `unseen_windows`, of a policy with an energy. Raises UserError for one without."""
    runner = load_runner(policy, device=device)
    if not isinstance(runner.policy, EBTPolicy):
        raise UserError(
            f"'{policy}' is a '{runner.config.type}' policy: it has no energy to measure. Give an 'ebt' policy."
        )
    return runner, *unseen_windows(runner, find_checkpoint(policy), dataset, root, episodes)


def _measure(
    model: Any,
    batch: dict[str, Tensor],
    noise: float,
    noises: int,
    max_evaluations: int,
    generator: torch.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Energies of expert (B,) and noised chunks (B, K), counts of descent steps (B, 2), whether the final step lowered the
    energy (B,).
    """
    expert = batch["action"]  # (B, H, A)
    draws = torch.randn((noises, *expert.shape), generator=generator).to(expert.device)
    noised = torch.stack([model.energy(batch, expert + noise * draw) for draw in draws], 1)
    decision = model.decide(batch, noise=Noise([generator] * len(expert)), max_evaluations=max_evaluations)
    returned = model.energy(batch, decision.chunk.to(expert.device)).cpu().numpy()
    return (
        model.energy(batch, expert).cpu().numpy(),
        noised.cpu().numpy(),
        descent_steps(decision.trace),
        returned < decision.trace.final_energy,
    )


def descent_steps(trace: Trace) -> np.ndarray:
    """(B, 2) counts of steps: all of them, and those that lowered the energy."""
    change = np.diff(trace.energy, axis=1)
    return np.stack([np.isfinite(change).sum(1), (change < 0).sum(1)], 1)

"""`ebt-policy energy --sentences`: has what was done less energy under its own sentence than under the others? And which
episodes have not: is what was done what their sentence says?

Legend: n observations, N sentences, B batch, H horizon, A action dimension.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ebt_policy import provenance
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.energy_quality import held_out_windows
from ebt_policy.eval.benchmarks.unseen_windows import BATCH, whole_windows
from ebt_policy.eval.report.report import Table
from ebt_policy.eval.statistics.intervals import auc
from ebt_policy.language.encoders import OBS_TASK
from ebt_policy.language.task_step import TaskProcessorStep

WINDOWS = 8  # of an episode, at least so many on average
_FLOOR = 1e-6  # of an energy, before its logarithm


@dataclass(frozen=True)
class TaskEnergy:
    """One task: the share of its pairs (window, other sentence) in which the other one has more energy, and likewise of
    pairs (episode, other sentence) by mean energies; the sentence that is most often as low, and its share."""

    task: str
    windows: float
    episodes: float
    nearest: str
    nearest_windows: float


@dataclass(frozen=True)
class DoubtedEpisode:
    """An episode that a sentence other than its own explains better, and how much: the difference of the mean logarithms of the
    energy of its windows."""

    episode: int
    task: str
    likely: str
    difference: float


@dataclass(frozen=True)
class SentenceEnergy:
    """The results; the field names are those of the JSON file.

    window_auc, episode_auc: as in TaskEnergy, means over the tasks. pooled_auc: energies under the own sentences against those
    under others, all windows together. noise: standard deviation of what is added to the chunks, normalised units. doubted: the
    most doubtful first.
    """

    window_auc: float
    episode_auc: float
    pooled_auc: float
    tasks: list[TaskEnergy]
    doubted: list[DoubtedEpisode]
    noise: float
    observations: int
    episodes: list[int]
    policy: str
    checkpoint_sha256: str
    versions: dict[str, str]

    def table(self) -> Table:
        rows = [
            (
                one.task,
                f"{one.windows:.3f}",
                f"{one.episodes:.3f}",
                f"{one.nearest} ({one.nearest_windows:.3f})",
            )
            for one in self.tasks
        ]
        rows.append(("mean", f"{self.window_auc:.3f}", f"{self.episode_auc:.3f}", ""))
        note = (
            f"{self.observations} windows of {len(self.episodes)} episodes not trained on, each under its own sentence and all "
            f"others; noise {self.noise:g}. All windows pooled: {self.pooled_auc:.3f}."
        )
        notes = (note, f"Episodes that another sentence explains better: {len(self.doubted) or 'none'}.")
        doubts = tuple(
            f"  episode {one.episode}: '{one.task}' looks like '{one.likely}' (by {one.difference:.2f})"
            for one in self.doubted
        )
        header = ("Task", "AUC, windows", "AUC, episodes", "Hardest sentence")
        return Table(header, tuple(rows), "", notes + doubts)


def sentence_energy(
    policy: str | Path,
    dataset: str | None = None,
    root: str | Path | None = None,
    *,
    episodes: Sequence[int] | None = None,
    noise: float = 0.0,
    draws: int = 4,
    max_observations: int = 2000,
    seed: int = 0,
    device: str = "cpu",
    json_path: Path | str | None = None,
    show: bool = True,
) -> SentenceEnergy:
    """Energies of demonstrations under every sentence that the policy or the dataset knows.

    episodes: None: those that the policy was not trained on. noise: standard deviation of noise on the chunks, the same under all sentences, and the mean over `draws` of it. Raises UserError
    for a policy that is not told its task, or has no energy.
    """
    runner, windows, preprocess, used = held_out_windows(policy, dataset, root, episodes, device)
    steps: Sequence[Any] = preprocess.steps  # LeRobot's registry hides the types of its steps
    step = next((s for s in steps if isinstance(s, TaskProcessorStep)), None)
    if step is None:
        raise UserError(
            f"'{policy}' is not told its task: there are no sentences to compare. Train on several tasks."
        )
    generator = torch.Generator().manual_seed(seed)
    samples = whole_windows(windows, max(max_observations, WINDOWS * len(used)))
    sentences = list(dict.fromkeys([*step.sentences, *windows.sentences(samples)]))
    vectors = step.vectors(sentences).to(device)  # (N, E)
    energies, own = [], []
    for indices in samples.split(BATCH):
        batch = preprocess(windows.samples(indices))
        energies.append(_under_each(runner.policy, batch, vectors, noise, draws, generator))
        own += [sentences.index(sentence) for sentence in windows.sentences(indices)]
    energy, right = np.concatenate(energies), np.array(own)
    owner = windows.episode_index[samples].cpu().numpy()
    tasks, doubted = _by_task(energy, right, owner, sentences), _doubted(energy, right, owner, sentences)
    mine = energy[np.arange(len(energy)), right]
    others = energy[right[:, None] != np.arange(len(sentences))]
    result = SentenceEnergy(
        window_auc=float(np.mean([one.windows for one in tasks])),
        episode_auc=float(np.mean([one.episodes for one in tasks])),
        pooled_auc=auc(others, mine),
        tasks=tasks,
        doubted=doubted,
        noise=noise,
        observations=len(energy),
        episodes=[int(e) for e in used],
        policy=str(policy),
        checkpoint_sha256=runner.checkpoint_sha256,
        versions=provenance.versions(),
    )
    if json_path is not None:
        Path(json_path).parent.mkdir(parents=True, exist_ok=True)
        provenance.write_json(Path(json_path), dataclasses.asdict(result))
    if show:
        table = result.table()
        Console().print(table.rich())
        Console().print(*table.notes, sep="\n", highlight=False, markup=False)  # sentences may have brackets
    return result


def _under_each(
    model: Any,
    batch: dict[str, Tensor],
    vectors: Tensor,
    noise: float,
    draws: int,
    generator: torch.Generator,
) -> NDArray[np.float64]:
    """Energies (B, N) of the batch's chunks under the sentences with vectors (N, E)."""
    chunk = batch["action"]  # (B, H, A)
    total = torch.zeros(len(chunk), len(vectors))
    for _ in range(draws if noise else 1):
        noised = chunk + noise * torch.randn(chunk.shape, generator=generator).to(chunk.device)
        for number, vector in enumerate(vectors):
            told = batch | {OBS_TASK: vector.expand(len(chunk), -1)}
            total[:, number] += model.energy(told, noised).cpu()
    return (total / (draws if noise else 1)).double().numpy()


def _by_task(
    energy: NDArray[np.float64], right: NDArray[np.int64], owner: NDArray[np.int64], sentences: Sequence[str]
) -> list[TaskEnergy]:
    """One entry for each task among the windows. energy (n, N), right (n,): number of the own sentence, owner (n,): episode."""
    found = []
    for number in map(int, np.unique(right)):
        mine, others = right == number, [i for i in range(len(sentences)) if i != number]
        means = np.stack([energy[owner == episode].mean(0) for episode in np.unique(owner[mine])])  # (E, N)
        shares = _above(energy[mine], number, others)
        worst = int(np.argmin(shares))
        found.append(
            TaskEnergy(
                sentences[number],
                float(shares.mean()),
                float(_above(means, number, others).mean()),
                sentences[others[worst]],
                float(shares[worst]),
            )
        )
    return found


def _doubted(
    energy: NDArray[np.float64], right: NDArray[np.int64], owner: NDArray[np.int64], sentences: Sequence[str]
) -> list[DoubtedEpisode]:
    """The episodes whose mean logarithm of the energy is least under another sentence. Arguments as of `_by_task`.

    Logarithms, so that a few windows that no sentence explains do not outweigh all others."""
    found = []
    for episode in np.unique(owner):
        mine = owner == episode
        means = np.log(energy[mine] + _FLOOR).mean(0)  # (N,)
        own, likely = int(right[mine][0]), int(means.argmin())
        if means[likely] < means[own]:
            difference = float(means[own] - means[likely])
            found.append(DoubtedEpisode(int(episode), sentences[own], sentences[likely], difference))
    return sorted(found, key=lambda one: -one.difference)


def _above(energy: NDArray[np.float64], number: int, others: Sequence[int]) -> NDArray[np.float64]:
    """For each of the `others` the share of rows in which its energy is above that of `number`; ties count half."""
    mine = energy[:, [number]]
    return ((energy[:, others] > mine) + 0.5 * (energy[:, others] == mine)).mean(0)

"""Which episodes to use: the ones asked for, checked, and their split into training and held-out ones."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from ebt_policy.errors import UserError


def choose_episodes(total: int, wanted: Sequence[int] | None) -> list[int]:
    """`wanted` as a list, all `total` episodes where it is None.

    Raises UserError for an episode that is named twice or that does not exist, and for an empty selection.
    """
    if wanted is None:
        return list(range(total))
    unknown = sorted({episode for episode in wanted if not 0 <= episode < total})
    if unknown or not wanted:
        found = f"asked for {unknown[:5]}" if unknown else "asked for none of them"
        raise UserError(f"dataset.episodes: the dataset has episodes 0 to {total - 1}; {found}.")
    twice = sorted(episode for episode, count in Counter(wanted).items() if count > 1)
    if twice:
        raise UserError(f"dataset.episodes: {twice[:5]} named more than once. Name each episode once.")
    return list(wanted)


def first_of_each_task(sentences: Mapping[int, str], count: int) -> list[int]:
    """The first `count` episodes of each task, in the order of `sentences` (episode -> its task's sentence).

    Raises UserError for a task with fewer, and for a count below one.
    """
    if count < 1:
        raise UserError(f"dataset.episodes_per_task must be at least 1, found {count}.")
    seen: Counter[str] = Counter()
    chosen = []
    for episode, sentence in sentences.items():
        seen[sentence] += 1
        if seen[sentence] <= count:
            chosen.append(episode)
    if short := [f"'{sentence}' has {found}" for sentence, found in seen.items() if found < count]:
        raise UserError(
            f"dataset.episodes_per_task is {count}; {'; '.join(short[:3])}. Take fewer, or record more."
        )
    return chosen


def split_episodes(n_episodes: int, held_out_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(train ids, held-out ids), sorted, disjoint, complete; a positive fraction holds out at least one episode.

    Raises UserError for a fraction outside [0, 1), and where no episode would be left to train on.
    """
    if not 0 <= held_out_fraction < 1:
        raise UserError(
            f"dataset.held_out_fraction must be at least 0 and below 1, found {held_out_fraction}."
        )
    n_held_out = max(round(n_episodes * held_out_fraction), int(held_out_fraction > 0))
    if n_held_out >= n_episodes:
        raise UserError(
            f"Holding out {n_held_out} of {n_episodes} episodes leaves none to train on. Train without held-out "
            "episodes: --set dataset.held_out_fraction=0 (over-fitting then goes unseen), or record more."
        )
    order = np.random.default_rng(seed).permutation(n_episodes)
    return sorted(order[n_held_out:].tolist()), sorted(order[:n_held_out].tolist())

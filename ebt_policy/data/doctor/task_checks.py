"""Checks of the sentences that name a dataset's tasks: a policy of several tasks is told which one to do by its sentence."""

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np

from ebt_policy.data.doctor.findings import Finding
from ebt_policy.data.doctor.frames import Frames, count

FEW_EPISODES = 5  # of one task among several
SIMILAR_WORD = (
    0.8  # ratio of difflib: cub and cube .86, left and right .22, clockwise and counterclockwise .72
)


def tasks(frames: Frames) -> Iterator[Finding]:
    """Sentences that are missing, that may be two spellings of one task, and tasks with few episodes."""
    found = task_counts(frames)
    if len(found) < 2:
        return
    if "" in {text.strip() for text in found}:
        remedy = (
            "Name the task of these episodes, or leave them out: the policy is told its task by the sentence."
        )
        yield Finding(
            "warning", "task", None, None, "Some episodes have no sentence, others have one.", remedy
        )
    for first, second in combinations(found, 2):
        if why := spelling(first, second):
            episodes = ", ".join(count(found[text][0], "episode") for text in (first, second))
            message = f"'{first}' and '{second}' ({episodes}) {why}. They count as two tasks."
            yield Finding(
                "warning", "task", None, None, message, "If they are one, give both the same sentence."
            )
    few = [f"'{text}' ({episodes})" for text, (episodes, _) in found.items() if episodes < FEW_EPISODES]
    if few:
        shown = ", ".join(few[:6]) + (f" and {len(few) - 6} more" if len(few) > 6 else "")
        message = (
            f"{count(len(few), 'task')} of {len(found)} have fewer than {FEW_EPISODES} episodes: {shown}."
        )
        remedy = "Record more of them. Training draws every task equally often, so theirs are repeated most."
        yield Finding("warning", "task", None, None, message, remedy)


def spelling(first: str, second: str) -> str | None:
    """Why two sentences may be spellings of one task; None where nothing says so."""
    a, b = (re.findall(r"\w+", text.casefold()) for text in (first, second))
    if a == b:
        return "differ in case, spaces or punctuation only"
    if len(a) != len(b):
        return None
    differing = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    if len(differing) != 1:
        return None
    x, y = differing[0]
    if min(len(x), len(y)) > 2 and SequenceMatcher(None, x, y).ratio() >= SIMILAR_WORD:
        return f"differ in one word only, '{x}' and '{y}'"
    return None


def task_counts(frames: Frames) -> dict[str, tuple[int, int]]:
    """{sentence: (episodes, frames)}, in the order of the tasks' numbers."""
    if "task_index" not in frames.columns:
        return {}
    texts = {}
    if frames.meta.tasks is not None:
        texts = dict(zip(frames.meta.tasks["task_index"].tolist(), frames.meta.tasks.index, strict=True))
    numbers = np.ravel(frames.columns["task_index"])
    found: dict[str, tuple[int, int]] = {}
    for number in np.unique(numbers).tolist():
        of_task = numbers == number
        text = str(texts.get(number, f"task {number}"))
        found[text] = (len(np.unique(frames.episode[of_task])), int(of_task.sum()))
    return found

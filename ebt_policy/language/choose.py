"""Whether a policy is conditioned on the task's sentence, and with which encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ebt_policy.errors import UserError
from ebt_policy.language.encoders import IGNORE, OBS_TASK, STATIC, TABLE, encode, has_static, is_closed
from ebt_policy.language.task_step import listed

if TYPE_CHECKING:
    from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata


class TaskOptions(Protocol):
    """The part of a policy's config that is about its tasks; see ChunkPolicyConfig."""

    task_encoder: str | None
    task_sentences: list[str] | None
    task_size: int

    @property
    def input_features(self) -> Any: ...


def dataset_sentences(meta: LeRobotDatasetMetadata, episodes: Sequence[int] | None = None) -> list[str]:
    """The distinct sentences of a dataset's episodes (all where None), in the order of their numbers."""
    if meta.tasks is None:
        return []
    known = [str(sentence) for sentence in meta.tasks.index]
    if episodes is None or (of_episode := _sentences(meta)) is None:
        return known
    used = {sentence for number in episodes for sentence in of_episode[number]}
    return [sentence for sentence in known if sentence in used]


def episode_sentences(meta: LeRobotDatasetMetadata, episodes: Sequence[int]) -> dict[int, str]:
    """Episode -> its first sentence; "" for all where the dataset does not say."""
    of_episode = _sentences(meta) or {}
    return {number: next(iter(of_episode.get(number, ())), "") for number in episodes}


def _sentences(meta: LeRobotDatasetMetadata) -> dict[int, list[str]] | None:
    """Episode -> its sentences; None where the dataset does not say."""
    rows = meta.episodes
    if rows is None or "tasks" not in rows.column_names:
        return None
    columns = rows.select_columns(["episode_index", "tasks"])[:]
    return dict(zip(columns["episode_index"], columns["tasks"], strict=True))


def condition_on(config: TaskOptions, sentences: Sequence[str]) -> None:
    """Decides for a new policy, and writes encoder, sentences and size of their vectors into its config.

    Without task_encoder it is conditioned where the data have more than one sentence: with `static` where its package is
    installed, else with `table`. Raises UserError where the encoder cannot be used.
    """
    encoder = config.task_encoder
    if encoder is None and len(sentences) > 1:
        encoder = STATIC if has_static() else TABLE
    if encoder in (None, IGNORE) or not sentences:
        return
    if OBS_TASK in (config.input_features or {}):
        raise UserError(
            f"The dataset has a feature '{OBS_TASK}' of its own. Rename it, or leave the sentences out: --set policy.task_encoder=ignore"
        )
    config.task_encoder = encoder
    config.task_sentences = list(sentences)
    config.task_size = encode(encoder, sentences).shape[1]


def add_sentences(config: TaskOptions, sentences: Sequence[str]) -> list[str]:
    """Fine-tuning: adds a dataset's sentences to those that a trained policy knows. Returns the new ones.

    Raises UserError where the policy's encoder knows no others than those of its training.
    """
    if config.task_sentences is None:
        return []
    new = [sentence for sentence in sentences if sentence not in config.task_sentences]
    if new and is_closed(config.task_encoder or ""):
        raise UserError(
            f"The checkpoint was trained with task_encoder={config.task_encoder}, which knows its own sentences only; the dataset "
            f"also has {listed(new)} Known: {listed(config.task_sentences)} Rename the tasks, or train a new policy with "
            "task_encoder=static."
        )
    config.task_sentences = [*config.task_sentences, *new]
    return new

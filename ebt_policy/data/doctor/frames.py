"""The numeric columns of a dataset, as the checks read them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_PREFIX
from numpy.typing import ArrayLike

from ebt_policy.data.feature_names import feature_names


@dataclass(frozen=True)
class Frames:
    """F frames in E episodes; the frames of an episode lie together."""

    meta: LeRobotDatasetMetadata
    columns: dict[str, np.ndarray]  # feature -> (F, D); observations and actions in floating point
    episode: np.ndarray  # (F,)
    frame: np.ndarray  # (F,), number within its episode
    starts: np.ndarray  # (E,), first row of each episode

    def features(self) -> Iterator[tuple[str, np.ndarray]]:
        """Names and values (F, D) of observations and actions: what a policy sees."""
        return ((key, x) for key, x in self.columns.items() if is_policy_feature(key))

    def first(self, marked: ArrayLike) -> tuple[int, int, str]:
        """Episode and frame of the first True in `marked` (F,), and how many there are, in words."""
        bad = np.asarray(marked)
        row, episodes = int(np.argmax(bad)), len(np.unique(self.episode[bad]))
        return (
            int(self.episode[row]),
            int(self.frame[row]),
            f"{count(int(bad.sum()), 'frame')} in {count(episodes, 'episode')}",
        )

    def name(self, key: str, index: int) -> str:
        """A dimension of a feature, in words."""
        names = feature_names(self.meta.features, key)
        return f"dimension {index} ({names[index]})" if names else f"dimension {index}"


def is_policy_feature(key: str) -> bool:
    return key == ACTION or key.startswith(OBS_PREFIX)


def count(number: int, noun: str) -> str:
    """ "1 frame", "2 frames"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def read_frames(
    meta: LeRobotDatasetMetadata, table: datasets.Dataset, features: Sequence[str] | None
) -> Frames:
    """features: the observations and actions to read, None for all of them. Raises nothing for odd types: bool and
    integer columns become numbers, text and pictures are left out."""
    columns = [
        key
        for key, feature in meta.features.items()
        if feature["dtype"] not in ("video", "image", "string", "language")
        and (features is None or key in features or not is_policy_feature(key))
    ]
    arrays = table.select_columns(columns).with_format("numpy")[:]
    episode = np.asarray(arrays["episode_index"])

    def column(key: str) -> np.ndarray:
        values = np.asarray(arrays[key]).reshape(len(episode), -1)
        if is_policy_feature(key) and not np.issubdtype(values.dtype, np.floating):
            return values.astype(np.float64)
        return values

    return Frames(
        meta=meta,
        columns={key: column(key) for key in columns},
        episode=episode,
        frame=np.asarray(arrays["frame_index"]),
        starts=np.flatnonzero(np.diff(episode, prepend=-1)),
    )

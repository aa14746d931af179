"""The rows of a LeRobot dataset, after making sure that their files are there."""

from collections.abc import Sequence
from pathlib import Path

import datasets
from huggingface_hub import is_offline_mode, snapshot_download
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.io_utils import load_nested_dataset
from lerobot.utils import constants

from ebt_policy.data.episodes import choose_episodes
from ebt_policy.errors import UserError


def read_table(
    meta: LeRobotDatasetMetadata, episodes: Sequence[int] | None = None, cameras: Sequence[str] = ()
) -> datasets.Dataset:
    """The rows of `episodes` (all where None) in dataset order.

    Only the videos of `cameras` have to be there. Raises UserError for an unknown or repeated episode and for missing
    files.
    """
    chosen = choose_episodes(meta.total_episodes, episodes)
    absent = fetch_missing(meta, chosen, cameras)
    if absent:
        path, (feature, episode) = next(iter(absent.items()))
        raise UserError(
            f"{feature}, episode {episode}: {meta.root / path} is missing ({len(absent)} files in all). "
            "Copy the dataset again, or leave these episodes or cameras out."
        )
    return load_rows(meta, episodes)


def load_rows(meta: LeRobotDatasetMetadata, episodes: Sequence[int] | None) -> datasets.Dataset:
    """The rows of `episodes` from the tables that are there. Raises UserError where they do not fit meta/info.json."""
    try:
        features = get_hf_features_from_features(meta.features)
        return load_nested_dataset(meta.root / "data", features, None if episodes is None else list(episodes))
    except Exception as error:  # of Arrow, Parquet or datasets
        cause = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"Dataset {meta.repo_id!r}: the tables in {meta.root / 'data'} cannot be read as meta/info.json describes "
            f"them. Copy or write the dataset again. Cause: {cause}"
        ) from error


def fetch_missing(
    meta: LeRobotDatasetMetadata, episodes: Sequence[int], cameras: Sequence[str]
) -> dict[Path, tuple[str, int]]:
    """Tables and videos that are not there: path below meta.root -> (feature or "data", first episode in it).

    Those of a dataset that was opened from the Hub are downloaded first; a local copy is left as it is.
    """
    absent = _missing(meta, episodes, cameras)
    if absent and constants.HF_LEROBOT_HUB_CACHE in meta.root.parents and not is_offline_mode():
        snapshot_download(
            meta.repo_id,
            repo_type="dataset",
            revision=meta.revision,
            cache_dir=constants.HF_LEROBOT_HUB_CACHE,
            allow_patterns=[str(path) for path in absent],
        )
        absent = _missing(meta, episodes, cameras)
    return absent


def _missing(
    meta: LeRobotDatasetMetadata, episodes: Sequence[int], cameras: Sequence[str]
) -> dict[Path, tuple[str, int]]:
    absent: dict[Path, tuple[str, int]] = {}
    videos = [key for key in cameras if key in meta.video_keys]
    for episode in episodes:
        files = [("data", meta.get_data_file_path(episode))]
        files += [(key, meta.get_video_file_path(episode, key)) for key in videos]
        for feature, path in files:
            if path not in absent and not (meta.root / path).is_file():
                absent[path] = (feature, episode)
    return absent

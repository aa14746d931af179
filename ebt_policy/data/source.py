"""Where a LeRobot dataset lies, and its tables: found or refused in the user's terms, never half created."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from huggingface_hub import is_offline_mode, snapshot_download, try_to_load_from_cache
from lerobot.datasets.dataset_metadata import CODEBASE_VERSION, LeRobotDatasetMetadata
from lerobot.datasets.feature_utils import get_hf_features_from_features
from lerobot.datasets.io_utils import load_nested_dataset
from lerobot.utils import constants

from ebt_policy.errors import UserError

INFO = Path("meta") / "info.json"


def open_metadata(repo_id: str, root: str | Path | None = None) -> LeRobotDatasetMetadata:
    """Metadata of dataset `repo_id`, from the folder `root`, HF_LEROBOT_HOME, or the Hub unless offline.

    Raises UserError where there is none, with the closest names at hand. A failure leaves nothing on disk. A
    `root` that was given is never filled from the network: a typing mistake there would download a dataset.
    """
    folder = _local_folder(repo_id, root)
    if folder is None and is_offline_mode():
        raise UserError(
            f"Dataset {repo_id!r} is not in {constants.HF_LEROBOT_HOME} (HF_LEROBOT_HOME), and "
            f"HF_HUB_OFFLINE keeps the Hub out of reach.{_suggestion(repo_id)} Correct the name, set "
            "HF_LEROBOT_HOME, or give the dataset's folder as root."
        )
    if folder is not None:
        _check_complete(repo_id, folder)
    try:
        return LeRobotDatasetMetadata(repo_id, root=folder)
    except Exception as error:  # the causes are many (Hub, file system, Parquet), the remedy is one
        where = f"read from {folder}" if folder else f"found in {constants.HF_LEROBOT_HOME} or on the Hub"
        raise UserError(
            f"Dataset {repo_id!r} could not be {where}.{_suggestion(repo_id)} Cause: {error}"
        ) from error


def split_episodes(n_episodes: int, held_out_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """(train ids, held-out ids), sorted, disjoint, complete; a positive fraction holds out at least one."""
    if not 0 <= held_out_fraction < 1:
        raise UserError(f"The held-out fraction must be at least 0 and below 1, found {held_out_fraction}.")
    n_held_out = max(round(n_episodes * held_out_fraction), int(held_out_fraction > 0))
    if n_held_out >= n_episodes:
        raise UserError(f"Holding out {n_held_out} of {n_episodes} episodes leaves none to train on.")
    order = np.random.default_rng(seed).permutation(n_episodes)
    return sorted(order[n_held_out:].tolist()), sorted(order[:n_held_out].tolist())


def fetch_missing(
    meta: LeRobotDatasetMetadata, episodes: Sequence[int] | None, cameras: Sequence[str]
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


def read_table(
    meta: LeRobotDatasetMetadata, episodes: Sequence[int] | None = None, cameras: Sequence[str] = ()
) -> datasets.Dataset:
    """The rows of `episodes` (all where None) in dataset order, after making sure that the files are there.

    Only the videos of `cameras` are wanted: state-only training needs none. Raises UserError for an unknown
    episode and for missing files.
    """
    if episodes is not None:
        unknown = sorted(set(episodes) - set(range(meta.total_episodes)))
        if unknown or not episodes:
            raise UserError(
                f"Dataset {meta.repo_id!r} has episodes 0 to {meta.total_episodes - 1}; "
                f"asked for {unknown[:5] if unknown else 'none of them'}."
            )
    absent = fetch_missing(meta, episodes, cameras)
    if absent:
        path, (feature, episode) = next(iter(absent.items()))
        raise UserError(
            f"{feature}, episode {episode}: {meta.root / path} is missing ({len(absent)} files in all). "
            "Copy the dataset again, or leave these episodes or cameras out."
        )
    features = get_hf_features_from_features(meta.features)
    return load_nested_dataset(meta.root / "data", features, None if episodes is None else list(episodes))


def _missing(
    meta: LeRobotDatasetMetadata, episodes: Sequence[int] | None, cameras: Sequence[str]
) -> dict[Path, tuple[str, int]]:
    absent: dict[Path, tuple[str, int]] = {}
    videos = [key for key in cameras if key in meta.video_keys]
    for episode in range(meta.total_episodes) if episodes is None else episodes:
        files = [("data", meta.get_data_file_path(episode))]
        files += [(key, meta.get_video_file_path(episode, key)) for key in videos]
        for feature, path in files:
            if path not in absent and not (meta.root / path).is_file():
                absent[path] = (feature, episode)
    return absent


def _local_folder(repo_id: str, root: str | Path | None) -> Path | None:
    """The folder that holds the dataset; None where only the Hub could have it."""
    if root is not None:
        folder = Path(root).expanduser()
        if (folder / INFO).is_file():
            return folder
        hint = f" Did you mean root={folder / repo_id}?" if (folder / repo_id / INFO).is_file() else ""
        raise UserError(
            f"{folder} holds no LeRobot dataset: {INFO} is missing.{hint or _suggestion(repo_id)}"
        )
    folder = constants.HF_LEROBOT_HOME / repo_id
    if (folder / INFO).is_file():
        return folder
    if is_offline_mode() and repo_id.count("/") == 1:
        # An earlier download: LeRobot itself would ask the Hub for its versions first.
        found = try_to_load_from_cache(
            repo_id,
            str(INFO),
            cache_dir=constants.HF_LEROBOT_HUB_CACHE,
            revision=CODEBASE_VERSION,
            repo_type="dataset",
        )
        if isinstance(found, str):
            return Path(found).parent.parent
    return None


def _check_complete(repo_id: str, folder: Path) -> None:
    """LeRobot takes a local dataset without these for an absent one, and asks the Hub."""
    for part in ("tasks.parquet", "episodes/*/*.parquet"):
        if not any((folder / "meta").glob(part)):
            raise UserError(
                f"Dataset {repo_id!r} in {folder} is incomplete: meta/{part} is missing. If you recorded it, "
                "call finalize() on it (with at least one episode saved); if you copied it, copy it again."
            )


def _suggestion(repo_id: str) -> str:
    names = sorted(
        {
            info.parent.parent.relative_to(constants.HF_LEROBOT_HOME).as_posix()
            for pattern in ("*", "*/*")
            for info in constants.HF_LEROBOT_HOME.glob(f"{pattern}/{INFO.as_posix()}")
        }
    )
    close = difflib.get_close_matches(repo_id, names, n=3, cutoff=0.6)
    close += [name for name in names if name.split("/")[-1] == repo_id.split("/")[-1] and name not in close]
    if close:
        return f" Did you mean {' or '.join(repr(name) for name in close)}?"
    return f" Local datasets: {', '.join(names[:8])}." if names else ""

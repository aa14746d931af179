"""Find a LeRobot dataset and open its metadata, or raise an error that says what is wrong with it."""

import difflib
import json
import shlex
from functools import lru_cache
from pathlib import Path

import datasets
from huggingface_hub import is_offline_mode, try_to_load_from_cache
from lerobot.datasets.dataset_metadata import CODEBASE_VERSION, LeRobotDatasetMetadata
from lerobot.utils import constants

from ebt_policy.errors import UserError

INFO = Path("meta") / "info.json"
NEEDED: dict[str, type | tuple[type, ...]] = {
    "codebase_version": str,
    "fps": (int, float),
    "features": dict,
    "total_episodes": int,
}


def local_name(root: str | Path) -> str:
    """The repo id of a dataset that is given by its folder alone."""
    return f"local/{Path(root).expanduser().resolve().name}"


def open_metadata(repo_id: str, root: str | Path | None = None) -> LeRobotDatasetMetadata:
    """Metadata of dataset `repo_id`, from the folder `root`, HF_LEROBOT_HOME, or the Hub unless offline.

    A `root` that was given is never filled from the network: a typing mistake there would download a dataset.
    Raises UserError where there is no such dataset (with the closest names), and for one that is in an older format,
    damaged or incomplete. A failure leaves nothing on disk. Do not change the result: as long as the files in meta/ stay as
    they are, the next call returns the same object, because opening takes long.
    """
    folder = _local_folder(repo_id, root)
    if folder is None and is_offline_mode():
        raise UserError(
            f"Dataset {repo_id!r} is not in {constants.HF_LEROBOT_HOME} (HF_LEROBOT_HOME), and HF_HUB_OFFLINE forbids "
            f"the Hub.{_suggestion(repo_id)} Correct the name, set HF_LEROBOT_HOME, or give the dataset's folder as "
            "root."
        )
    if folder is not None:
        _check_info(repo_id, folder)
        _check_complete(repo_id, folder)
        files = sorted(path for path in (folder / "meta").rglob("*") if path.is_file())
        return _open_once(repo_id, folder, tuple((path, *_age_and_size(path)) for path in files))
    return _open(repo_id, None)


def _age_and_size(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=2)
def _open_once(
    repo_id: str, folder: Path, files: tuple[tuple[Path, int, int], ...]
) -> LeRobotDatasetMetadata:
    """files: what is in meta/, so that a changed dataset is opened anew."""
    return _open(repo_id, folder)


def _open(repo_id: str, folder: Path | None) -> LeRobotDatasetMetadata:
    try:
        meta = LeRobotDatasetMetadata(repo_id, root=folder)
    except Exception as error:  # the causes are many (Hub, file system, Parquet), the remedy is one
        where = f"read from {folder}" if folder else f"found in {constants.HF_LEROBOT_HOME} or on the Hub"
        cause = str(error).strip() or type(error).__name__
        raise UserError(
            f"Dataset {repo_id!r} could not be {where}.{_suggestion(repo_id)} Cause: {cause}"
        ) from error
    _check_episodes(meta)
    _name_camera_axes(meta)
    return meta


def episode_rows(meta: LeRobotDatasetMetadata) -> datasets.Dataset:
    """meta/episodes, one row for each episode. `open_metadata` made sure that it is there."""
    if meta.episodes is None:
        raise UserError(f"Dataset {meta.repo_id!r} in {meta.root} has no episodes.")
    return meta.episodes


def _check_info(repo_id: str, folder: Path) -> None:
    """The format's version first: all other files depend on it."""
    path = folder / INFO
    try:
        info = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        state = "empty" if path.stat().st_size == 0 else f"damaged or cut short ({error})"
        raise UserError(f"Dataset {repo_id!r}: {path} is {state}. Copy the dataset again.") from error
    if not isinstance(info, dict):
        raise UserError(f"Dataset {repo_id!r}: {path} holds no JSON object. Copy the dataset again.")
    version = info.get("codebase_version")
    if isinstance(version, str) and not version.startswith(CODEBASE_VERSION.split(".")[0]):
        raise UserError(_other_version(repo_id, folder, version))
    for key, kind in NEEDED.items():
        if not isinstance(info.get(key), kind):
            raise UserError(
                f"Dataset {repo_id!r}: {path} gives no '{key}' (found {info.get(key)!r}). Copy the dataset again, or "
                "record it with LeRobot."
            )
    for name, feature in info["features"].items():
        if not isinstance(feature, dict) or not {"dtype", "shape"} <= feature.keys():
            raise UserError(f"Dataset {repo_id!r}: {path} gives no dtype and shape for the feature '{name}'.")


def _other_version(repo_id: str, folder: Path, version: str) -> str:
    """What to do about a dataset in another major version of LeRobot's format, as an error message."""
    found = f"Dataset {repo_id!r} in {folder} has LeRobot's format {version}; this program reads {CODEBASE_VERSION}. "
    if version.removeprefix("v").split(".")[0] not in ("1", "2"):
        return found + "It was written by a newer LeRobot: install that, or convert the dataset with it."
    if not version.startswith("v2.1"):
        found += "First convert it to v2.1 with the LeRobot release that wrote it. "
    return (
        found + "Convert it in place (keep a copy): python -m lerobot.scripts.convert_dataset_v21_to_v30 "
        f"--repo-id={shlex.quote(repo_id)} --root={shlex.quote(str(folder))} --push-to-hub=false"
    )


def _check_complete(repo_id: str, folder: Path) -> None:
    """LeRobot takes a local dataset without these files for an absent one, and asks the Hub."""
    for part in ("tasks.parquet", "episodes/*/*.parquet"):
        if not any((folder / "meta").glob(part)):
            raise UserError(
                f"Dataset {repo_id!r} in {folder} is incomplete: meta/{part} is missing. If you recorded it, "
                "call finalize() on it (with at least one episode saved); if you copied it, copy it again."
            )


def _check_episodes(meta: LeRobotDatasetMetadata) -> None:
    """meta/episodes must describe the episodes that info.json promises: 0, 1, 2, ..."""
    found = list(meta.episodes["episode_index"]) if meta.episodes is not None else []
    if found != list(range(meta.total_episodes)) or not found:
        raise UserError(
            f"Dataset {meta.repo_id!r} in {meta.root} is incomplete: meta/info.json promises {meta.total_episodes} "
            f"episodes, meta/episodes describes {len(found)}"
            + ("" if len(found) != meta.total_episodes else ", not numbered from 0")
            + ". It was recorded, copied or uploaded in part: copy it again, or record at least one episode."
        )


def _name_camera_axes(meta: LeRobotDatasetMetadata) -> None:
    """LeRobot's converters leave `names: null` on cameras, and its code then fails on them: fill them in."""
    for key in meta.camera_keys:
        feature = meta.features[key]
        shape = feature["shape"]
        if len(shape) != 3:
            raise UserError(
                f"{key}: pictures have three dimensions (height, width, channels); meta/info.json gives {shape}."
            )
        if not isinstance(feature.get("names"), list) or len(feature["names"]) != 3:
            channels_first = shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4)
            feature["names"] = (
                ["channels", "height", "width"] if channels_first else ["height", "width", "channels"]
            )


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


def _suggestion(repo_id: str) -> str:
    """Local datasets with a similar name, as the end of an error message."""
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

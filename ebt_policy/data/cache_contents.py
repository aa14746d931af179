"""What the cache on disk holds, pictures (`frame_cache`) and maps of frozen backbones (`feature_maps`), and how it is removed."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ebt_policy.data import feature_maps, frame_cache
from ebt_policy.data.frame_cache import cache_folder
from ebt_policy.errors import UserError

DAY = 86_400.0  # seconds


@dataclass(frozen=True)
class Entry:
    """What is kept of one camera of a dataset at one size."""

    dataset: str
    camera: str
    what: str  # "pictures", or "maps of <backbone>"
    size: str  # height x width
    files: tuple[Path, ...]  # one for each episode (and version), and what killed trainings left unfinished
    bytes: int
    days: float  # since a training last used some of it


def entries(dataset: str | None = None, older_than_days: float = 0.0) -> list[Entry]:
    """What the cache holds of a dataset (None: of all), leaving out files that were used in the last days.

    Raises UserError for a dataset that the cache does not hold.
    """
    found = list(_entries(older_than_days))
    if dataset is None:
        return found
    names = sorted({entry.dataset for entry in _entries(0.0)})
    if dataset not in names:
        raise UserError(
            f"The cache in {cache_folder()} has nothing of dataset '{dataset}'. It has: {', '.join(names) or 'nothing'}."
        )
    return [entry for entry in found if entry.dataset == dataset]


def _entries(older_than_days: float) -> Iterator[Entry]:
    now = time.time()
    for place in sorted(cache_folder().glob("*/*@*")):
        camera, _, kind = place.name.rpartition("@")
        size, _, backbone = kind.partition(".")
        suffix = feature_maps.SUFFIX if backbone else frame_cache.SUFFIX
        dataset = place.parent.name.replace("--", "/")
        files = sorted(place.glob(f"*{suffix}"))
        files += [file for file in frame_cache.left_over(dataset) if file.parent == place]
        used = {file: file.stat() for file in files}
        old = {file: found for file, found in used.items() if now - found.st_mtime >= older_than_days * DAY}
        if old:
            yield Entry(
                dataset=dataset,
                camera=camera.replace("--", "/"),
                what=f"maps of {backbone}" if backbone else "pictures",
                size=size,
                files=tuple(old),
                bytes=sum(found.st_size for found in old.values()),
                days=(now - max(found.st_mtime for found in old.values())) / DAY,
            )


def remove(chosen: list[Entry]) -> None:
    """Removes the files of these entries, and the folders that are empty then. What is needed again is made anew."""
    for entry in chosen:
        for file in entry.files:
            file.unlink(missing_ok=True)
        for folder in (entry.files[0].parent, entry.files[0].parent.parent):
            if not any(folder.iterdir()):
                folder.rmdir()

"""Maps of a frozen backbone, computed once for each picture and for augmented versions of it, and kept on disk as float16.

    <folder>/<dataset>/<camera>@<height>x<width>.<backbone>/<fingerprint>.f16     (rows, 1, 1, N)

A file holds one episode in one version (`Version`). Its name is a fingerprint of the pictures, of the backbone's weights and of
the version, so nothing outdated is ever read. It gets its name when it is complete: what was interrupted goes on with the
files that are missing.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import datasets
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from ebt_policy.data.camera_frames import TOLERANCE_S, CameraDecoder, camera_shapes, episode_spans
from ebt_policy.data.frame_cache import (
    EpisodeFile,
    FramesOnDisk,
    all_complete,
    cache_folder,
    check_space,
    episode_files,
    file_name,
    making,
    mark_used,
    new_file,
)
from ebt_policy.data.symmetry import PIXEL_MAPS
from ebt_policy.errors import UserError
from ebt_policy.model.augmentation import View
from ebt_policy.model.vision_frozen import FrozenBackbone, map_sizes

FORMAT = "1"  # of the files: another one makes them all anew
SUFFIX = ".f16"
PIXELS_AT_ONCE = (
    16 * 96 * 96
)  # through the backbone on a CPU: its activations then stay in the processor's cache
PLAIN_LINE_SECONDS = 30.0  # between lines where there is no terminal to draw a bar on


@dataclass(frozen=True)
class Version:
    """number: 0 is the picture itself, others are augmented at random. mirror: a key of PIXEL_MAPS, empty for none."""

    number: int
    mirror: str


@dataclass(frozen=True)
class Maps:
    """What is computed of each picture."""

    backbone: FrozenBackbone
    name: str  # of the backbone
    view: View
    variants: int = 1
    """Versions of a picture and of its mirror image: the picture itself, and variants - 1 augmented ones."""

    @cached_property
    def digest(self) -> str:
        """Of the backbone's weights."""
        found = hashlib.sha256(self.name.encode())
        for key, value in self.backbone.state_dict().items():
            found.update(key.encode() + value.cpu().numpy().tobytes())
        return found.hexdigest()

    def numbers(self, picture: tuple[int, int]) -> int:
        """In the maps of one picture of that size."""
        sizes = map_sizes(self.view.size(picture))
        return sum(c * h * w for c, (h, w) in zip(self.backbone.map_channels, sizes, strict=True))

    def mark(self, pictures: str, version: Version) -> str:
        """Fingerprint of the maps of an episode with this fingerprint of its pictures."""
        view = self.view if version.number else View(self.view.resize, self.view.crop)
        return hashlib.sha256(f"{FORMAT} {pictures} {self.digest} {view} {version}".encode()).hexdigest()[:32]

    @torch.inference_mode()
    def compute(self, pictures: Tensor, version: Version, generator: torch.Generator) -> Tensor:
        """(B, C, H, W) uint8 -> (B, 1, 1, N) float16 on the CPU."""
        device = self.backbone.mean.device
        rows = (
            max(1, PIXELS_AT_ONCE // (pictures.shape[-1] * pictures.shape[-2]))
            if device.type == "cpu"
            else 64
        )
        parts = []
        for part in pictures.split(rows):
            images = part.to(torch.float32).div_(255)
            if version.mirror:
                images = PIXEL_MAPS[version.mirror](images)
            images = self.view(images, random=version.number > 0, generator=generator).to(device)
            maps = self.backbone.packed(images.contiguous(memory_format=torch.channels_last))
            parts.append(maps.to("cpu", torch.float16))
        return torch.cat(parts)


class CachedMaps:
    """Maps of F pictures, and with a mirror of F mirror images behind them; one of the variants at random for each sample."""

    def __init__(self, files: FramesOnDisk, variants: int, picture_size: tuple[int, int]) -> None:
        """files: all rows of the first variant, then of the second, ..."""
        self._files, self._variants, self.picture_size = files, variants, picture_size
        self._rows = len(files) // variants

    def __getitem__(self, rows: Tensor) -> Tensor:
        """rows (B, ...) int64 -> (B, ..., 1, 1, N) float16 on the CPU. The steps of a sample are of the same variant."""
        variant = torch.zeros(len(rows), dtype=torch.int64)
        if self._variants > 1:
            variant = torch.randint(self._variants, (len(rows),))
        return self._files[rows + self._rows * variant.view(-1, *[1] * (rows.ndim - 1))]


def cached_maps(
    meta: LeRobotDatasetMetadata,
    table: datasets.Dataset,
    cameras: Sequence[str],
    maps: Maps,
    mirror: str = "",
    tolerance_s: float = TOLERANCE_S,
) -> dict[str, CachedMaps]:
    """camera -> maps of every picture of `table`, computed now unless the cache has them.

    mirror: a key of PIXEL_MAPS, if mirror images belong to the data. Raises UserError as `decode_cameras`, and where the cache
    does not agree with the first picture's maps.
    """
    spans = episode_spans(table)
    versions = [
        Version(n, side) for n, side in product(range(maps.variants), ["", mirror] if mirror else [""])
    ]
    shapes = camera_shapes(meta, cameras, maps.view.resize)
    files = {
        key: _map_files(meta, table, key, shapes[key], spans, maps, versions, tolerance_s) for key in cameras
    }
    decoders = {key: CameraDecoder.of(meta, table, key, maps.view.resize, tolerance_s) for key in cameras}
    if not all_complete(file for part in files.values() for _, file in part):
        with making(meta.repo_id):
            missing = {
                key: {file.path: (version, file) for version, file in files[key] if not file.complete}
                for key in cameras
            }
            check_space(file for part in missing.values() for _, file in part.values())
            if any(missing.values()):
                size = sum(file.size for part in missing.values() for _, file in part.values())
                Console().print(
                    f"Maps of {maps.name} are computed once and kept in {cache_folder()}: {maps.variants} versions of each picture"
                    f"{' and of its mirror image' if mirror else ''}, {size / 1e9:.3g} GB.",
                    soft_wrap=True,
                )
                _compute(maps, decoders, missing)
    for key in cameras:
        _check(maps, decoders[key], files[key][0])
    mark_used(file for part in files.values() for _, file in part)
    lengths = [stop - start for _, start, stop in spans] * len(versions)
    found = {}
    for key in cameras:
        shape = (1, 1, maps.numbers(shapes[key][1:]))
        on_disk = FramesOnDisk([file.path for _, file in files[key]], lengths, shape, torch.float16)
        found[key] = CachedMaps(on_disk, maps.variants, shapes[key][1:])
    return found


def _map_files(
    meta: LeRobotDatasetMetadata,
    table: datasets.Dataset,
    camera: str,
    shape: tuple[int, int, int],
    spans: Sequence[tuple[int, int, int]],
    maps: Maps,
    versions: Sequence[Version],
    tolerance_s: float,
) -> list[tuple[Version, EpisodeFile]]:
    """All episodes of the first version, then of the second, ..."""
    height, width = maps.view.size(shape[1:])
    numbers = maps.numbers(shape[1:])
    place = cache_folder() / file_name(meta.repo_id) / f"{file_name(camera)}@{height}x{width}.{maps.name}"
    pictures = episode_files(meta, table, camera, shape, spans, tolerance_s)
    return [
        (
            version,
            EpisodeFile(
                p.episode,
                p.start,
                p.stop,
                place / f"{maps.mark(p.path.stem, version)}{SUFFIX}",
                2 * numbers * (p.stop - p.start),
            ),
        )
        for version in versions
        for p in pictures
    ]


def _compute(
    maps: Maps,
    decoders: Mapping[str, CameraDecoder],
    missing: Mapping[str, Mapping[Path, tuple[Version, EpisodeFile]]],
) -> None:
    """Decodes each episode that lacks something once, in a second thread, and writes the maps of all its missing versions."""
    work: dict[tuple[str, int, int, int], list[tuple[Version, EpisodeFile]]] = {}
    for camera, files in missing.items():
        for version, file in files.values():
            work.setdefault((camera, file.episode, file.start, file.stop), []).append((version, file))
    total = sum((stop - start) * len(part) for (_, _, start, stop), part in work.items())
    progress = _MapProgress(total)
    with progress, ThreadPoolExecutor(1) as decoding:
        for (camera, episode, start, stop), part in work.items():
            with ExitStack() as stack:
                # The seed is in the name, so a picture's version does not depend on what else is computed.
                open_files = [
                    (version, stack.enter_context(new_file(f.path)), _generator(f)) for version, f in part
                ]
                blocks = decoders[camera].blocks(episode, start, stop)
                following = decoding.submit(next, blocks, None)
                while (block := following.result()) is not None:
                    following = decoding.submit(next, blocks, None)
                    for version, opened, generator in open_files:
                        opened.write(maps.compute(block[1], version, generator).numpy().data)
                        progress.advance(len(block[1]))


def _generator(file: EpisodeFile) -> torch.Generator:
    return torch.Generator().manual_seed(int(file.path.stem[:15], 16))


class _MapProgress:
    """Pictures done, pictures a second and the time that is left: as a bar, or in a line now and then without a terminal."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.console = Console()
        columns = (TextColumn("maps (pictures)"), BarColumn(), MofNCompleteColumn())
        self.bar = Progress(
            *columns, TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=self.console, transient=True,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self.task = self.bar.add_task("maps", total=total, rate="")

    def __enter__(self) -> None:
        self.began = self.last_line = time.perf_counter()
        self.bar.start()

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def advance(self, pictures: int) -> None:
        self.done += pictures
        now = time.perf_counter()
        rate = self.done / max(now - self.began, 1e-9)
        self.bar.update(self.task, completed=self.done, rate=f"{rate:,.0f} pictures/s")
        if not self.console.is_terminal and (
            now - self.last_line > PLAIN_LINE_SECONDS or self.done == self.total
        ):
            self.last_line = now
            left = (self.total - self.done) / rate / 60
            self.console.print(
                f"maps  {self.done:,}/{self.total:,} pictures  {rate:,.0f} pictures/s  {left:.1f} min left",
                highlight=False,
            )


def _check(maps: Maps, decoder: CameraDecoder, first: tuple[Version, EpisodeFile]) -> None:
    """Computes the maps of one picture again. Raises UserError where the cache has others: files or libraries changed."""
    version, file = first
    row = file.size // (file.stop - file.start)
    _, pictures = next(iter(decoder.blocks(file.episode, file.start, file.start + 1)))
    expected = maps.compute(pictures, version, torch.Generator()).flatten().float()
    stored = torch.frombuffer(bytearray(_head(file, row)), dtype=torch.float16).float()
    if not torch.allclose(stored, expected, rtol=0.02, atol=0.02 * float(expected.abs().max())):
        raise UserError(
            f"The cached maps of {decoder.camera} are not those of its pictures: {file.path} is damaged. Remove the cache "
            "of this dataset with `ebt-policy cache --clear` and start again."
        )


def _head(file: EpisodeFile, count: int) -> bytes:
    with open(file.path, "rb") as opened:
        return opened.read(count)

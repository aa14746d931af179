"""Training samples from demonstrations in memory. A batch is one indexing operation; no file is read for it."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_PREFIX
from torch import Tensor

from ebt_policy.data.camera_frames import TOLERANCE_S, decode_cameras
from ebt_policy.data.feature_maps import CachedMaps, Maps, cached_maps
from ebt_policy.data.frame_cache import FramesOnDisk
from ebt_policy.data.goal_alignment import GoalAlignment
from ebt_policy.data.interventions import INTERVENTION, imitated_parts
from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.statistics import Statistics, picture_statistics, vector_statistics
from ebt_policy.data.symmetry import Symmetry
from ebt_policy.data.tables import read_table
from ebt_policy.data.usable_features import why_unusable
from ebt_policy.errors import UserError
from ebt_policy.language.encoders import TASK
from ebt_policy.suggestions import did_you_mean


class Windows:
    """A LeRobot dataset cut into training samples, equal to LeRobotDataset's with delta_timestamps.

    Each feature is stored once for all F frames (twice as many with a symmetry). A sample is a frame number and the window
    of frames around it. At the ends of an episode the first or last frame is repeated. B batch, T observation steps, H horizon.
    """

    meta: LeRobotDatasetMetadata
    stats: dict[str, Statistics]
    """Statistics for the normaliser, over the frames in use and their mirror images. Those of cameras are of the decoded
    pictures, in 0..1: a dataset's own may be missing, out of date or in 0..255."""
    episode_index: Tensor
    """(len(self),) int64: the dataset's episode of each sample; a mirrored sample keeps its original's."""
    sentence_numbers: Tensor | None
    """(len(self),) int64: LeRobot's task_index of each sample; None where the dataset has none."""

    def __init__(
        self,
        meta: LeRobotDatasetMetadata,
        columns: dict[str, Tensor],
        pixels: Mapping[str, Tensor | FramesOnDisk | CachedMaps],
        episode_index: Tensor,
        *,
        sentence_numbers: Tensor | None = None,
        deltas: dict[str, Sequence[int] | None],
        drop_n_last_frames: int = 0,
        symmetry: Symmetry | None = None,
        device: str | torch.device = "cpu",
        parts: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """columns: feature -> (F, ...); pixels: camera -> (F, C, H, W) uint8, in memory or on disk, or maps of a frozen backbone,
        which include the mirror images; episode_index: (F,), the frames of an episode one after the other;
        sentence_numbers: (F,) LeRobot's task_index of each frame; deltas: frames relative to the current one for each of these
        features, None for no window.
        parts: (part of each frame (F,), whether it starts a sample (F,)) where samples may not reach over whole episodes."""
        n_frames = len(episode_index)
        self.meta = meta
        self._real_frames, self._symmetry = n_frames, symmetry
        if symmetry is not None:
            mapped = [key for key in columns if key == ACTION or key.startswith(OBS_PREFIX)]
            symmetry.check(
                {key: columns[key].shape[-1] for key in mapped},
                {key: _picture_size(frames) for key, frames in pixels.items()},
            )
            columns = {
                key: torch.cat([values, symmetry.features[key](values) if key in mapped else values])
                for key, values in columns.items()
            }
            episode_index = episode_index.repeat(2)
            parts = parts and (parts[0].repeat(2), parts[1].repeat(2))
            sentence_numbers = None if sentence_numbers is None else sentence_numbers.repeat(2)
        self.stats = {key: vector_statistics(values) for key, values in columns.items()}
        self.stats |= {
            key: picture_statistics(frames)
            for key, frames in pixels.items()
            if not isinstance(frames, CachedMaps)
        }
        self._columns = {key: values.to(device) for key, values in columns.items()}
        self._pixels = {
            key: frames.to(device) if isinstance(frames, Tensor) else frames for key, frames in pixels.items()
        }
        self._device = device

        first, last = _episode_borders(episode_index if parts is None else parts[0], n_frames)
        usable = torch.arange(len(episode_index)) <= last - drop_n_last_frames
        samples = torch.nonzero(usable if parts is None else usable & parts[1]).flatten()
        if len(samples) == 0:
            raise UserError(
                f"No frame is left of dataset {meta.repo_id!r} after drop_n_last_frames={drop_n_last_frames}"
                + ("." if parts is None else f", of those that '{INTERVENTION}' marks as the operator's.")
            )
        self.episode_index = episode_index[samples].to(device)
        self.sentence_numbers = None if sentence_numbers is None else sentence_numbers[samples]
        self._samples, self._first, self._last = samples.to(device), first.to(device), last.to(device)

        # One gather index serves all features that share their offsets.
        self._groups: dict[tuple[int, ...] | None, list[str]] = {}
        for key in [*columns, *pixels]:
            offsets = deltas[key]
            self._groups.setdefault(None if offsets is None else tuple(offsets), []).append(key)
        self._offsets = {
            offsets: torch.tensor(offsets, device=device) for offsets in self._groups if offsets is not None
        }

    @classmethod
    def from_lerobot(
        cls,
        repo_id: str,
        root: str | Path | None = None,
        *,
        features: Sequence[str],
        observation_delta_indices: Sequence[int] | None,
        action_delta_indices: Sequence[int] | None,
        episodes: Sequence[int] | None = None,
        drop_n_last_frames: int = 0,
        goal_alignment: GoalAlignment | None = None,
        symmetry: Symmetry | None = None,
        device: str | torch.device = "cpu",
        image_cache_gb: float = 4.0,
        resize_shape: tuple[int, int] | None = None,
        maps: Maps | None = None,
        tolerance_s: float = TOLERANCE_S,
        operators: bool = False,
        unfinished: int = 0,
    ) -> Self:
        """Read `features` (the policy's inputs and outputs; any other numeric column may be named too) once.

        observation_delta_indices, action_delta_indices: as in a LeRobot policy's config, in frames.
        drop_n_last_frames: frames at the end of each episode that start no sample.
        goal_alignment, symmetry: move each episode onto its goal, then add its mirror image.
        image_cache_gb: decoded pictures up to this size lie on `device` with all else; larger ones are kept on disk
            (`frame_cache`) and read for each batch.
        resize_shape: (height, width) of the pictures of all cameras, as in the policy's config; None: their own.
        maps: read maps of a frozen backbone, computed once (`feature_maps`), in place of pictures; resize_shape is then theirs.
        operators: use only frames that the column `intervention` marks, where there is one. unfinished: see `imitated_parts`.
        Raises UserError: no such dataset, feature or episode; NaN or infinity; a full disk.
        """
        meta = open_metadata(repo_id, root)
        for key in features:
            _check_feature(meta, key)
        cameras = [key for key in features if key in meta.camera_keys]
        low_dimensional = [key for key in features if key not in cameras]
        table = read_table(meta, episodes, cameras)
        marked = operators and INTERVENTION in meta.features
        has_tasks = "task_index" in table.column_names
        marks = [*([INTERVENTION] if marked else []), *(["task_index"] if has_tasks else [])]
        wanted = sorted({*low_dimensional, *marks, "episode_index", "frame_index"})
        arrays = table.select_columns(wanted).with_format("numpy")[:]
        columns = {key: _column(meta, key, arrays) for key in low_dimensional}
        episode_index = torch.as_tensor(arrays["episode_index"])
        parts = None
        if marked:
            flags, owners = np.ravel(arrays[INTERVENTION]), np.ravel(arrays["episode_index"])
            found = imitated_parts(flags, owners, unfinished)
            parts = torch.from_numpy(found[0]), torch.from_numpy(found[1])
        if goal_alignment is not None:
            goal_alignment.check(columns, cameras)
            columns = goal_alignment(columns, episode_index)

        def offsets(key: str) -> Sequence[int] | None:
            if key == ACTION:
                return action_delta_indices
            return observation_delta_indices if key.startswith(OBS_PREFIX) else None

        pixels: Mapping[str, Tensor | FramesOnDisk | CachedMaps]
        if maps is None:
            pixels = decode_cameras(meta, table, cameras, image_cache_gb, resize_shape, tolerance_s)
        else:
            pixels = cached_maps(meta, table, cameras, maps, symmetry.pixels if symmetry else "", tolerance_s)
        return cls(
            meta,
            columns,
            pixels,
            episode_index,
            sentence_numbers=torch.as_tensor(arrays["task_index"]).flatten() if has_tasks else None,
            deltas={key: offsets(key) for key in features},
            drop_n_last_frames=drop_n_last_frames,
            symmetry=symmetry,
            device=device,
            parts=parts,
        )

    def __len__(self) -> int:
        return len(self._samples)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Samples `indices` (B,) int64 in LeRobot's batch convention, raw values, on the device.

        `observation.*` (B, T, D), cameras (B, T, C, H, W) in 0..1, `action` (B, H, A), all float32 (maps in place of cameras:
        (B, T, 1, 1, N) float16, see `CachedMaps`), and for
        each `<name>_is_pad` (B, T or H) bool: true for frames beyond the episode, which are repetitions.
        Without offsets a feature has no window dimension and no padding flag.
        """
        frames = self._samples[indices.to(self._samples.device)]  # (B,)
        batch: dict[str, Tensor] = {}
        for offsets, keys in self._groups.items():
            rows = frames
            if offsets is not None:
                wanted = frames[:, None] + self._offsets[offsets]  # (B, T)
                rows = wanted.clamp(self._first[frames, None], self._last[frames, None])
                is_pad = rows != wanted
                batch |= {f"{key}_is_pad": is_pad for key in keys}
            for key in keys:
                batch[key] = self._columns[key][rows] if key in self._columns else self._pictures(key, rows)
        return batch

    def sentences(self, indices: Tensor) -> list[str]:
        """The sentence of the task of each of the samples `indices` (B,); "" where the dataset has none."""
        if self.sentence_numbers is None or self.meta.tasks is None:
            return [""] * len(indices)
        tasks = self.meta.tasks
        texts = dict(zip(tasks["task_index"].tolist(), map(str, tasks.index), strict=True))
        return [texts.get(number, "") for number in self.sentence_numbers[indices.cpu()].tolist()]

    def samples(self, indices: Tensor) -> dict[str, Any]:
        """As `batch`, with the sentence of each sample as `task`: what a policy's preprocessor takes."""
        return {**self.batch(indices), TASK: self.sentences(indices)}

    @property
    def cameras(self) -> list[str]:
        """The cameras whose pictures a batch holds: none where maps are read in their place."""
        return [name for name, frames in self._pixels.items() if not isinstance(frames, CachedMaps)]

    @cached_property
    def by_task(self) -> list[Tensor]:
        """The sample numbers of each task that has any."""
        numbers = self.sentence_numbers
        if numbers is None:
            return []
        return [torch.nonzero(numbers == number).flatten() for number in numbers.unique().tolist()]

    def _pictures(self, key: str, rows: Tensor) -> Tensor:
        """rows (B, ...) -> (B, ..., C, H, W) float32 in 0..1; mirror images are computed here, not stored."""
        source = self._pixels[key]
        if isinstance(source, CachedMaps):
            return source[rows.cpu()].to(self._device)
        pictures = source[rows % self._real_frames].to(self._device).to(torch.float32).div_(255)
        if self._symmetry is not None:
            mirrored = rows >= self._real_frames
            pictures[mirrored] = self._symmetry.map_pixels(pictures[mirrored])
        return pictures


def _picture_size(frames: Tensor | FramesOnDisk | CachedMaps) -> tuple[int, int]:
    """(H, W)."""
    return frames.picture_size if isinstance(frames, CachedMaps) else (frames.shape[-2], frames.shape[-1])


def _episode_borders(episode_index: Tensor, n_frames: int) -> tuple[Tensor, Tensor]:
    """First and last frame number of each frame's episode, both (F,); copies of n_frames do not touch."""
    number = torch.arange(len(episode_index))
    starts = torch.ones(len(number), dtype=torch.bool)
    starts[1:] = (episode_index[1:] != episode_index[:-1]) | (number[1:] % n_frames == 0)
    run = starts.cumsum(0) - 1  # (F,)
    first = number[starts]
    last = torch.cat([first[1:], torch.tensor([len(number)])]) - 1
    return first[run], last[run]


def _column(meta: LeRobotDatasetMetadata, key: str, arrays: dict[str, np.ndarray]) -> Tensor:
    """(F, *shape) of one feature. Observations and actions are float32 and keep a dimension of size one,
    which LeRobot drops for features of one number but policies need."""
    values = torch.as_tensor(np.asarray(arrays[key]))
    if key == ACTION or key.startswith(OBS_PREFIX):
        values = values.to(torch.float32).reshape(len(values), *meta.features[key]["shape"])
    elif values.is_floating_point():
        values = values.to(torch.float32)
    finite = values.isfinite().reshape(len(values), -1).all(1)  # (F,)
    if not finite.all():
        bad = int(torch.nonzero(~finite)[0])
        episode, frame = arrays["episode_index"][bad], arrays["frame_index"][bad]
        raise UserError(
            f"{key}, episode {episode}, frame {frame}: the value is NaN or infinite "
            f"({int((~finite).sum())} frames in all). `ebt-policy doctor` says more; leave these episodes "
            "out or repair them."
        )
    return values


def _check_feature(meta: LeRobotDatasetMetadata, key: str) -> None:
    if key not in meta.features:
        raise UserError(
            f"{key}: dataset {meta.repo_id!r} has no such feature.{did_you_mean(key, list(meta.features))} It has: "
            f"{', '.join(meta.features)}."
        )
    if kind := why_unusable(meta, key):
        raise UserError(f"{key} is {kind}: it cannot be an input or output here. Leave this feature out.")

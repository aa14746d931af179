"""Writes episodes into a LeRobotDataset v3.0 that is valid at any moment, also if the process dies or the disk is full.

LeRobot writes parquet footers and the list of episodes at `finalize`, after which it can write no more, and changes info.json
in place; closing its writers in between makes it overwrite its own file. So each episode is written by a resumed dataset in a
folder of its own beside `root`, which holds a copy of `meta/` only, and its files are moved when all of them are finished:
info.json, which says how many episodes there are, last. It costs one file of each kind for each episode.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ebt_policy.data.outcomes import RECORDING
from ebt_policy.errors import UserError
from ebt_policy.hardware.recording.episode_files import INFO, checked, publish

LOGS = "logs"  # episode_000000.jsonl: a line for each frame, decision and event
LOCK_S = 30.0  # an earlier process may still be saving
ENCODER_FRAMES = 30  # of a camera waiting for its encoder

# Half the processor time of LeRobot's default (AV1) for twice the size: 6 against 12 ms for a picture of 640x480.
ENCODER: dict[str, Any] = {
    "vcodec": "h264",
    "preset": "ultrafast",
    "crf": 23,
    "extra_options": {"x264-params": "log-level=none"},
}


@dataclass(frozen=True)
class DatasetSpec:
    """root: folder of the dataset, appended to where it exists. features: LeRobot's description, without the ones that it adds
    itself; dtype "video" or "image" for pictures. encoder: fields of LeRobot's RGBEncoderConfig, for a new dataset.
    """

    root: Path
    repo_id: str
    fps: int
    features: dict[str, dict[str, Any]]
    robot_type: str | None = None
    encoder: dict[str, Any] = field(default_factory=lambda: dict(ENCODER))


class EpisodeWriter:
    """For one thread. An error is raised and leaves the dataset as it was after the last saved episode."""

    def __init__(self, spec: DatasetSpec) -> None:
        """Raises UserError where `root` is no dataset, another kind of one, or in use."""
        from huggingface_hub.utils import WeakFileLock

        self.spec, self._root = spec, Path(spec.root)
        self._staging = self._root.with_name(self._root.name + ".staging")
        self._root.parent.mkdir(parents=True, exist_ok=True)
        self._exit = ExitStack()
        try:
            self._exit.enter_context(
                WeakFileLock(self._root.with_name(f".{self._root.name}.lock"), timeout=LOCK_S)
            )
        except Exception as error:
            raise UserError(
                f"{self._root} is being written by another process. End it, or record to another folder."
            ) from error
        try:
            shutil.rmtree(self._staging, ignore_errors=True)  # of a process that was killed
            self.episodes = checked(self._root, spec.fps, spec.features) if self._root.exists() else 0
            # Takes seconds, so not at the first frame.
            import datasets
            import lerobot.datasets.lerobot_dataset  # noqa: F401

            datasets.disable_progress_bars()  # LeRobot would show one for each episode
        except BaseException:
            self._exit.close()
            raise
        self._dataset: Any = None
        self._log: IO[str] | None = None
        self._restart()

    def add(self, frame: Mapping[str, Any], task: str, stamp: float, missing: int = 0) -> None:
        """frame: feature -> its value. stamp: seconds of the recorder's clock. missing: frames lost just before this one."""
        if self._dataset is None:
            self._dataset = self._begin()
        if missing:
            self._gaps.append((self._frames, missing))
        _wait_for_encoders(self._dataset)
        self._dataset.add_frame({**frame, "task": task})
        if self._frames == 0:
            self._first = stamp
        self._last = stamp
        self.note({"kind": "frame", "time": stamp, "frame": self._frames})
        self._frames += 1

    def note(self, line: Mapping[str, Any]) -> None:
        """A line of the episode's log; before its first frame too."""
        text = json.dumps(line, default=_plain) + "\n"
        if self._log is None:
            self._early.append(text)
        else:
            self._log.write(text)

    def save(self, success: bool | None, missing: int = 0) -> int | None:
        """Ends the episode; its index, or None where it has less than two frames, which LeRobot cannot describe."""
        if self._frames < 2:
            self.discard()
            return None
        if missing:
            self._gaps.append((self._frames, missing))
        self._dataset.save_episode(parallel_encoding=False)
        self._dataset.finalize()
        self._check_videos()
        record = {
            "episode": self.episodes,
            "success": success,
            "frames": self._frames,
            "dropped": sum(missing for _, missing in self._gaps),
            "gaps": self._gaps,  # (frame, how many are missing before it)
            "began": self._first,
            "ended": self._last,
            "wall": time.time(),
        }
        with open(self._staging / RECORDING, "a") as file:
            file.write(json.dumps(record) + "\n")
        if self._log is not None:
            self._log.close()
        shutil.rmtree(self._staging / "images", ignore_errors=True)
        publish(self._staging, self._root)
        index, self.episodes = self.episodes, self.episodes + 1
        self._restart()
        return index

    def discard(self) -> None:
        """Discards the episode."""
        if self._dataset is not None:
            self._dataset.clear_episode_buffer()
            self._dataset.finalize()
        if self._log is not None:
            self._log.close()
        self._restart()

    def close(self) -> None:
        """Discards an episode that was not saved, and frees its space on the disk."""
        # After a full disk nothing of the unfinished episode can be written: it only has to go.
        with suppress(Exception):
            self.discard()
        self._dataset = None
        gc.collect()  # LeRobot's datasets write when they are collected, which must not come after the folder is gone
        shutil.rmtree(self._staging, ignore_errors=True)
        self._exit.close()

    def _restart(self) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)
        self._dataset, self._log = None, None
        self._frames = 0
        self._first = self._last = 0.0  # seconds of the recorder's clock
        self._gaps: list[tuple[int, int]] = []
        self._early: list[str] = []

    def _begin(self) -> Any:
        """Starts an episode; returns its dataset, a LeRobotDataset, which is imported only here."""
        from lerobot.configs import RGBEncoderConfig
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        spec = self.spec
        common: dict[str, Any] = {
            "root": self._staging,
            "streaming_encoding": True,
            "encoder_queue_maxsize": ENCODER_FRAMES,
            "encoder_threads": 1,
        }
        if self.episodes:
            shutil.copytree(self._root / "meta", self._staging / "meta")
            known = json.loads((self._staging / INFO).read_text())["features"]
            videos = [f["info"] for f in known.values() if f["dtype"] == "video" and f.get("info")]
            encoder = RGBEncoderConfig.from_video_info(videos[0]) if videos else None
            self._dataset = LeRobotDataset.resume(spec.repo_id, rgb_encoder=encoder, **common)
        else:
            self._dataset = LeRobotDataset.create(
                spec.repo_id,
                spec.fps,
                spec.features,
                robot_type=spec.robot_type,
                rgb_encoder=RGBEncoderConfig(**spec.encoder),
                **common,
            )
        path = self._staging / LOGS / f"episode_{self.episodes:06d}.jsonl"
        path.parent.mkdir()
        self._log = open(path, "w")  # noqa: SIM115, closed when the episode ends
        self._log.writelines(self._early)
        return self._dataset

    def _check_videos(self) -> None:
        """LeRobot's encoder drops pictures that it cannot take in time, which would shift all later ones against the joints."""
        for key in self._dataset.meta.video_keys:
            latest = self._dataset.meta.latest_episode
            length = latest[f"videos/{key}/to_timestamp"][0] - latest[f"videos/{key}/from_timestamp"][0]
            found = round(length * self.spec.fps)
            if found != self._frames:
                raise RuntimeError(f"the video of {key} has {found} pictures for {self._frames} frames")


def _wait_for_encoders(dataset: Any) -> None:
    """Until every camera's encoder has room. LeRobot waits .1 s and then drops the picture without an error."""
    encoder = dataset.writer._streaming_encoder
    if encoder is None:
        return
    for key, waiting in encoder._frame_queues.items():
        # A dead encoder never has room; LeRobot raises its error at the next picture.
        while waiting.full() and encoder._threads[key].is_alive():
            time.sleep(0.002)


def _plain(value: Any) -> Any:
    """Arrays as lists, all else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)

"""`ebt-policy corrections`: the operator's corrections of a recorded dataset as a dataset of their own.

Each run of frames with `intervention` becomes an episode, as LeRobot's DAgger strategy records them without the autonomous frames.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ebt_policy.data.interventions import INTERVENTION, runs_of
from ebt_policy.errors import UserError
from ebt_policy.hardware.recording.episode_writer import DatasetSpec, EpisodeWriter


def corrections(
    root: Path, output: Path, repo_id: str = "local/corrections", before_s: float = 0.0, flag: bool = True
) -> str:
    """Writes each correction of the LeRobot dataset in `root` as an episode of a new one in `output`; says what was written.

    before_s: also this much of what the policy did just before, marked as such in the column. flag: with that column; without it the
    new dataset has the features of the demonstrations, and can be merged with them. Raises UserError where the dataset has no such
    column, no correction, `output` exists, or frames of the policy would no longer be marked.
    """
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.utils.constants import DEFAULT_FEATURES

    if before_s > 0 and not flag:
        raise UserError(
            "Without the column nothing would mark the frames of --before-s: leave out one of both options."
        )
    if output.exists():
        raise UserError(f"{output} exists. Give a new folder.")
    if not (root / "meta" / "info.json").exists():
        raise UserError(f"{root} holds no LeRobot dataset (meta/info.json is missing).")
    data = LeRobotDataset("local/recorded", root=root)
    if INTERVENTION not in data.features:
        raise UserError(
            f"{root} has no column '{INTERVENTION}'. Record with `ebt-policy deploy --teleop.type=... --record.root=...`, or with "
            "lerobot-rollout --strategy.type=dagger."
        )
    columns = data.hf_dataset.with_format("numpy")
    episodes = np.asarray(columns["episode_index"]).ravel()
    found = runs_of(np.asarray(columns[INTERVENTION]).ravel(), episodes)
    found = [(begin, end) for begin, end in found if end - begin >= 2]  # LeRobot cannot describe less
    if not found:
        raise UserError(f"{root} holds no correction: nobody took over in its {data.num_episodes} episodes.")
    features: dict[str, Any] = {
        name: {**feature, "shape": tuple(feature["shape"])}
        for name, feature in data.features.items()
        if name not in DEFAULT_FEATURES and (flag or name != INTERVENTION)
    }
    for feature in features.values():
        feature.pop("info", None)  # of the old videos
    writer = EpisodeWriter(DatasetSpec(output, repo_id, data.fps, features, data.meta.robot_type))
    frames = 0
    try:
        for begin, end in found:
            first = begin
            while (
                first > 0 and episodes[first - 1] == episodes[begin] and begin - first < before_s * data.fps
            ):
                first -= 1
            for i in range(first, end):
                item = data[i]
                assert isinstance(item, dict)  # a slice would give a list
                frame = {name: _value(item[name], feature) for name, feature in features.items()}
                writer.add(frame, item["task"], float(item["timestamp"]))
            writer.save(None)
            frames += end - first
    finally:
        writer.close()
    return f"{len(found)} corrections of {data.num_episodes} episodes, {frames} frames ({frames / data.fps:.1f} s), written to {output}."


def _value(value: Any, feature: dict[str, Any]) -> np.ndarray:
    """A feature's value as it is recorded: pictures uint8 (H, W, 3), vectors with their shape."""
    array = np.asarray(value)
    if feature["dtype"] in ("video", "image"):
        return np.round(array.transpose(1, 2, 0) * 255).astype(np.uint8)
    return array.astype(feature["dtype"]).reshape(feature["shape"])

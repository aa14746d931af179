"""Which recorded episodes show the policy or demonstrator succeeding alone, by what the recording itself says."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

from ebt_policy.data.interventions import INTERVENTION
from ebt_policy.data.tables import read_table

RECORDING = Path("meta/recording.jsonl")  # of `ebt-policy deploy --record.root`: a line for each episode


def failed_episodes(meta: LeRobotDatasetMetadata) -> set[int]:
    """Episodes that the recording calls failures; none where it says nothing of them, as LeRobot's own recordings."""
    path = Path(meta.root) / RECORDING
    if not path.is_file():
        return set()
    lines = (json.loads(line) for line in path.read_text().splitlines() if line.strip())
    return {int(line["episode"]) for line in lines if line.get("success") is False}


def corrected_episodes(meta: LeRobotDatasetMetadata, episodes: Sequence[int]) -> set[int]:
    """Those of `episodes` in which an operator took over."""
    if INTERVENTION not in meta.features or not len(episodes):
        return set()
    arrays = (
        read_table(meta, episodes).select_columns([INTERVENTION, "episode_index"]).with_format("numpy")[:]
    )
    flags, owners = np.ravel(arrays[INTERVENTION]).astype(bool), np.ravel(arrays["episode_index"])
    return {int(owner) for owner in np.unique(owners[flags])}

"""A fingerprint of each episode of a dataset, to recognise an episode whatever the dataset or folder is called."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lerobot.utils.constants import ACTION

from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.tables import read_table


def episode_fingerprints(
    repo_id: str, root: str | Path | None = None, episodes: Sequence[int] | None = None
) -> dict[int, str]:
    """{episode: hash of its actions}, of all episodes where None. Raises UserError as `open_metadata` does."""
    table = read_table(open_metadata(repo_id, root), episodes)
    columns = table.select_columns([ACTION, "episode_index"]).with_format("numpy")[:]
    actions, owners = np.asarray(columns[ACTION], np.float32), np.asarray(columns["episode_index"])
    return {
        int(episode): hashlib.sha256(actions[owners == episode].tobytes()).hexdigest()[:16]
        for episode in np.unique(owners)
    }

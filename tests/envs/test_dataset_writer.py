"""Writing videos does not change the scheduling of the process."""

import os
from pathlib import Path

import numpy as np
import pytest

from ebt_policy.envs.dataset_writer import write_episodes


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no such scheduling here")
def test_encoding_videos_leaves_no_real_time_thread(tmp_path: Path):
    picture = np.zeros((5, 64, 64, 3), np.uint8)
    episode = {"action": np.zeros((5, 2), np.float32), "observation.images.top": picture}
    assert write_episodes(tmp_path / "d", "tests/d", 10, "t", [episode]) == 1
    assert os.sched_getscheduler(0) == os.SCHED_OTHER

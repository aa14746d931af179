"""Writing videos changes neither the scheduling of the process nor what its terminal shows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ebt_policy.envs.dataset_writer import write_episodes

EPISODE = {
    "action": np.zeros((5, 2), np.float32),
    "observation.images.top": np.zeros((5, 64, 64, 3), np.uint8),
}


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="no such scheduling here")
def test_encoding_videos_leaves_no_real_time_thread(tmp_path: Path):
    assert write_episodes(tmp_path / "d", "tests/d", 10, "t", [EPISODE]) == 1
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_encoding_videos_prints_nothing(tmp_path: Path):
    """In a process of its own: FFmpeg writes past Python, and its level is that of the process."""
    code = f"""
import sys
from pathlib import Path
import numpy as np
from ebt_policy.envs.dataset_writer import staged, write_episodes
picture = np.zeros((5, 64, 64, 3), np.uint8)
episode = {{"action": np.zeros((5, 2), np.float32), "observation.images.top": picture}}
with staged(Path({str(tmp_path / "d")!r})) as folder:
    write_episodes(folder, "tests/d", 10, "t", [episode, episode])  # the second is joined to the first
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = [line for line in ran.stderr.splitlines() if "mp4" in line or "Svt" in line]
    assert told == []

"""Episodes that failed or were helped are known by what the recording says, and by nothing else."""

import json

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from ebt_policy.data.interventions import INTERVENTION
from ebt_policy.data.open_dataset import open_metadata
from ebt_policy.data.outcomes import RECORDING, corrected_episodes, failed_episodes


@pytest.fixture
def recorded(tmp_path):
    """Four episodes of three frames; in episode 2 an operator drove one frame."""
    features = {"observation.state": {"dtype": "float32", "shape": (2,), "names": None}}
    features |= {"action": {"dtype": "float32", "shape": (2,), "names": None}}
    features |= {INTERVENTION: {"dtype": "bool", "shape": (1,), "names": None}}
    data = LeRobotDataset.create("tests/outcomes", fps=10, root=tmp_path / "data", features=features)
    for episode in range(4):
        for tick in range(3):
            numbers = {name: np.full(2, tick, np.float32) for name in ("observation.state", "action")}
            helped = np.array([episode == 2 and tick == 1])
            data.add_frame(numbers | {INTERVENTION: helped, "task": "push"})
        data.save_episode()
    data.finalize()
    return tmp_path / "data"


def test_what_a_recording_says_of_its_episodes(recorded):
    meta = open_metadata("tests/outcomes", recorded)
    assert failed_episodes(meta) == set()  # LeRobot's own recordings say nothing
    told = [(0, True), (1, False), (2, None), (3, False)]
    lines = [json.dumps({"episode": episode, "success": success}) for episode, success in told]
    (recorded / RECORDING).write_text("\n".join(lines) + "\n")
    assert failed_episodes(meta) == {1, 3}


def test_an_operators_frame_marks_its_episode(recorded):
    meta = open_metadata("tests/outcomes", recorded)
    assert corrected_episodes(meta, range(4)) == {2}
    assert corrected_episodes(meta, [0, 1]) == corrected_episodes(meta, []) == set()

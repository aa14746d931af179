"""A policy that sees pictures goes the whole way: calibrate, alarms, eval, trace, serve. `deploy`: test_twin_cameras."""

import json
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from policy_server import serving
from untrained_policies import save_camera_policy

from ebt_policy.cli.watch import trace
from ebt_policy.envs import environment
from ebt_policy.eval.failures.calibrate import calibrate
from ebt_policy.eval.rollout.evaluate import evaluate
from ebt_policy.hardware.planners.served import ServedRunner
from ebt_policy.hardware.remote.client import RemotePolicy
from ebt_policy.inference.runner import load_runner
from ebt_policy.model.noise import Noise

SIZE = (96, 96)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory) -> Path:
    """An untrained policy for PushT from pixels."""
    return save_camera_policy(
        tmp_path_factory.mktemp("pixels"), "observation.image", SIZE, *np.float32([[0, 0], [512, 512]]), 10.0
    )


def recorded(root: Path, episodes: int = 6, ticks: int = 20) -> str:
    """A dataset of PushT's pictures, states and actions."""
    spec = environment("pusht_pixels")
    vector = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    picture = {"dtype": "image", "shape": (*SIZE, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, "observation.image": picture}
    dataset = LeRobotDataset.create("tests/pixels", fps=10, root=root, features=features, use_videos=False)
    for seed in range(episodes):
        env = spec.make(False)
        observation, _ = env.reset(seed=seed)
        for _ in range(ticks):
            seen = spec.to_policy(observation)
            action = (0.9 * seen["observation.state"] + 25).astype(np.float32)
            shown = (255 * seen["observation.image"]).astype(np.uint8).transpose(1, 2, 0)
            frame = {"observation.state": seen["observation.state"], "action": action, "task": "push"}
            dataset.add_frame(frame | {"observation.image": shown})
            observation, *_ = env.step(action)
        env.close()
        dataset.save_episode()
    dataset.finalize()
    return "tests/pixels"


def test_thresholds_from_recorded_pictures_watch_an_episode_that_trace_shows(
    pixels: Path, tmp_path: Path
) -> None:
    name = recorded(tmp_path / "data")
    file = tmp_path / "calibration.json"
    made = calibrate(str(pixels), file, dataset=name, root=tmp_path / "data", alpha=0.5)
    evaluate(
        str(pixels),
        "pusht_pixels",
        episodes=1,
        seed=5,
        latency=False,
        record=[5],
        episodes_folder=tmp_path / "run" / "episodes",
        calibration=made,
        show_progress=False,
    )
    (timeline,) = (tmp_path / "run" / "episodes").glob("*.json")
    decisions = json.loads(timeline.read_text())["decisions"]
    assert len(decisions) > 30 and all(np.isfinite(d["score"]) and "alarm" in d for d in decisions[1:])
    trace((tmp_path / "run",))
    pages = list((tmp_path / "run").rglob("*.html"))
    assert len(pages) == 2 and any("data:video/webm" in page.read_text() for page in pages)


def test_a_server_takes_pictures_as_bytes_and_replies_as_the_runner_decides(pixels: Path) -> None:
    spec, runner = environment("pusht_pixels"), load_runner(pixels)
    env = spec.make(False)
    seen = spec.to_policy(env.reset(seed=3)[0])
    env.close()
    picture = np.round(255 * seen["observation.image"]).astype(np.uint8)
    batch = {
        "observation.image": (picture.astype(np.float32) / 255)[None, None],
        "observation.state": seen["observation.state"][None, None],
    }
    expected = runner.decide(batch, Noise.from_seeds([7]))
    served = ServedRunner(load_runner(pixels), seed=7)
    with serving(served) as url, RemotePolicy(url) as policy:
        policy.reset()
        reply = policy.decide(
            {"observation.image": picture, "observation.state": seen["observation.state"]}, 60.0
        )
        assert policy.welcome.features["observation.image"].dtype == "uint8"
    np.testing.assert_array_equal(reply.actions, expected.actions[0])

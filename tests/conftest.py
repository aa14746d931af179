"""Fixtures shared by all tests: a tiny dataset that any machine can build, and the real ones where they exist."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before any LeRobot or pygame import: tests never touch the network or a display.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
# Under `uv run` Ray would start every worker through uv, which takes seconds each.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Each worker of pytest-xdist has a core. More threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Containers often set this. Then every process of the suite compiles 5,000 files of the libraries again: 25 s each.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    sys.dont_write_bytecode = False
# A suite that a script starts in the background has Ctrl-C ignored, and so would have every process that a test interrupts.
if (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np
import pytest
from tiny_policies import TINY_POLICIES
from untrained_policies import checkpoint, stub_runner  # noqa: F401  (fixtures)

if TYPE_CHECKING:
    from ebt_policy.training.recipe import TrainRecipe

TINY_REPO_ID = "tests/tiny_pusht"
TINY_EPISODES = 4
TINY_FPS = 10
SHARED_DATASETS = Path(__file__).resolve().parents[2] / "shared" / "datasets"


def tiny_episode(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """A disc that walks to the middle of eight drifting keypoints.

    Returns state (T, 2), environment_state (T, 16) and action (T, 2) in pixels, 0 to 512, like PushT's.
    """
    corners = rng.uniform(-60, 60, (8, 2))
    centre = rng.uniform(150, 360, 2) + np.cumsum(rng.normal(0, 2, (length, 2)), axis=0)
    keypoints = centre[:, None] + corners
    state = np.empty((length, 2))
    action = np.empty((length, 2))
    position = rng.uniform(60, 450, 2)
    for tick in range(length):
        state[tick] = position
        action[tick] = position + 0.2 * (centre[tick] - position)
        position = action[tick]
    return {
        "observation.state": state.astype(np.float32),
        "observation.environment_state": keypoints.reshape(length, 16).astype(np.float32),
        "action": action.astype(np.float32),
    }


@pytest.fixture(scope="session", autouse=True)
def as_the_command() -> Iterator[None]:
    """Processes that tests start with multiprocessing import as little as those of the command `ebt-policy`."""
    import ebt_policy  # noqa: F401  (here it registers the policies)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ebt-policy"])
        yield


@pytest.fixture(autouse=True)
def ordinary_priority() -> Iterator[None]:
    """A test that encodes video through LeRobot itself leaves no real-time thread to those that come after it."""
    from ebt_policy.envs.dataset_writer import ordinary_scheduling

    with ordinary_scheduling():
        yield


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(repo id, root) of a PushT-like LeRobot dataset: 4 episodes of 28 to 31 frames at 10 fps, no images."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    root = tmp_path_factory.mktemp("datasets") / "tiny_pusht"
    dataset = LeRobotDataset.create(
        TINY_REPO_ID,
        fps=TINY_FPS,
        root=root,
        features={
            "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
            "observation.environment_state": {
                "dtype": "float32",
                "shape": (16,),
                "names": [f"{axis}{i}" for i in range(8) for axis in "xy"],
            },
            "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        },
        use_videos=False,
    )
    rng = np.random.default_rng(0)
    for episode in range(TINY_EPISODES):
        columns = tiny_episode(rng, length=28 + episode)
        for tick in range(28 + episode):
            dataset.add_frame({name: values[tick] for name, values in columns.items()} | {"task": "push"})
        dataset.save_episode()
    dataset.finalize()
    return TINY_REPO_ID, root


@pytest.fixture(scope="session")
def two_cameras(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(repo id, root) of 2 episodes of 12 frames at 10 fps: a camera in video, one in PNG pictures, state and action."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from ebt_policy.envs.dataset_writer import ordinary_scheduling

    root = tmp_path_factory.mktemp("datasets") / "two_cameras"
    joints = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    picture = {"shape": (24, 32, 3), "names": ["height", "width", "channels"]}
    cameras = {"observation.images.top": "video", "observation.images.wrist": "image"}
    features = {"observation.state": joints, "action": joints}
    features |= {name: {"dtype": kind, **picture} for name, kind in cameras.items()}
    rng = np.random.default_rng(0)
    with ordinary_scheduling():
        dataset = LeRobotDataset.create("tests/two_cameras", fps=TINY_FPS, root=root, features=features)
        for _ in range(2):
            for _ in range(12):
                frame = {
                    name: rng.normal(size=2).astype(np.float32) for name in ("observation.state", "action")
                }
                frame |= {name: rng.integers(0, 256, (24, 32, 3), dtype=np.uint8) for name in cameras}
                dataset.add_frame(frame | {"task": "look"})
            dataset.save_episode()
        dataset.finalize()
    return "tests/two_cameras", root


@pytest.fixture(scope="session")
def pusht_keypoints() -> tuple[str, Path]:
    """(repo id, root) of the real PushT keypoints, beside the checkout; skips where they are absent."""
    root = SHARED_DATASETS / "lerobot" / "pusht_keypoints"
    if not root.is_dir():
        pytest.skip("lerobot/pusht_keypoints is not beside this checkout")
    return "lerobot/pusht_keypoints", root


@pytest.fixture(scope="session")
def tiny_recipe(tiny_dataset: tuple[str, Path]) -> "Callable[..., TrainRecipe]":
    """tiny_recipe("ebt", steps=20, ...) -> a recipe on the tiny dataset that trains in a second, deterministically."""
    from ebt_policy.training.recipe import decode_recipe

    def make(policy: str = "ebt", **changes: Any) -> "TrainRecipe":
        repo_id, root = tiny_dataset
        return decode_recipe(
            {
                "policy": {"type": policy, **TINY_POLICIES.get(policy, {})} | changes.pop("policy", {}),
                "dataset": {"repo_id": repo_id, "root": str(root), "held_out_fraction": 0.25}
                | changes.pop("dataset", {}),
                "steps": 12,
                "batch_size": 32,
                "warmup_steps": 4,
                "log_every": 4,
                "eval_every": 4,
                "checkpoint_every": 5,
                "precision": "fp32",
                "threads": 1,
                "device": "cpu",
            }
            | changes
        )

    return make

"""Faults planted into the pictures of a sound dataset are found and placed; the sound one and real data raise none."""

import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from PIL import Image, ImageFilter

from ebt_policy.cli.train import doctor
from ebt_policy.data.doctor import Finding, examine

CAMERA, EPISODES, TICKS, SIDE = "observation.images.top", 6, 21, 64
Fault = Callable[[int, int, np.ndarray], np.ndarray]  # (episode, tick, picture (H, W, 3) uint8) -> picture


def scene(tick: int, side: int = SIDE) -> np.ndarray:
    """A reddish chequered table with a green square that moves."""
    y, x = np.mgrid[:side, :side]
    board = ((x // 4 + y // 4) % 2)[..., None]
    picture = np.where(board, [200, 120, 60], [150, 80, 30]).astype(np.uint8)
    picture[20:36, 2 * tick : 2 * tick + 16] = [20, 60, 20]
    return picture


def dataset(
    root: Path, fault: Fault = lambda e, t, p: p, kind: str = "image", moves: bool = True, side: int = SIDE
) -> list[Finding]:
    """The findings about its camera."""
    vector = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    picture = {"dtype": kind, "shape": (side, side, 3), "names": ["height", "width", "channels"]}
    features = {"observation.state": vector, "action": vector, CAMERA: picture}
    made = LeRobotDataset.create(
        "tests/seen", fps=10, root=root, features=features, use_videos=kind == "video"
    )
    rng = np.random.default_rng(0)
    for episode in range(EPISODES):
        for tick in range(TICKS):
            state = np.array([tick * moves, 0.1 * rng.normal() * moves], np.float32)
            noise = rng.integers(-2, 3, (side, side, 1))
            shown = np.clip(scene(tick, side).astype(int) + noise, 0, 255).astype(np.uint8)
            frame = {"observation.state": state, "action": state, "task": "push"}
            made.add_frame(frame | {CAMERA: fault(episode, tick, shown)})
        made.save_episode()
    made.finalize()
    return [finding for finding in examine("tests/seen", root).findings if finding.feature == CAMERA]


def at(episodes: set[int], change: Callable[[np.ndarray], np.ndarray], from_tick: int = 0) -> Fault:
    return lambda e, t, p: change(p) if e in episodes and t >= from_tick else p


def smoothed(picture: np.ndarray) -> np.ndarray:
    """A lens out of focus."""
    return np.array(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(6)))


def frozen(episodes: set[int], from_tick: int) -> Fault:
    return lambda e, t, p: scene(from_tick) if e in episodes and t >= from_tick else p


MIDDLE = (TICKS - 1) // 2
FAULTS = {
    "black": (at({2, 4}, lambda p: p * 0, MIDDLE), 2, MIDDLE, r"black \(6 of 30 pictures .* 2 episodes"),
    "over-exposed": (at({3}, lambda p: np.full_like(p, 255)), 3, 0, "over-exposed: 100% of it is white"),
    "half white": (
        at({3}, lambda p: np.where(np.arange(SIDE)[:, None, None] > 36, 255, p).astype(np.uint8)),
        3,
        0,
        "over-exposed",
    ),
    "frozen": (frozen({1}, 5), 1, 10, r"same picture as 0.5 s before, although the robot moved \(3 of 30"),
    "blurred": (at({5}, smoothed), 5, None, r"Blurred: .*\(1 episode of 6"),
    "swapped": (
        at({1, 3}, lambda p: p[..., ::-1]),
        1,
        None,
        "Red and blue seem to be exchanged: .*\\(2 episodes of 6",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    fault, episode, frame, words = FAULTS[name]
    findings = dataset(tmp_path / "faulty", fault)
    assert len(findings) == 1, findings
    assert (findings[0].severity, findings[0].episode, findings[0].frame) == ("warning", episode, frame)
    assert re.search(words, findings[0].message), findings[0].message


def test_a_camera_that_is_always_out_of_focus_is_named(tmp_path: Path) -> None:
    def enlarged(picture: np.ndarray) -> np.ndarray:
        return np.array(Image.fromarray(picture).resize((10, 10)).resize((256, 256)))

    (finding,) = dataset(tmp_path / "blurred", at(set(range(EPISODES)), enlarged), side=256)
    assert finding.episode is None and "blurred, or enlarged" in finding.message


def test_sound_pictures_and_a_robot_that_stands_have_no_findings(tmp_path: Path) -> None:
    assert dataset(tmp_path / "sound") == []
    still = frozen(set(range(EPISODES)), 0)  # nothing moves: the camera may show the same
    assert dataset(tmp_path / "still", still, moves=False) == []


def test_videos_are_looked_at_too_and_their_size_and_rate_compared(tmp_path: Path) -> None:
    root = tmp_path / "video"
    findings = dataset(root, frozen({1}, 5), "video")
    assert [(f.episode, "same picture" in f.message) for f in findings] == [(1, True)]
    (path,) = root.glob("videos/*/*/*.mp4")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = 32
        for tick in range(3 * EPISODES * TICKS):
            frame = av.VideoFrame.from_ndarray(scene(tick // 3 % TICKS)[:32, :32], "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    messages = [f.message for f in examine("tests/seen", root).findings if f.severity == "error"]
    assert sum("32 x 32" in message and "declares 64 x 64" in message for message in messages) == 1
    assert any("has 30 frames a second; meta/info.json declares 10" in message for message in messages)


@pytest.mark.parametrize("repo_id", ["lerobot/pusht", "lerobot/g1_yellow_bottle"])
def test_real_cameras_raise_no_false_alarm(repo_id: str) -> None:
    from lerobot.utils.constants import HF_LEROBOT_HOME

    if not (HF_LEROBOT_HOME / repo_id).exists():
        pytest.skip(f"{repo_id} is not in LeRobot's cache")
    assert examine(repo_id).findings == []


def test_the_contact_sheet_shows_each_episode_and_marks_the_faulty_ones(tmp_path: Path) -> None:
    root, page = tmp_path / "faulty", tmp_path / "sheet.html"
    dataset(root, at({2}, lambda p: p * 0))
    doctor("tests/seen", root=root, html=page)
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == EPISODES
    assert re.findall(r"class=marked><img alt=\"[\w. ]*, episode (\d)", html) == ["2"]
    assert "The picture is black" in html and "http" not in html

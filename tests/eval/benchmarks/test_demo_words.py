"""The demo of several tasks: one policy, an episode of each task under its sentence, and what to do next."""

import base64
import importlib.util
import io
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("metaworld")
from ebt_policy.envs import metaworld, simulated
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.demo import demo

TWO = ("drawer_close", "window_open")


def videos(html: str) -> list[list[np.ndarray]]:
    """The frames of each video of a page."""
    found = []
    for payload in re.findall(r'src="data:video/webm;base64,([^"]*)"', html):
        with av.open(io.BytesIO(base64.b64decode(payload))) as container:
            found.append([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return found


@pytest.fixture
def two_tasks_without_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the ten tasks, and black pictures: OpenGL needs a process of its own."""
    monkeypatch.setattr(metaworld, "MT10", TWO)
    monkeypatch.setitem(metaworld.SPECS, "metaworld_mt10", metaworld.spec_of("metaworld_mt10"))
    monkeypatch.setattr(simulated, "ensure_rendering", lambda _: None)
    black = np.zeros((32, 32, 3), np.uint8)
    monkeypatch.setattr(metaworld.MetaworldSimulator, "picture", lambda *_: black)


@pytest.mark.usefixtures("two_tasks_without_opengl")
def test_the_page_shows_an_episode_of_each_task_under_its_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = demo(4, seed=50_000, output=tmp_path, task="metaworld", processes=1)
    html, printed = unescape(page.read_text()), " ".join(capsys.readouterr().out.split())
    for task in TWO:
        sentence = metaworld.sentences()[task]
        assert f"<strong>{sentence}</strong>" in html
        assert f"100% of 2 {sentence}" in printed
    marks = [html.count(mark) for mark in ("<video", '<svg class="trace"', '<span class="solved">')]
    assert marks == [2, 2, 2]
    assert all(len(frames) > 30 for frames in videos(html))
    for said in ("success 100.0% [51.0, 100.0] on 4 episodes", '--task "Please open that door"'):
        assert said in html and said in printed


def test_a_missing_simulator_is_one_error_that_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "metaworld" else find(name))
    with pytest.raises(UserError, match="needs metaworld, which is not installed: pip install"):
        demo(10, output=tmp_path, task="metaworld", show_progress=False)


def test_another_number_of_policies_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shows one policy, found 2"):
        demo(10, output=tmp_path, task="metaworld", policies=["a", "b"], show_progress=False)


@pytest.mark.slow
def test_the_demo_runs_without_a_display(tmp_path: Path) -> None:
    command = ["demo", "--task", "metaworld", "--episodes", "10", "--output", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "ebt_policy.cli", *command], check=True)
    shown = videos((tmp_path / "report.html").read_text())
    assert len(shown) == 10
    assert all(frames[0].std() > 20 and np.abs(frames[-1] - 1.0 * frames[0]).max() > 50 for frames in shown)

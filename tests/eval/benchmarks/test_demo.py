import base64
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import get_args, get_type_hints

import av
import numpy as np
import pytest
from untrained_policies import save_camera_policy

from ebt_policy.cli.measure import demo as demo_command
from ebt_policy.envs import environment
from ebt_policy.errors import UserError
from ebt_policy.eval.benchmarks.demo import TASKS, choose_seeds, demo
from ebt_policy.eval.report.occlusion_video import CAPTION
from ebt_policy.inference.checkpoints import find_checkpoint

FIVE_MB = 5 * 2**20


def outcomes(*successes: bool) -> list:
    return [SimpleNamespace(seed=i, success=s) for i, s in enumerate(successes)]


@pytest.mark.parametrize(
    ("successes", "shown"),
    [
        ((True, True, False, True, False), [0, 1, 2, 3]),  # both sides are there: the first four
        ((True, True, True, True, True, False, False), [0, 1, 2, 5]),  # else the first contrast
        ((False, False, False, False, True), [0, 1, 2, 4]),
        ((True,) * 6, [0, 1, 2, 3]),  # nothing to contrast
        ((True, False), [0, 1]),
    ],
)
def test_seeds_are_chosen_by_the_rule(successes: tuple[bool, ...], shown: list[int]) -> None:
    assert choose_seeds(outcomes(*successes)) == shown
    assert choose_seeds(outcomes(*successes)[::-1]) == shown


@pytest.fixture(scope="module")
def html(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    policies = [str(checkpoint("ebt")), str(checkpoint("matched_baseline"))]
    page = demo(
        2, output=tmp_path_factory.mktemp("demo"), policies=policies, processes=1, show_progress=False
    )
    return page.read_text()


def test_the_page_compares_all_samplers_and_shows_the_pair(html: str) -> None:
    for name in ("EBT, 2 evaluations", "Diffusion, DDPM-4", "Diffusion, DDIM-10"):
        assert name in html
    assert html.count("<video") == 4 and html.count('<svg class="trace"') == 2  # diffusion has no energy
    assert "Seed 100000" in html and "Seed 100001" in html


def test_the_page_needs_nothing_but_itself(html: str) -> None:
    assert len(html) < FIVE_MB
    assert "default-src 'none'" in html  # the browser enforces it
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href|poster)="([^"]*)"', html))
    assert not re.search(r"https?://|@import|url\(", html)


def test_the_videos_hold_whole_episodes(html: str) -> None:
    for payload in re.findall(r'src="data:video/webm;base64,([^"]*)"', html):
        with av.open(io.BytesIO(base64.b64decode(payload))) as container:
            assert sum(1 for _ in container.decode(video=0)) == 301  # before the first tick and after each


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="episodes is 0"):
        demo(0, output=tmp_path)
    with pytest.raises(UserError, match="nothing_here"):
        demo(1, output=tmp_path, policies=[str(tmp_path / "nothing_here")], show_progress=False)


def test_the_command_offers_every_demo() -> None:
    assert get_args(get_type_hints(demo_command)["task"]) == tuple(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_what_a_demo_shows_comes_with_the_package(task: str) -> None:
    shows = TASKS[task]
    assert environment(shows.env).name == shows.env
    for policy in shows.policies:
        weights = find_checkpoint(policy) / "model.safetensors"
        assert weights.stat().st_size < FIVE_MB


def test_an_unknown_demo_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no demo of 'juggle'"):
        demo(1, output=tmp_path, task="juggle")


def test_a_policy_that_sees_is_shown_with_what_its_plans_depend_on(tmp_path: Path) -> None:
    size = (96, 96)
    limits = np.float32([[0, 0], [512, 512]])
    policy = save_camera_policy(tmp_path / "policy", "observation.image", size, *limits, 10.0)
    page = demo(
        1, output=tmp_path, policies=[str(policy)], task="pusht_pixels", processes=1, show_progress=False
    )
    html = page.read_text()
    assert html.count("<video") == 2 and "What its plans depend on" in html and CAPTION in html
    frames = []
    for payload in re.findall(r'src="data:video/webm;base64,([^"]*)"', html):
        with av.open(io.BytesIO(base64.b64decode(payload))) as container:
            frames.append(sum(1 for _ in container.decode(video=0)))
    assert frames == [301, 301]  # in step

"""Runs side by side: the seeds that all of them recorded, under the names of the policies."""

import re

import pytest
from timelines import decision, frames, timeline

from ebt_policy.errors import UserError
from ebt_policy.eval.report.side_by_side import write_side_by_side
from ebt_policy.eval.rollout.timeline import write
from ebt_policy.eval.rollout.video import encode

VIDEO = encode(frames(), 10)


def run(folder, seeds, **changes):
    for seed in seeds:
        write(folder / "episodes", timeline(seed, **changes), VIDEO)
    return folder


def test_the_page_has_the_shared_seeds_of_all_runs_in_order(tmp_path):
    ebt = run(tmp_path / "ebt", (3, 2, 1))
    without = tuple(decision(i, energy=(), old_plan_energy=None) for i in range(5))
    diffusion = run(tmp_path / "diffusion", (2, 3, 9), success=False, decisions=without)
    page = write_side_by_side([ebt, diffusion])
    html = page.read_text()
    assert page == ebt / "side_by_side.html"
    assert re.findall(r"<h3>Seed (\d+)</h3>", html) == ["2", "3"]
    assert html.count("<video") == 4 and html.count('<svg class="trace"') == 2  # diffusion has no energy
    assert "ebt 2, diffusion 0" in html and "not solved; coverage reached" in html
    assert html.count("teleport 1, ticks 20 to 23") == 2
    assert all(address.startswith("data:") for address in re.findall(r'(?:src|href|poster)="([^"]*)"', html))


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    html = write_side_by_side([run(tmp_path / name / "run", (1,)) for name in "ab"]).read_text()
    assert f"{tmp_path}/a/run" in html and f"{tmp_path}/b/run" in html


def test_runs_that_share_nothing_are_refused(tmp_path):
    one, other = run(tmp_path / "a", (1,)), run(tmp_path / "b", (2,))
    with pytest.raises(UserError, match="share no recorded episode"):
        write_side_by_side([one, other])
    with pytest.raises(UserError, match="is a file"):
        write_side_by_side([one, next((other / "episodes").glob("*.json"))])

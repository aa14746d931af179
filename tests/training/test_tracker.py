"""A tracker gets the same rows as metrics.jsonl."""

import sys
import types

import pytest

from ebt_policy.errors import UserError
from ebt_policy.training.run_log import read_metrics
from ebt_policy.training.train import train


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_every_row_and_continues_with_the_run(name, tiny_recipe, tmp_path, monkeypatch):
    started, rows, finished = [], [], []
    stub = types.ModuleType(name)
    stub.init = lambda **options: started.append(options)
    stub.log = lambda metrics, step: rows.append((step, metrics))
    stub.finish = lambda: finished.append(True)
    monkeypatch.setitem(sys.modules, name, stub)
    run = train(tiny_recipe(tracker=name), tmp_path / "run")
    train(tiny_recipe(tracker=name, steps=16), run, resume=True)
    assert [step for step, _ in rows] == [row["step"] for row in read_metrics(run)] == [4, 8, 12, 16]
    assert rows[0][1]["train/loss"] == read_metrics(run)[0]["loss"]
    assert len(finished) == 2
    assert {(options["name"], options.get("id")) for options in started} == {("run", started[0].get("id"))}
    assert started[0]["config"]["policy"]["type"] == "ebt"


def test_a_tracker_that_is_missing_or_does_not_start_is_named(tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match="'trackio' is not installed: pip install trackio"):
        train(tiny_recipe(tracker="trackio"), tmp_path / "a")
    stub = types.ModuleType("wandb")

    def init(**_):
        raise RuntimeError("api_key not configured")

    stub.init = init
    monkeypatch.setitem(sys.modules, "wandb", stub)
    with pytest.raises(UserError, match="'wandb' did not start: api_key not configured"):
        train(tiny_recipe(tracker="wandb"), tmp_path / "b")

"""The overview runs what is there and says what is missing."""

import json

import pytest
from rich.console import Console

from ebt_policy.envs import overview as module
from ebt_policy.envs.overview import measure, overview
from ebt_policy.errors import UserError


def test_pusht_runs_and_is_written_down(tmp_path):
    console = Console(record=True, width=120)
    (env,) = overview(["pusht_keypoints"], 0.05, tmp_path / "envs.json", console)
    assert env.ticks_per_second > 10 and env.action_size == 2 and not env.has_expert
    assert json.loads((tmp_path / "envs.json").read_text())[0]["name"] == "pusht_keypoints"
    assert "pusht_keypoints" in console.export_text()


def test_a_missing_simulator_is_named_and_does_not_stop_the_others(monkeypatch):
    class Missing:
        name, fps, max_ticks = "robosuite_lift", 20, 400

        def make(self, render):
            raise UserError("needs robosuite")

    monkeypatch.setattr(module, "environment", lambda name: Missing())
    env = measure("robosuite_lift", 0.1)
    assert env.ticks_per_second is None and env.missing == "needs robosuite" and env.has_expert


def test_an_unknown_environment_is_named():
    with pytest.raises(UserError, match="Unknown environment 'push'"):
        overview(["push"])

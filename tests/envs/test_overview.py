"""The overview measures the installed environments and names the missing ones."""

import json

import pytest
from rich.console import Console

from ebt_policy.envs import environments
from ebt_policy.envs import overview as module
from ebt_policy.envs.overview import EnvSpeed, measure, overview, print_overview
from ebt_policy.errors import UserError


def test_pusht_runs_and_is_written_down(tmp_path):
    console = Console(record=True, width=120)
    (env,) = overview(["pusht_keypoints"], 0.05, tmp_path / "envs.json", console)
    assert env.ticks_per_second > 10 and env.action_size == 2 and env.has_expert
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


def test_the_table_is_readable_at_80_columns_with_missing_extras():
    command = "pip install 'lerobot_policy_ebt[robosuite]'"
    reason = f"The robosuite tasks need robosuite (No module named 'robosuite'). Install the extra: {command}"
    found = [EnvSpeed(name, 20, 2000, 0, True, None, reason) for name in environments()]
    found.append(EnvSpeed("pusht_keypoints", 10, 300, 2, False, 12_345.0))
    console = Console(record=True, width=80)
    print_overview(found, console)
    lines = console.export_text().splitlines()
    for env in found:  # one whole line each
        assert [line.split()[0] for line in lines if env.name in line.split()] or pytest.fail(env.name)
    assert sum("12,345" in line and "1,234" in line for line in lines) == 1 and "ticks/s" in "".join(lines)
    assert "…" not in "".join(lines)
    assert [line for line in lines if command in line] == [f"(1) {reason}"]  # once, and whole
    assert max(len(line) for line in lines if reason not in line) <= 80


def test_an_unknown_environment_is_named():
    with pytest.raises(UserError, match="Unknown environment 'push'"):
        overview(["push"])

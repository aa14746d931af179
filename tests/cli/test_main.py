"""The command line: quick help, errors without traceback."""

import subprocess
import sys

import pytest

import ebt_policy.cli as cli
from ebt_policy.cli.options import key_values
from ebt_policy.errors import UserError

HEAVY = ("torch", "lerobot", "numpy", "gymnasium")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['/usr/bin/ebt-policy', '--help']\n"
        "from ebt_policy.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('loaded:', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "loaded: []" in result.stdout
    for command in ("demo", "train", "eval", "bench", "doctor"):
        assert command in result.stdout


def test_the_module_runs_as_a_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ebt_policy.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "train" in result.stdout


def test_a_mistake_is_told_without_traceback(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["ebt-policy", "train", "--config", "pusht_keypoint"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "pusht_keypoints" in error and "Traceback" not in error


def test_key_values_are_read_as_yaml() -> None:
    assert key_values(("policy.width=256", "a.b=[1, 2]", "c=x=y")) == {
        "policy.width": 256,
        "a.b": [1, 2],
        "c": "x=y",
    }
    with pytest.raises(UserError, match="KEY=VALUE"):
        key_values(("width",))

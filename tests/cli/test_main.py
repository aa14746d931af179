"""The command line: quick help, errors without traceback."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import ebt_policy.cli as cli
from ebt_policy.cli.main import COMMANDS
from ebt_policy.cli.options import config_file, key_values
from ebt_policy.errors import UserError

HEAVY = {"torch", "lerobot", "numpy", "gymnasium"}


def modules(ran: subprocess.CompletedProcess[str]) -> set[str]:
    """Top-level modules that a process with -X importtime imported."""
    return {line.rsplit("|", 1)[-1].strip() for line in ran.stderr.splitlines() if "import time:" in line}


@pytest.mark.parametrize("program", ["ebt-policy", "module"])
def test_help_imports_nothing_heavy(program: str, tmp_path: Path) -> None:
    """As the installed command and as `python -m ebt_policy.cli`."""
    script = tmp_path / "ebt-policy"  # as pip writes it
    script.write_text("from ebt_policy.cli.main import main\nmain()\n")
    start = ["-m", "ebt_policy.cli"] if program == "module" else [str(script)]
    command = [sys.executable, "-X", "importtime", *start, "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ebt_policy.cli.main" in modules(ran) and not HEAVY & modules(ran)
    for name in ("demo", "train", "eval", "bench", "doctor"):
        assert name in ran.stdout


def test_a_warning_of_ours_is_told_without_its_place_and_others_with_it(
    monkeypatch, capsys, tmp_path: Path
) -> None:
    from ebt_policy.language.task_step import TaskProcessorStep

    def command() -> None:
        TaskProcessorStep("static", ["Open a door", "Lift a cup"]).vectors(["Please open that door"])
        warnings.warn_explicit("not ours", UserWarning, str(tmp_path / "other.py"), 7)

    monkeypatch.setitem(COMMANDS, "envs", command)
    monkeypatch.setattr(sys, "argv", ["ebt-policy", "envs"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # put back afterwards
    with warnings.catch_warnings():  # pytest keeps them otherwise
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings, "showwarning", lambda *all_: sys.stderr.write(warnings.formatwarning(*all_[:4]))
        )
        cli.main()
    ours, others, *_ = capsys.readouterr().err.splitlines()
    assert ours.startswith("ebt-policy: The task 'Please open that door' is not in the training data.")
    assert others.endswith("other.py:7: UserWarning: not ours")


def test_a_missing_video_decoder_is_told_in_one_line(monkeypatch, caplog) -> None:
    lerobots = logging.getLogger("lerobot.utils.import_utils")

    def command() -> None:
        lerobots.warning("Could not load libtorchcodec.\n" + 99 * "Traceback\n" + "Falling back to 'pyav'.")
        lerobots.warning("%s is not available", "another package")

    monkeypatch.setitem(COMMANDS, "envs", command)
    monkeypatch.setattr(sys, "argv", ["ebt-policy", "envs"])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    monkeypatch.setattr(lerobots, "filters", [])  # put back afterwards
    cli.main()
    decoder, other = caplog.messages
    assert "torchcodec" in decoder and "PyAV" in decoder and "\n" not in decoder
    assert other == "another package is not available"


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


def command(monkeypatch, capsys, *arguments: str) -> tuple[object, str, str]:
    """Exit status, stdout and stderr of `ebt-policy ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["ebt-policy", *arguments])
    status: object = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    return status, out, err


def test_a_misspelt_command_is_told_the_right_one(monkeypatch, capsys) -> None:
    status, _, error = command(monkeypatch, capsys, "trian")
    assert status == 1 and "no command 'trian'. Did you mean 'train'" in error


def test_version_names_what_results_depend_on(monkeypatch, capsys) -> None:
    status, out, _ = command(monkeypatch, capsys, "--version")
    assert status == 0 and out.startswith("ebt-policy 0.") and "lerobot" in out and "torch" in out


def test_cached_pictures_are_shown_and_cleared(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("EBT_POLICY_CACHE", str(tmp_path))
    place = tmp_path / "me--my_arm" / "observation.images.top@24x32"
    place.mkdir(parents=True)
    (place / "0.u8").write_bytes(bytes(3 * 24 * 32))
    status, out, _ = command(monkeypatch, capsys, "cache")
    assert status == 0 and "me/my_arm  observation.images.top  pictures  24x32  1 files" in out
    status, _, error = command(monkeypatch, capsys, "cache", "me/other", "--clear")
    assert status == 1 and "It has: me/my_arm" in error
    assert command(monkeypatch, capsys, "cache", "me/my_arm", "--clear")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(monkeypatch, capsys) -> None:
    from ebt_policy.extras import missing_extra

    assert "'lerobot_policy_ebt[robosuite]'" in str(missing_extra("robosuite"))
    assert "'lerobot_policy_ebt[viz]'" in str(missing_extra("rerun"))
    assert str(missing_extra("nothing_we_know")).endswith("pip install nothing_we_know")

    def fail(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'websockets'", name="websockets")

    monkeypatch.setitem(cli.main.__globals__, "deploy", fail)
    status, _, error = command(monkeypatch, capsys, "deploy")
    assert status == 1 and "`ebt-policy deploy` needs websockets" in error and "[serve]" in error


def test_a_simulator_that_is_missing_is_not_taken_for_missing_opengl(monkeypatch) -> None:
    import importlib.util

    from ebt_policy.envs import rendering

    original = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "robosuite" else original(name)
    )
    with pytest.raises(UserError, match=r"needs robosuite.*'lerobot_policy_ebt\[robosuite\]'"):
        rendering.ensure_rendering("robosuite")


def test_help_of_deploy_teaches_and_each_option_in_it_exists(monkeypatch, capsys) -> None:
    import dataclasses
    import re

    from ebt_policy.hardware.config_deploy import DeployConfig

    status, out, _ = command(monkeypatch, capsys, "deploy", "--help")
    assert status == 0 and "examples" in out and "so101" in out
    config = DeployConfig()
    for option in set(re.findall(r"--([a-z_]+(?:\.[a-z_]+)?)", out)) - {"config_path", "help_all"}:
        group, _, name = option.partition(".")
        assert hasattr(config, group), option
        if name and group not in ("robot", "teleop"):  # of which each type has its own options
            assert name in {field.name for field in dataclasses.fields(getattr(config, group))}, option


def test_files_are_found_by_name_and_a_wrong_name_is_told_the_right_one() -> None:
    assert config_file("so101", "arm file", folder="arms").name == "so101.yaml"
    assert config_file("bench_pusht.yaml", "bench file", prefix="bench_").name == "bench_pusht.yaml"
    with pytest.raises(UserError, match=r"no arm file 'so100'. Did you mean 'so101'.*koch, so101"):
        config_file("so100", "arm file", folder="arms")
    with pytest.raises(UserError, match="no bench file 'bench_push'. Did you mean 'bench_pusht'"):
        config_file("bench_push", "bench file", prefix="bench_")


def test_an_arm_file_may_follow_after_a_space_and_the_packages_own_is_named(tmp_path, capsys) -> None:
    from ebt_policy.cli.deploy import _joined, _lerobots

    own = tmp_path / "mine.yaml"
    own.touch()
    assert _joined(["--check", "--config_path", str(own), "--fps=30"]) == [
        "--check",
        f"--config_path={own}",
        "--fps=30",
    ]
    assert _lerobots(f"--config_path={own}") == f"--config_path={own}" and capsys.readouterr().out == ""
    assert _lerobots("--config_path=so101.yaml").endswith("configs/arms/so101.yaml")
    assert "of the package is used" in capsys.readouterr().out


def test_a_missing_calibration_says_how_to_make_one(tmp_path) -> None:
    from ebt_policy.monitoring.calibration import read_calibration

    with pytest.raises(UserError, match="no calibration file .*ebt-policy calibrate --policy"):
        read_calibration(tmp_path / "calibration.json")


def test_completion_can_be_printed(monkeypatch, capsys) -> None:
    status, out, _ = command(monkeypatch, capsys, "--tyro-print-completion", "bash")
    assert not status and "doctor" in out

"""The example files for arms are what `ebt-policy deploy --config_path=...` reads."""

from pathlib import Path

import pytest

import ebt_policy.hardware.check
from ebt_policy.cli_deploy import deploy
from ebt_policy.hardware.config_deploy import DeployConfig
from ebt_policy.recipe import recipe_names

FILES = sorted((Path(__file__).parents[2] / "configs" / "arms").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_read_and_the_command_line_wins(path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[DeployConfig] = []
    monkeypatch.setattr(ebt_policy.hardware.check, "check", lambda config: seen.append(config) is None)
    deploy(f"--config_path={path}", "--check", "--policy.path=runs/x", "--robot.port=/dev/other", "--fps=20")
    (config,) = seen
    assert config.robot.type.endswith("_follower") and config.robot.port == "/dev/other"
    assert config.fps == 20 and config.policy.path == "runs/x" and config.check
    assert 0 < config.speed <= 0.25  # nobody's first episode is at full speed
    assert config.robot.cameras["front"].width == 640
    assert path.stem not in recipe_names()


def test_there_are_some():
    assert [path.stem for path in FILES] == ["koch", "so101"]

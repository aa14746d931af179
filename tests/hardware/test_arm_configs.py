"""`ebt-policy deploy --config_path=...` reads the example files for arms."""

import json
import subprocess
import sys
from pathlib import Path

from ebt_policy.training.recipe import recipe_names

FILES = sorted((Path(__file__).parents[2] / "configs" / "arms").glob("*.yaml"))
# In a process of its own: other tests import cameras and robots, which would hide that the command does not.
PROGRAM = """
import json, sys
sys.argv[0] = "ebt-policy"
import ebt_policy.hardware.setup.check as checking
from ebt_policy.cli.deploy import deploy
seen = []
checking.check = lambda config: seen.append(config) is None
for path in sys.argv[1:]:
    deploy(f"--config_path={path}", "--check", "--policy.path=runs/x", "--robot.port=/dev/other", "--fps=20")
    config = seen[-1]
    camera = config.robot.cameras["front"]
    print(json.dumps([config.robot.type, config.robot.port, config.fps, config.policy.path, config.check, config.speed,
                      camera.type, camera.width]))
"""


def test_they_are_read_and_the_command_line_wins():
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, FILES)], capture_output=True, text=True, timeout=180
    )
    assert ran.returncode == 0, ran.stderr
    read = [json.loads(line) for line in ran.stdout.splitlines()]
    for kind, found in zip(("koch_follower", "so100_follower"), read, strict=True):
        # LeRobot has one class for SO-100 and SO-101. Nobody's first episode is at full speed.
        assert found == [kind, "/dev/other", 20, "runs/x", True, 0.25, "opencv", 640]


def test_they_are_no_recipes():
    assert [path.stem for path in FILES] == ["koch", "so101"]
    assert not {path.stem for path in FILES} & set(recipe_names())

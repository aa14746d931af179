"""The deployment guide names existing commands, and its list of messages covers every event."""

import re
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "deploy.md").read_text()
MESSAGES = (ROOT / "docs" / "deploy_messages.md").read_text()


def test_every_command_of_the_guide_is_installed():
    named = set(re.findall(r"\blerobot-[a-z-]+", GUIDE + MESSAGES))
    installed = {point.name for point in entry_points(group="console_scripts")}
    assert len(named) > 4 and named <= installed


def test_every_event_is_explained():
    kinds: set[str] = set()
    for name in (
        "control/loop",
        "safety/filter",
        "sensing/camera_stream",
        "recording/recorder",
        "takeover/takeover",
    ):
        source = (ROOT / "hardware" / f"{name}.py").read_text()
        kinds |= set(re.findall(r'_tell\([\w.()]+, "(\w+)"', source))
        kinds |= set(re.findall(r'_notify\(\s*"(\w+)"', source))
        kinds |= {f"refused_{kind}" for kind in re.findall(r'_refuse\(\s*now, "(\w+)"', source)}
    assert len(kinds) > 15
    assert not {kind for kind in kinds if kind not in MESSAGES}


def test_the_files_that_the_guide_links_to_are_there():
    for link in re.findall(r"\]\(([^)#]+)\)", GUIDE + MESSAGES):
        assert (ROOT / "docs" / link).exists(), link

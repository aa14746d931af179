"""What MkDocs does besides rendering the pages in docs/ (see `hooks` in mkdocs.yml).

Generates the reference: options from the dataclasses, commands from their functions, the Python API from the modules on disk.
Links that leave docs/ (to recipes, sources, the licence) are led to the repository.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
ROOMS = {  # page -> what it shows
    "policy": (
        "The policy",
        "The LeRobot policy itself: its configuration, its processors, and what they share.",
    ),
    "model": ("Model", "Energy, network, training objectives, descent and trace."),
    "data": ("Data", "Windows of a LeRobot dataset, pictures, symmetry, goal alignment, and the doctor."),
    "language": ("Language", "The sentence of a task as a vector."),
    "training": ("Training", "Recipes, the training loop, checkpoints."),
    "inference": ("Inference", "Any LeRobot policy behind one call."),
    "monitoring": ("Monitoring", "Failure signals, calibration, recovery."),
    "envs": ("Environments", "Simulated tasks, scripted experts, disturbances."),
    "hardware": (
        "Hardware",
        "From plans to commands on an arm: safety, control, sensing, remote policies, recording.",
    ),
    "eval": ("Evaluation", "Rollouts, statistics, reports and benchmarks."),
}
_LINK = re.compile(r"(?P<label>\]\()(?P<target>\.\./[^)#\s]*)(?P<rest>[^)]*\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    from mkdocs.structure.files import File

    sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
    import option_reference

    pages = {
        "reference/options.md": option_reference.render(),
        "reference/commands.md": "\n".join(_commands()),
    }
    pages |= {f"reference/api/{room}.md": "\n".join(_api(room)) for room in ROOMS}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files of the repository that are not in docs/ lead to the repository."""
    folder = posixpath.dirname(page.file.src_uri)

    def led(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join("docs", folder, match["target"]))
        if path.startswith("docs/"):
            return match[0]
        if not (ROOT / path).exists():
            raise ValueError(f"{page.file.src_uri} links to {path}, which is not in the repository.")
        return f"{match['label']}{config.repo_url}/blob/main/{path}{match['rest']}"

    return _LINK.sub(led, markdown)


def _commands() -> Iterator[str]:
    import tyro

    from ebt_policy.cli.main import COMMANDS

    yield "# Commands\n\nWhat `ebt-policy COMMAND --help` prints. The options of `deploy` are on the [page of options](options.md).\n"
    for name, command in COMMANDS.items():
        if name == "deploy":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            tyro.cli(command, prog=f"ebt-policy {name}", args=["--help"])
        yield f"## {name}\n\n```text\n{_plain(printed.getvalue())}\n```\n"


def _plain(text: str) -> str:
    """Without the terminal's colours and the frames of boxes."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return re.sub(r"[ \t│╭╮╰╯─]+$", "", text, flags=re.M).strip()


def _api(room: str) -> Iterator[str]:
    title, text = ROOMS[room]
    yield f"# {title}\n\n{text}\n"
    for module in _modules(room):
        yield f"::: {module}\n"


def _modules(room: str) -> list[str]:
    """Dotted names of the modules of a room, those loose at the top of the package for "policy"."""
    package = ROOT / "ebt_policy"
    if room == "policy":
        return [f"ebt_policy.{path.stem}" for path in sorted(package.glob("*.py")) if path.stem != "__init__"]
    found = []
    for folder, _, names in os.walk(package / room, followlinks=True):
        prefix = ".".join(Path(folder).relative_to(ROOT).parts)
        found += [f"{prefix}.{n[:-3]}" for n in names if n.endswith(".py") and not n.startswith("_")]
    return sorted(found)

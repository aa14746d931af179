"""README and documentation: copied code runs, links work, pictures are small."""

import functools
import re
import shlex
from pathlib import Path

import pytest
import tyro

from ebt_policy.cli.main import COMMANDS
from ebt_policy.hardware.config_deploy import DeployConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
REPOSITORY = re.compile(
    r"https://(?:github\.com|raw\.githubusercontent\.com)/ebt-policy/ebt-policy/(?:blob/|tree/)?main/(.+)"
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)


def commands(page: Path) -> list[list[str]]:
    """The `ebt-policy` commands in the code blocks of a page, each as its words after `ebt-policy`."""
    found = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;(?= )", line):
                if "ebt-policy" not in part:
                    continue
                words = shlex.split(part.replace("...", ""), comments=True)
                if "ebt-policy" in words and "clone" not in words and "cd" not in words:
                    found.append(words[words.index("ebt-policy") + 1 :])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_is_one_that_the_command_line_accepts(page: Path) -> None:
    for words in commands(page):
        name, *options = words
        if name == "deploy":
            for option in options:
                if option.startswith(("--policy.", "--safety.", "--streams.", "--record.")):
                    group, _, field = option[2:].partition("=")[0].partition(".")
                    kind = DeployConfig.__dataclass_fields__[group].default_factory
                    assert field in kind.__dataclass_fields__, f"{page.name}: {option}"
                elif option.startswith("--") and "." not in option.split("=")[0]:
                    known = {*DeployConfig.__dataclass_fields__, "config_path"}
                    assert option[2:].partition("=")[0] in known, f"{page.name}: {option}"
        elif not name.startswith("-"):
            assert name in COMMANDS, f"{page.name}: {' '.join(words)}"
            try:
                parse(name, options)
            except SystemExit as refused:
                pytest.fail(f"{page.name}: ebt-policy {' '.join(words)}: {refused}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_a_page_runs_is_there(page: Path) -> None:
    for name in re.findall(r"python -m (ebt_policy[\w.]*\w)", page.read_text()):
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), f"{page.name}: {name}"


def parse(name: str, options: list[str]) -> None:
    """Parses the options without running the command."""

    @functools.wraps(COMMANDS[name])
    def nothing(*args: object, **values: object) -> None:
        return None

    tyro.cli(nothing, args=options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        inside = REPOSITORY.fullmatch(target)
        path = target.partition("#")[0]
        if inside:
            assert (ROOT / inside[1].partition("#")[0]).exists(), f"{page.name}: {target}"
        elif path and not re.match(r"[a-z]+:|reference/", path):
            assert (page.parent / path).exists(), f"{page.name}: {target}"


def test_the_readme_reads_in_three_minutes_on_any_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert all(target.startswith("https://") for target in LINK.findall(text)), (
        "a package index has no relative links"
    )
    assert "pip install uv && uv run ebt-policy demo" in text
    assert "uv run pytest" in text


def test_the_pictures_are_small() -> None:
    assert (ROOT / "docs" / "episodes.webp").stat().st_size < 3_000_000
    assert (ROOT / "docs" / "success_by_time.svg").stat().st_size < 100_000


def test_the_python_quick_start_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    exec(compile(block, "README.md", "exec"), {})
    assert "(1, 8, 2)" in capsys.readouterr().out

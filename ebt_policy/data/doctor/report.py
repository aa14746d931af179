"""The doctor's report, for a terminal and as JSON. Lines are not wrapped, so paths can be copied whole."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ebt_policy.data.doctor.findings import Examination, Finding
from ebt_policy.data.doctor.frames import count
from ebt_policy.provenance import plain

SHOWN_NAMES = 100  # characters of the names of a feature
SHOWN_TASKS = 60


def print_examination(examination: Examination, console: Console | None = None) -> None:
    """What was read and checked, then the findings."""
    console = console or Console()

    def line(label: str, text: str) -> None:
        console.print(Text.assemble((f"{label:<12}", "bold"), text), soft_wrap=True)

    line("dataset", examination.repo_id)
    line("folder", str(examination.folder))
    line("robot", examination.robot_type or "not named")
    line(
        "size",
        f"{count(examination.episodes, 'episode')}, {count(examination.frames, 'frame')} at {examination.fps:g} Hz: "
        f"{examination.duration_s:.1f} s",
    )
    for name, text in examination.cameras.items():
        line("camera", f"{name}: {text}")
    for name, text in examination.features.items():
        short = text if len(text) <= SHOWN_NAMES else text[:SHOWN_NAMES] + " ..."
        line("feature", f"{name}: {short}")
    shown = list(examination.tasks.items())[:SHOWN_TASKS]
    for text, frames in shown:
        episodes = count(examination.task_episodes[text], "episode")
        seconds = f"{frames / examination.fps:.1f} s"
        line("task", f"{text or '(no text)'} ({episodes}, {count(frames, 'frame')}, {seconds})")
    if len(examination.tasks) > len(shown):
        line("tasks", f"{len(examination.tasks)} in all")
    line("checked", f"{', '.join(examination.checks)} ({examination.seconds:.1f} s)")
    console.print()
    print_findings(examination.findings, console)


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """Three lines for each finding, or one line where there are none."""
    console = console or Console()
    if not findings:
        console.print("[green]No faults found.[/green]")
        return
    for finding in findings:
        places = (("episode", finding.episode), ("frame", finding.frame))
        where = [finding.feature] + [f"{word} {number}" for word, number in places if number is not None]
        style = "bold red" if finding.severity == "error" else "bold yellow"
        # Text, not markup: a message may hold brackets.
        console.print(Text.assemble((finding.severity, style), "  ", ", ".join(where)), soft_wrap=True)
        console.print(Text(f"    {finding.message}\n    -> {finding.remedy}"), soft_wrap=True)
    errors = sum(finding.severity == "error" for finding in findings)
    console.print(f"{count(errors, 'error')}, {count(len(findings) - errors, 'warning')}")


def examination_json(examination: Examination) -> dict[str, Any]:
    """JSON-able: all of the examination, with the length of the data and the number of errors."""
    record = plain(dataclasses.asdict(dataclasses.replace(examination, seen={})))
    del record["seen"]  # pictures
    return record | {"duration_s": examination.duration_s, "errors": len(examination.errors)}

"""Findings of `ebt-policy deploy --check`: one line each, and a failed one does not keep the next from being looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from ebt_policy.errors import UserError


class Level(StrEnum):
    OK = "ok"
    WARN = "warn"  # works, and something is worth knowing
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """found: what there is. remedy: what to do about it, "" for nothing."""

    level: Level
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    return Finding(Level.OK, found)


def warn(found: str, remedy: str) -> Finding:
    return Finding(Level.WARN, found, remedy)


def fail(found: str, remedy: str) -> Finding:
    return Finding(Level.FAIL, found, remedy)


class Checklist:
    """Runs checks, prints what they find, and keeps it."""

    def __init__(self, write: Callable[[str], None] = lambda line: print(line, flush=True)) -> None:
        self.findings: list[tuple[str, Finding]] = []
        self._write = write

    @property
    def passed(self) -> bool:
        return all(finding.level is not Level.FAIL for _, finding in self.findings)

    def run(self, name: str, test: Callable[[], Finding | Iterable[Finding]]) -> bool:
        """Whether all that `test` found is no failure. What it raises is a failure: its message, without a traceback."""
        failed = False
        try:
            found = test()
            for finding in [found] if isinstance(found, Finding) else found:
                failed |= finding.level is Level.FAIL
                self.add(name, finding)
        except UserError as error:  # says itself what to do
            self.add(name, fail(str(error), ""))
            return False
        except Exception as error:  # robots, cameras and drivers raise what they like
            self.add(name, fail(f"{type(error).__name__}: {' '.join(str(error).split())}", ""))
            return False
        return not failed

    def skip(self, name: str, reason: str) -> None:
        """Something that could not be looked at. It counts as a failure: nothing is known about it."""
        self.add(name, fail(f"not looked at: {reason}", ""))

    def add(self, name: str, finding: Finding) -> None:
        self.findings.append((name, finding))
        self._write(f"{finding.level:<5} {name:<12} {finding.found}")
        if finding.remedy:
            self._write(f"{'':<18} -> {finding.remedy}")

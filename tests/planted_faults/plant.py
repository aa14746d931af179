"""Plants small faults in the source, one at a time, and reports those that no test notices.

    python tests/planted_faults/plant.py                 # all of faults.yaml; continues an interrupted run
    python tests/planted_faults/plant.py --only descent  # those with a word in their name or file

Works on a temporary copy of the checkout. Each fault is a text replacement in one file, and only the test files named with it
run. All runs are forked from one process that has imported the large libraries, so a fault takes seconds. At most 5 % of the
faults may survive: exit code 1 if more do.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
FAULTS = Path(__file__).with_name("faults.yaml")
RESULTS = ROOT / "runs" / "planted_faults.json"
ALLOWED = 0.05  # share of survivors
TIMEOUT_S = 900
# Imported before the forks: what takes long, and nothing that depends on the package.
PRELOAD = (
    "torch",
    "hypothesis",
    "diffusers",
    "lerobot.policies.factory",
    "lerobot.policies.pretrained",
    "lerobot.datasets.lerobot_dataset",
    "scipy.stats",
    "msgspec",
    "websockets",
)


@dataclass(frozen=True)
class Fault:
    """file: relative to the checkout; old: text that occurs once in it; new: what replaces it; tests: files to run, or single tests in them (pytest node ids)."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, source: str) -> str:
        """The source with the fault. Raises ValueError if the old text does not occur exactly once."""
        if source.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: expected this text once in {self.file}, found it {source.count(self.old)} times:\n{self.old}"
            )
        return source.replace(self.old, self.new)

    def key(self) -> str:
        """Changes with the faulty source and with the tests, so that a stored result is of just these."""
        parts = [
            self.planted((ROOT / self.file).read_text()),
            *(file_of(test).read_text() for test in self.tests),
        ]
        return hashlib.sha256("\0".join([self.name, *parts]).encode()).hexdigest()[:16]


def file_of(test: str) -> Path:
    """The file of a pytest node id."""
    return ROOT / test.partition("::")[0]


def load_faults() -> list[Fault]:
    faults = [Fault(**{**f, "tests": tuple(f["tests"])}) for f in yaml.safe_load(FAULTS.read_text())]
    names = [fault.name for fault in faults]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise ValueError(f"two faults have the same name: {', '.join(sorted(doubled))}")
    return faults


def copy_checkout(to: Path) -> None:
    """All tracked and new files; symbolic links stay links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, to / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def write_source(path: Path, text: str) -> None:
    """Writes a module and removes its compiled form, which Python would still use for a text of the same age and size."""
    path.write_text(text)
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def run_tests(copy: Path, tests: Iterable[str], log: Path) -> tuple[str, float]:
    """("passed", "failed" or "hung", seconds) of the test files in a forked process, stopped at the first failure."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        with contextlib.suppress(BaseException):
            code = _in_child(copy, tests, log)
        os._exit(code)
    while time.monotonic() - began < TIMEOUT_S:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return ("passed" if code == 0 else "failed"), time.monotonic() - began
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)  # the child leads a process group of its own
    os.waitpid(child, 0)
    return "hung", time.monotonic() - began


def _in_child(copy: Path, tests: Iterable[str], log: Path) -> int:
    os.setpgrp()
    os.chdir(copy)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.path[:] = [str(copy), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    os.environ["PYTHONPATH"] = str(copy)
    import pytest

    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    return int(pytest.main([*options, *tests]))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", default=[""], help="words: faults with one of them in their name or file"
    )
    parser.add_argument("--fresh", action="store_true", help="forget stored results")
    options = parser.parse_args()
    faults = [f for f in load_faults() if any(word in f.name or word in f.file for word in options.only)]
    results: dict[str, str] = {}
    if RESULTS.is_file() and not options.fresh:
        results = json.loads(RESULTS.read_text())
    keys = {fault: fault.key() for fault in faults}  # now: the checkout may change while the copy is tested
    todo = {fault: key for fault, key in keys.items() if key not in results}
    if todo:
        _plant_all(todo, results)
    survivors = [fault for fault, key in keys.items() if results[key] == "survived"]
    for fault in survivors:
        print(f"survived: {fault.name} ({fault.file})")
    print(f"{len(survivors)} of {len(faults)} faults survived; at most {ALLOWED:.0%} may.")
    return int(len(survivors) > ALLOWED * len(faults))


def _plant_all(todo: Mapping[Fault, str], results: dict[str, str]) -> None:
    """Plants the faults (each with the key of its result) one by one and stores each result at once."""
    for name in PRELOAD:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)  # threads do not survive a fork
    with tempfile.TemporaryDirectory() as folder:
        copy, log = Path(folder) / "checkout", Path(folder) / "log.txt"
        copy_checkout(copy)
        sound = set[str]()
        for i, (fault, key) in enumerate(todo.items(), 1):
            for test in fault.tests:
                if test not in sound:
                    outcome, _ = run_tests(copy, [test], log)
                    if outcome != "passed":
                        print(log.read_text()[-2000:])
                        raise SystemExit(f"{test} fails without any fault")
                    sound.add(test)
            path = copy / fault.file
            source = path.read_text()
            write_source(path, fault.planted(source))
            try:
                outcome, seconds = run_tests(copy, fault.tests, log)
            finally:
                write_source(path, source)
            results[key] = "survived" if outcome == "passed" else "killed"
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1))
            print(f"{i}/{len(todo)} {results[key]:8} {seconds:5.1f} s  {fault.name}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

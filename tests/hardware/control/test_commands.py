"""Keys and signals reach the control loop, alone and in a running deployment."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from policy_server import wait_until

from ebt_policy.hardware.control.commands import HELP, KEYS, Command, Commands, from_keys, from_signals


def posted(commands: Commands, number: int) -> list[Command]:
    found: list[Command] = []

    def poll() -> bool:
        while (command := commands.poll()) is not None:
            found.append(command)
        return len(found) >= number

    wait_until(poll)
    return found


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """The keyboard's end of a terminal that is standard input."""
    keyboard, screen = pty.openpty()
    with contextlib.ExitStack() as stack:
        monkeypatch.setattr(sys, "stdin", stack.enter_context(os.fdopen(screen)))
        yield keyboard
    with contextlib.suppress(OSError):
        os.close(keyboard)


def test_keys_that_come_together_all_arrive_in_order_and_others_are_nothing(terminal: int):
    import termios

    before = termios.tcgetattr(sys.stdin.fileno())
    commands = Commands()
    with from_keys(commands):
        os.write(terminal, b" x\nr sfq")
        assert posted(commands, 6) == [KEYS[key] for key in " r sfq"]
        assert commands.poll() is None
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def test_a_terminal_that_is_gone_costs_nothing(terminal: int):
    commands = Commands()
    with from_keys(commands):
        os.close(terminal)
        time.sleep(0.2)
        begin = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - begin < 0.1  # nobody asks it over and over
    assert commands.poll() is None


def test_without_a_terminal_there_are_no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "input").write_text(" q")
    with open(tmp_path / "input") as file:
        monkeypatch.setattr(sys, "stdin", file)
        commands = Commands()
        with from_keys(commands):
            assert commands.poll() is None


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["terminal", "nohup"])
def hangup(request: pytest.FixtureRequest) -> Iterator[signal.Handlers]:
    """Starts the test as in a terminal, however the suite was started; and once as under nohup, which ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield request.param
    signal.signal(signal.SIGHUP, before)


def test_signals_say_what_keys_say_and_the_second_interrupt_interrupts(hangup: signal.Handlers):
    says = {signal.SIGUSR1: [Command.STOP]}
    says |= {number: [Command.QUIT] for number in (signal.SIGTERM, signal.SIGINT)}
    says[signal.SIGHUP] = [Command.QUIT] if hangup == signal.SIG_DFL else []
    commands, before = Commands(), [signal.getsignal(number) for number in says]
    for number, command in says.items():
        with from_signals(commands):
            signal.raise_signal(number)
            assert posted(commands, len(command)) == command and commands.poll() is None
    with pytest.raises(KeyboardInterrupt), from_signals(commands):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in says] == before


def test_keys_and_signals_on_the_twin(tmp_path: Path):
    """Space and SIGUSR1 stop, r resets, and Ctrl-C ends in order with its return code."""
    keyboard, screen = pty.openpty()
    options = ["--policy.path=shipped:aloha_transfer_cube_ebt", "--episodes=100", f"--output={tmp_path}"]
    code = "import sys; sys.argv[0] = 'ebt-policy'; from ebt_policy.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "deploy", *options],
        stdin=screen,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(screen)
    events = tmp_path / "events.jsonl"

    def said(kind: str) -> int:
        lines = events.read_text().splitlines() if events.exists() else []
        assert process.poll() is None, process.stderr.read()
        return sum(json.loads(line)["kind"] == kind for line in lines)

    def happens(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 180
        while not condition():
            assert time.monotonic() < end, "it never happened"
            time.sleep(0.05)

    try:
        happens(lambda: said("plan") >= 1)
        os.write(keyboard, b" ")
        happens(lambda: said("stop") == 1)
        os.write(keyboard, b"r")
        happens(lambda: said("reset") == 1)
        process.send_signal(signal.SIGUSR1)
        happens(lambda: said("stop") == 2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(keyboard)
    assert process.returncode == 130, errors
    assert HELP in output
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "episodes.json").read_text())[-1]["end"] == "quit"

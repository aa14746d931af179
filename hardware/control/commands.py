"""Commands of a human to a running loop, by key, by signal or by program."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import sys
import threading
from collections.abc import Iterator
from enum import StrEnum


class Command(StrEnum):
    STOP = "stop"  # the arm brakes and stays at rest until RESET
    RESET = "reset"  # lifts a stop; while the arm asks: the policy goes on
    TAKE_OVER = "take_over"  # asks, takes over, or hands back
    SUCCESS = "success"  # ends the episode
    FAILURE = "failure"
    QUIT = "quit"


KEYS = {
    " ": Command.STOP,
    "r": Command.RESET,
    "t": Command.TAKE_OVER,
    "s": Command.SUCCESS,
    "f": Command.FAILURE,
    "q": Command.QUIT,
}
HELP = "space: stop; r: reset after a stop; s, f: the episode is a success, a failure; q: quit"
HELP_TAKEOVER = "t: hold, take over, hand back; r, while it asks: the policy goes on"


class Commands:
    """A queue of commands. `post` may be called from any thread and from signal handlers."""

    def __init__(self) -> None:
        self._posted: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def post(self, command: Command) -> None:
        self._posted.put(command)

    def poll(self) -> Command | None:
        """The next command, None where there is none. Never waits."""
        try:
            return self._posted.get_nowait()
        except queue.Empty:
            return None


@contextlib.contextmanager
def from_signals(commands: Commands) -> Iterator[None]:
    """SIGINT (Ctrl-C), SIGTERM and SIGHUP (the terminal is gone) quit in order, SIGUSR1 stops. A second Ctrl-C interrupts the
    program at once.
    """
    quitting = False

    def quit_in_order(number: int, _: object) -> None:
        nonlocal quitting
        commands.post(Command.QUIT)
        if quitting and number == signal.SIGINT:
            raise KeyboardInterrupt
        quitting = True

    handlers = {signal.SIGINT: quit_in_order, signal.SIGTERM: quit_in_order}
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        handlers[signal.SIGHUP] = quit_in_order
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = lambda number, _: commands.post(Command.STOP)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def from_keys(commands: Commands) -> Iterator[None]:
    """Single keys on a terminal, without Enter. Does nothing where standard input is no terminal."""
    try:
        import termios
        import tty

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except Exception:  # no terminal, or none of this kind
        yield
        return
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if not select.select([descriptor], [], [], 0.1)[0]:
                continue
            try:  # not through sys.stdin, whose buffer would keep keys that came together
                keys = os.read(descriptor, 64).decode(errors="replace")
            except OSError:  # the terminal is gone
                return
            if not keys:
                return
            for command in filter(None, map(KEYS.get, keys)):
                commands.post(command)

    tty.setcbreak(descriptor)
    reader = threading.Thread(target=read, name="keys", daemon=True)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join(1.0)
        with contextlib.suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

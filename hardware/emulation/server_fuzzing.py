"""Fuzzing of a policy server: malformed messages over real sockets, while a controller works.

The server runs in its own process, so its memory and a crash can be observed from outside. First, other clients send
malformed messages instead of Hello while one controller decides. Then clients become the controller, send a malformed message,
and the controller's place must be free for the next one. Damaged websocket frames and handshakes are sent too. This module
does not import torch.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import multiprocessing
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ebt_policy.errors import UserError
from ebt_policy.hardware.emulation.malformed import frame, good_messages, mutated
from ebt_policy.hardware.remote.client import NoDecision, RemotePolicy
from ebt_policy.hardware.remote.server import MAX_STRANGERS, Decided, Decider, PolicyServer
from ebt_policy.hardware.remote.wire import MAX_BYTES, PROTOCOL, Feature, Welcome

# Most memory that all connections may hold: one message each, up to three copies while it is unmasked.
CAP_MIB = 3 * MAX_STRANGERS * MAX_BYTES / 2**20
_SENDERS = 5  # at a time; together with connections that are being closed, no more than the server admits
_TIMEOUT_S = 20.0
_STATE = "observation.state"
_KEY = base64.b64encode(bytes(16)).decode()
_HANDSHAKE = (
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
).encode()


class Constant:
    """A `Decider` that always answers the same, so that only the network takes time."""

    def __init__(self, features: dict[str, Feature], n_action_steps: int = 8, action_size: int = 2) -> None:
        action = Feature((action_size,), "float32")
        self.welcome = Welcome(PROTOCOL, "constant", features, action, 1, n_action_steps, "", "", 5.0)
        self._decided = Decided(np.zeros((n_action_steps, action_size), np.float32))

    def decide(
        self, observations: Any, *, tick: int, reset: bool, deadline_s: float | None, task: str = ""
    ) -> Decided:
        """Zeros (n_action_steps, action_size)."""
        return self._decided


# -- the server, in its own process ------------------------------------------------------------------------------------
def serve_until_closed(pipe: Connection, make: Callable[[], Decider], log: Path) -> None:
    """Main function of a child process: sends its port, then serves until the other end of the pipe is closed.

    log: file for what `ebt-policy serve` would log.
    """
    logging.basicConfig(
        filename=log, level=logging.INFO, format="%(levelname)s %(name)s %(message)s", force=True
    )

    async def run() -> None:
        closed = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), closed.set)
        async with PolicyServer(make(), port=0) as server:
            pipe.send(server.port)
            await closed.wait()

    asyncio.run(run())


@contextmanager
def child(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[int, Any]]:
    """Runs target(pipe, *arguments) in a new process. Gives the port that it sends, and the process.

    Raises UserError if the process ends before it sends a port.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        try:
            port = ours.recv()
        except EOFError:
            raise UserError("A server of the bench ended before it listened; its error is above.") from None
        yield port, process
    finally:
        ours.close()
        process.join(10)
        if process.is_alive():
            process.kill()


# -- fuzzing -----------------------------------------------------------------------------------------------------------
@dataclass
class FuzzResult:
    """What was sent and how the server reacted. Memory: resident set of the server, MiB. Round trips: of the controller, ms."""

    sent: dict[str, int] = field(default_factory=dict)
    faults: int = 0  # answered with a Fault
    closed: int = 0  # answered by closing the connection
    unanswered: int = 0  # no answer within 20 s, and the connection stays open
    seats: int = 0  # times that a client became the controller
    seats_waited_for: int = 0  # of these, the place was not free at the first try
    seats_refused: int = 0  # of these, not within 2 s either
    decisions: int = 0
    without_decision: int = 0
    losses: list[str] = field(default_factory=list)  # why the controller lost the connection
    round_trips_ms: list[float] = field(default_factory=list)
    memory_before: float = 0.0
    memory_peak: float = 0.0
    memory_after: float = 0.0
    memory_course: list[float] = field(default_factory=list)  # at 0, 10, ... 100 % of the time
    alive: bool = False
    decided_at_the_end: bool = False
    errors_logged: int = 0
    seconds: float = 0.0


def fuzz_server(
    messages: dict[str, Sequence[bytes]], frames: int, handshakes: int, folder: Path, seed: int = 0
) -> FuzzResult:
    """Sends all messages {origin: messages}, and so many damaged frames and handshakes. folder: for the server's log.

    70 % are sent instead of Hello while a controller decides, the others by a controller.
    """
    draw, result, began = random.Random(seed), FuzzResult(), time.monotonic()
    todo = [data for group in messages.values() for data in group]
    draw.shuffle(todo)
    strangers = [_HANDSHAKE + frame(data) for data in todo[: len(todo) * 7 // 10]]
    seated = todo[len(strangers) :]
    good = good_messages()
    broken = [_HANDSHAKE + mutated(frame(draw.choice(good)), draw) for _ in range(frames)]
    broken += [mutated(_HANDSHAKE, draw) + frame(good[0]) for _ in range(handshakes)]
    result.sent = {name: len(group) for name, group in messages.items()}
    result.sent |= {"damaged frames": frames, "damaged handshakes": handshakes}
    log = folder / "server.log"
    log.unlink(missing_ok=True)
    constant = partial(Constant, {_STATE: Feature((2,), "float32")})
    with child(serve_until_closed, constant, log) as (port, process):
        url = f"ws://127.0.0.1:{port}"
        with _controller(url, FuzzResult()):
            time.sleep(1.0)  # memory is measured on a server that has worked already
        with _memory(process.pid, result):
            with _controller(url, result), ThreadPoolExecutor(_SENDERS) as pool:
                for answered in pool.map(partial(_send, port), strangers):
                    _count(result, answered)
                for answered in pool.map(partial(_send, port, hang_up=True), broken):
                    _count(result, answered)
            # The controller has disconnected; its place is free when the server has noticed.
            time.sleep(0.5)
            for data in seated:
                answered = _send(port, frame(data), seated=True)
                result.seats_waited_for += answered == "refused a seat"
                # A client that was cut off for size learns of it a moment before its place is free.
                end = time.monotonic() + 2.0
                while answered == "refused a seat" and time.monotonic() < end:
                    time.sleep(0.02)
                    answered = _send(port, frame(data), seated=True)
                result.seats += 1
                result.seats_refused += answered == "refused a seat"
                _count(result, answered)
            after = FuzzResult()
            with _controller(url, after):
                time.sleep(1.0)
            result.decided_at_the_end = after.decisions > 0 and not after.losses
        result.alive = process.is_alive()
    levels = [line.split(" ", 2) for line in log.read_text().splitlines()]
    result.errors_logged = sum(parts[0] in ("ERROR", "CRITICAL") for parts in levels)
    result.seconds = time.monotonic() - began
    return result


def _count(result: FuzzResult, answered: str) -> None:
    result.faults += answered == "fault"
    result.closed += answered == "closed"
    result.unanswered += answered == "unanswered"


def _send(port: int, data: bytes, hang_up: bool = False, seated: bool = False) -> str:
    """Connects, sends data, waits for the answer, and drops the connection. Returns the kind of answer.

    hang_up: close the sending side after data, which could look like the beginning of a longer message. seated: send it as
    the controller, after Hello and Welcome.
    """
    heard = b""
    with socket.create_connection(("127.0.0.1", port), _TIMEOUT_S) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no goodbye
        try:
            if seated:
                peer.sendall(_HANDSHAKE + frame(good_messages()[0]))
                if b"welcome" not in _hear(peer, b"welcome"):
                    return "refused a seat"
            peer.sendall(data)
            if hang_up:
                peer.shutdown(socket.SHUT_WR)
            heard = _hear(peer, b"malformed")
        except TimeoutError:
            return "unanswered"
        except OSError:  # the server may close before everything was sent
            pass
    return "fault" if b"malformed" in heard else "closed"


def _hear(peer: socket.socket, word: bytes) -> bytes:
    """Receives until `word` or the end of the connection. Raises TimeoutError, and OSError if the connection is cut off."""
    heard = b""
    while word not in heard and b"busy" not in heard:
        more = peer.recv(65536)
        if not more:
            break
        heard += more
    return heard


@contextmanager
def _controller(url: str, result: FuzzResult) -> Iterator[None]:
    """Runs a controller that asks for a decision twenty times a second."""
    stop = threading.Event()
    policy = RemotePolicy(url, on_loss=result.losses.append, connect_s=_TIMEOUT_S)

    def work() -> None:
        observation = {_STATE: np.zeros(2, np.float32)}
        while not stop.wait(0.05) and not policy.lost:
            result.decisions += 1
            try:
                reply = policy.decide(observation, _TIMEOUT_S)
            except (NoDecision, TimeoutError):
                result.without_decision += 1
            else:
                result.round_trips_ms.append(reply.round_trip_s * 1e3)

    with policy, ThreadPoolExecutor(1) as worker:
        working = worker.submit(work)
        try:
            yield
        finally:
            stop.set()
            working.result()


@contextmanager
def _memory(pid: int, result: FuzzResult) -> Iterator[None]:
    """Samples the resident memory of a process twenty times a second."""
    stop, process, samples = threading.Event(), psutil.Process(pid), list[float]()

    def now() -> float:
        return process.memory_info().rss / 2**20

    def sample() -> None:
        while not stop.wait(0.05):
            samples.append(now())

    result.memory_before = now()
    with ThreadPoolExecutor(1) as worker:
        sampling = worker.submit(sample)
        try:
            yield
            result.memory_after = now()
        finally:
            stop.set()
            sampling.result()
            result.memory_peak = max(samples, default=0.0)
            result.memory_course = [samples[(len(samples) - 1) * i // 10] for i in range(11) if samples]

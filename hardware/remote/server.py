"""A policy behind a websocket, for one controller at a time. No message can make it run or unpickle anything.

The arm's side stays the authority: whatever happens here, it hears nothing, a Fault, or finite actions of the declared
shape, and it filters those once more (`hardware.safety`). Nothing here knows torch: what decides is injected.
"""

from __future__ import annotations

import asyncio
import http
import logging
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote.contract import (
    authorised,
    check_actions,
    check_exposure,
    check_observation,
)
from ebt_policy.hardware.remote.wire import (
    MAX_BYTES,
    PROTOCOL,
    Act,
    Array,
    Fault,
    FaultCode,
    Heartbeat,
    Hello,
    Message,
    Observe,
    Welcome,
    WireError,
    decode,
    encode,
)

MAX_CONNECTIONS = 8  # each of which may hold a message; those beyond are cut off
CLOSE_S = 1.0  # a peer that does not answer a goodbye is forgotten
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decided:
    """actions (n, A) in the arm's units. energy: None where the policy has none. evaluations: forward passes.

    score, alarm: what a monitor says after this decision; None and False where there is none.
    """

    actions: np.ndarray
    evaluations: int = 0
    energy: float | None = None
    stop_reason: str = ""
    score: float | None = None
    alarm: bool = False


class Decider(Protocol):
    """What is served. `decide` is called from one thread at a time, never from that of the event loop."""

    welcome: Welcome

    def decide(
        self, observations: Mapping[str, np.ndarray], *, tick: int, reset: bool, deadline_s: float | None
    ) -> Decided:
        """observations: {feature: (T, ...)}, as declared and finite. tick: of the client's loop. reset: a new controller or
        episode, so nothing of the last plan holds. deadline_s: time that is left. A UserError's message reaches the client.
        """
        ...


@dataclass
class _Waiting:
    observe: Observe
    arrived: float  # seconds, monotonic
    reset: bool


class PolicyServer:
    """`async with PolicyServer(decider) as server:` binds, and `server.port` is then the port."""

    def __init__(
        self,
        decider: Decider,
        host: str = "127.0.0.1",
        port: int = 8700,
        token: str | None = None,
        hello_s: float = 5.0,
    ) -> None:
        """port 0: any free one. token: what clients must show. hello_s: time for a client to introduce itself.

        Raises UserError for an address that other computers reach without a token.
        """
        check_exposure(host, token)
        self._decider, self._token, self._hello_s = decider, token, hello_s
        self.welcome, self.secured = decider.welcome, token is not None
        self.host, self.port = host, port
        self._controller: ServerConnection | None = None
        self._connections = 0
        self._executor = ThreadPoolExecutor(1, "policy")  # one: no decision ever meets another
        self._server: Server | None = None

    async def __aenter__(self) -> Self:
        try:
            self._server = await serve(
                self._connection,
                self.host,
                self.port,
                max_size=MAX_BYTES,
                max_queue=2,
                compression=None,  # a small frame must not unpack into a large one
                origins=[None],  # browsers send one: no web page may command the arm
                process_request=self._authorise,
                open_timeout=self._hello_s,
                close_timeout=CLOSE_S,
                ping_interval=None,  # heartbeats are messages: they also show that the peer's program lives
            )
        except OSError as error:
            raise UserError(f"Cannot listen on {self.host}:{self.port}: {error.strerror or error}.") from None
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _authorise(self, connection: ServerConnection, request: Request) -> Response | None:
        shown = request.headers.get_all("Authorization")
        if authorised(shown[0] if len(shown) == 1 else None, self._token):
            return None
        logger.warning("refused %s: no token or a wrong one", connection.remote_address)
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "A token is needed.\n")

    async def _connection(self, connection: ServerConnection) -> None:
        self._connections += 1
        try:
            if self._connections > MAX_CONNECTIONS:
                connection.transport.abort()  # a goodbye would take in what it sends meanwhile
            else:
                await self._guarded(connection)
            await connection.close()  # counted until it is over, for the same reason
        except Exception:
            logger.exception("the connection of %s failed", connection.remote_address)
        finally:
            self._connections -= 1
            _free(connection.protocol.parser_exc)

    async def _guarded(self, connection: ServerConnection) -> None:
        """One connection from Hello on; whatever ends it, the controller's place is free before the goodbye."""
        fault: Fault | None = None
        try:
            hello = await self._receive(connection, self._hello_s)
            if not isinstance(hello, Hello):
                fault = Fault("malformed", "The first message must be Hello.")
            elif hello.protocol != PROTOCOL:
                fault = Fault("protocol", f"This server speaks version {PROTOCOL}, not {hello.protocol}.")
            elif self._controller is not None:
                fault = Fault("busy", "Another controller is connected; only one may command at a time.")
            else:
                self._controller = connection
                logger.info("controller %r: %s", hello.client or "without name", connection.remote_address)
                await connection.send(encode(self._decider.welcome))
                await _Control(connection, self._decider, self._executor).run()
        except WireError as error:
            fault = Fault("malformed", f"{error.code}: {error}")
            _free(error)
        except TimeoutError:
            fault = Fault("silent", "Nothing was heard for too long; the connection is given up.")
        except ConnectionClosed as error:
            logger.info("%s left: %s", connection.remote_address, error)
        finally:
            if self._controller is connection:
                self._controller = None
        if fault is not None:
            # %r: what a stranger sent is quoted in it, and must not begin lines of its own.
            logger.warning("refused %s: %s: %r", connection.remote_address, fault.code, fault.message)
            try:
                async with asyncio.timeout(CLOSE_S):
                    await connection.send(encode(fault))
            except (ConnectionClosed, TimeoutError):
                pass  # told or not, the place is free

    async def _receive(self, connection: ServerConnection, timeout_s: float) -> Message:
        async with asyncio.timeout(timeout_s):
            return decode(await connection.recv())


class _Control:
    """One controller's observations and decisions: a reader, and a worker that always takes the latest."""

    def __init__(self, connection: ServerConnection, decider: Decider, executor: ThreadPoolExecutor) -> None:
        self._connection, self._decider, self._executor = connection, decider, executor
        self._waiting: _Waiting | None = None
        self._arrived = asyncio.Event()
        self._fresh = True  # nothing of the last plan holds for the next decision

    async def run(self) -> None:
        """Until the connection ends. Raises WireError, TimeoutError or ConnectionClosed, whichever ended it."""
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._work())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        last = -1
        while True:
            async with asyncio.timeout(self._decider.welcome.heartbeat_s):
                message = decode(await self._connection.recv())
            if isinstance(message, Heartbeat):
                await self._send(message)
            elif not isinstance(message, Observe):
                raise WireError("invalid", f"{type(message).__name__} is not for a server.")
            elif message.sequence <= last:
                text = f"Sequence number {message.sequence} after {last}: they must increase."
                await self._send(Fault("order", text, message.sequence))
            else:
                last = message.sequence
                # The one that was waiting is dropped, but not what it said about a new episode.
                dropped = self._waiting is not None and self._waiting.reset
                self._waiting = _Waiting(message, time.monotonic(), message.reset or dropped)
                self._arrived.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            waiting, self._waiting = self._waiting, None
            if waiting is not None:
                await self._send(await loop.run_in_executor(self._executor, self._decide, waiting))

    async def _send(self, message: Message) -> None:
        async with asyncio.timeout(
            self._decider.welcome.heartbeat_s
        ):  # a peer that does not read is dead too
            await self._connection.send(encode(message))

    def _decide(self, waiting: _Waiting) -> Act | Fault:
        """In the policy's thread. Never raises: a failure is a Fault, and its traceback stays in the log."""
        observe, welcome = waiting.observe, self._decider.welcome
        self._fresh |= waiting.reset
        code: FaultCode = "observation"
        try:
            observations = check_observation(welcome, observe.arrays)
            begin = time.monotonic()
            waited = begin - waiting.arrived
            left = None if observe.deadline_s is None else observe.deadline_s - waited
            if left is not None and left <= 0:
                text = f"{waited:.3f} s in the queue; the deadline was {observe.deadline_s:g} s."
                return Fault("late", text, observe.sequence)
            code = "policy"
            reset, self._fresh = self._fresh, True  # until it succeeds: the plan of a failed one is unknown
            decided = self._decider.decide(observations, tick=observe.tick, reset=reset, deadline_s=left)
            spent = time.monotonic() - begin
            code = "action"
            act = Act(
                observe.sequence,
                observe.stamp,
                Array.of(check_actions(welcome, decided.actions)),
                waited * 1e3,
                spent * 1e3,
                int(decided.evaluations),
                _finite(decided.energy),
                decided.stop_reason,
                _finite(decided.score),
                bool(decided.alarm),
            )
            self._fresh = False
            return act
        except UserError as error:
            logger.warning("observation %d: %s: %r", observe.sequence, code, str(error))
            return Fault(code, str(error)[:1000], observe.sequence)
        except Exception:
            logger.exception("observation %d could not be decided on", observe.sequence)
            return Fault("policy", "The policy failed; the server's log says why.", observe.sequence)


def _free(error: BaseException | None) -> None:
    """Lets go of what the frames of an error hold, such as the message that it is about.

    They are part of cycles, and until the garbage collector comes, thousands of messages could gather.
    """
    if error is not None:
        traceback.clear_frames(error.__traceback__)


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None

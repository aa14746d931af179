"""A websocket server that runs a policy for one controller at a time.

Messages are typed data: none can run or unpickle code. The client receives finite actions of the declared shape, a Fault, or
nothing; the robot side filters the actions again (`hardware.safety`). This module does not import torch: the policy is given
to the server as a `Decider`.
"""

from __future__ import annotations

import asyncio
import http
import logging
import time
import traceback
from collections import Counter
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
from ebt_policy.hardware.remote.limited_log import LimitedLog
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

# Connections beside the controller's; each may hold a message of MAX_BYTES. One more replaces the oldest.
MAX_STRANGERS = 8
CLOSE_S = 1.0  # how long to wait for the answer to a closing handshake
logger = logging.getLogger(__name__)
# The websockets library logs each connection, and some versions a traceback for each failed handshake: strangers could
# fill the log with them.
_quiet = logging.getLogger(f"{__name__}.websockets")
_quiet.setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Decided:
    """One decision of the policy.

    actions: (n, A) in the robot's units. evaluations: forward passes of the network. energy: of the last plan, None where
    there is none. score, alarm, beyond: output of the monitor after this decision; None and False without a monitor.
    """

    actions: np.ndarray
    evaluations: int = 0
    energy: float | None = None
    stop_reason: str = ""
    score: float | None = None
    alarm: bool = False
    beyond: bool = False


class Decider(Protocol):
    """The policy that a server runs. `decide` is called from one worker thread, never from the event loop."""

    welcome: Welcome

    def decide(
        self,
        observations: Mapping[str, np.ndarray],
        *,
        tick: int,
        reset: bool,
        deadline_s: float | None,
        task: str = "",
    ) -> Decided:
        """Chooses actions.

        observations: {feature: (T, ...)}, finite and as declared in `welcome`. tick: of the client's control loop. reset:
        a new controller or episode, so the last plan must be dropped. deadline_s: seconds left. task: its sentence. The text of a UserError is
        sent to the client.
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
        """port: 0 takes any free one. token: secret that clients must send. hello_s: seconds for a client's first message.

        Raises UserError if other computers can reach the address and there is no token.
        """
        check_exposure(host, token)
        self._decider, self._token, self._hello_s = decider, token, hello_s
        self.welcome, self.secured = decider.welcome, token is not None
        self.host, self.port = host, port
        self._controller: ServerConnection | None = None
        # All connections but the controller's: not introduced yet, or closing. The oldest comes first.
        self._strangers: dict[ServerConnection, None] = {}
        self._executor = ThreadPoolExecutor(1, "policy")  # one thread: decisions never run at the same time
        self._refusals, self._failures = LimitedLog(logger), LimitedLog(logger)
        self._visits = LimitedLog(logger, logging.INFO)
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
                origins=[None],  # browsers send an origin: no web page may command the arm
                process_request=self._authorise,
                open_timeout=self._hello_s,
                close_timeout=CLOSE_S,
                ping_interval=None,  # heartbeats are messages: they also show that the peer's program runs
                logger=_quiet,
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
        for log in (self._refusals, self._failures, self._visits):
            log.close()

    def _authorise(self, connection: ServerConnection, request: Request) -> Response | None:
        sent = request.headers.get_all("Authorization")
        if authorised(sent[0] if len(sent) == 1 else None, self._token):
            return None
        self._refusals("refused %s: no token or a wrong one", connection.remote_address)
        return connection.respond(http.HTTPStatus.UNAUTHORIZED, "A token is needed.\n")

    async def _connection(self, connection: ServerConnection) -> None:
        """Handler of websockets: runs until this connection is closed."""
        self._admit(connection)
        try:
            await self._guarded(connection)
            await connection.close()
        except Exception:
            self._failures("the connection of %s failed", connection.remote_address, exc_info=True)
        finally:
            self._strangers.pop(connection, None)
            _free(connection.protocol.parser_exc)

    def _admit(self, connection: ServerConnection) -> None:
        """Counts a stranger. If there are MAX_STRANGERS already, the oldest of the host with most of them is cut off.

        So silent connections, or a flood from one host, never keep out a controller that introduces itself.
        """
        if len(self._strangers) >= MAX_STRANGERS:
            busiest, _ = Counter(map(_host, self._strangers)).most_common(1)[0]
            oldest = next(stranger for stranger in self._strangers if _host(stranger) == busiest)
            del self._strangers[oldest]
            oldest.transport.abort()  # not closed in order: the peer could send more during that handshake
            self._refusals("cut off %s: too many connections that are no controller", _host(oldest))
        self._strangers[connection] = None

    async def _guarded(self, connection: ServerConnection) -> None:
        """Serves one connection from Hello on. The controller's place is free again before the closing handshake."""
        fault: Fault | None = None
        try:
            hello = await self._receive(connection, self._hello_s)
            if not isinstance(hello, Hello):
                fault = Fault("malformed", "The first message must be Hello.")
            elif hello.protocol != PROTOCOL:
                fault = Fault(
                    "protocol",
                    f"This server speaks version {PROTOCOL}, not {hello.protocol}. Install the same version of the package on "
                    "both sides.",
                )
            elif self._controller is not None:
                fault = Fault("busy", "Another controller is connected; only one may command at a time.")
            else:
                self._controller = connection
                self._strangers.pop(connection, None)
                self._visits("controller %r: %s", hello.client or "without name", connection.remote_address)
                await connection.send(encode(self._decider.welcome))
                await _Control(connection, self._decider, self._executor, self._failures).run()
        except WireError as error:
            fault = Fault("malformed", f"{error.code}: {error}")
            _free(error)
        except TimeoutError:
            fault = Fault("silent", "Nothing was received for too long; the connection is closed.")
        except ConnectionClosed as error:
            self._visits("%s left: %s", connection.remote_address, error)
        finally:
            if self._controller is connection:
                self._controller = None
                self._admit(connection)  # counted as a stranger while it closes
        if fault is not None:
            # %r: the message may quote what the peer sent, and must not begin lines of its own in the log.
            self._refusals("refused %s: %s: %r", connection.remote_address, fault.code, fault.message)
            try:
                async with asyncio.timeout(CLOSE_S):
                    await connection.send(encode(fault))
            except (ConnectionClosed, TimeoutError):
                pass  # the place is free, whether the peer was told or not

    async def _receive(self, connection: ServerConnection, timeout_s: float) -> Message:
        async with asyncio.timeout(timeout_s):
            return decode(await connection.recv())


class _Control:
    """The session of one controller: a task that reads messages, and one that decides on the latest observation."""

    def __init__(
        self,
        connection: ServerConnection,
        decider: Decider,
        executor: ThreadPoolExecutor,
        failures: LimitedLog,
    ) -> None:
        self._connection, self._decider, self._executor = connection, decider, executor
        self._failures = failures
        self._waiting: _Waiting | None = None
        self._arrived = asyncio.Event()
        self._fresh = True  # the next decision must not use the last plan

    async def run(self) -> None:
        """Runs until the connection ends. Raises what ended it: WireError, TimeoutError or ConnectionClosed."""
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
                # An observation that still waits is dropped, but its request for a reset is kept.
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
        ):  # a peer that does not read counts as dead too
            await self._connection.send(encode(message))

    def _decide(self, waiting: _Waiting) -> Act | Fault:
        """Runs in the worker thread. Never raises: a failure becomes a Fault, and its traceback is only logged."""
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
            reset, self._fresh = self._fresh, True  # if this decision fails, the next one starts anew
            decided = self._decider.decide(
                observations, tick=observe.tick, reset=reset, deadline_s=left, task=observe.task
            )
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
                bool(decided.beyond),
            )
            self._fresh = False
            return act
        except UserError as error:
            self._failures("observation %d: %s: %r", observe.sequence, code, str(error))
            return Fault(code, str(error)[:1000], observe.sequence)
        except Exception:
            self._failures("no decision on observation %d", observe.sequence, exc_info=True)
            return Fault("policy", "The policy failed; the server's log says why.", observe.sequence)


def _host(connection: ServerConnection) -> str:
    """Address of the peer without its port."""
    address = connection.remote_address
    return str(address[0]) if isinstance(address, tuple) else str(address)


def _free(error: BaseException | None) -> None:
    """Clears the local variables in the traceback of an error, such as the message that it is about.

    They are part of reference cycles; thousands of messages could pile up until the garbage collector runs.
    """
    if error is not None:
        traceback.clear_frames(error.__traceback__)


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None

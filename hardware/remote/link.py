"""One connection of the robot side to a policy server: handshake, heartbeats, and matching replies to requests.

Everything here runs in one event loop; `remote.client` runs it in a thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from ebt_policy.errors import UserError
from ebt_policy.hardware.remote.wire import (
    MAX_BYTES,
    PROTOCOL,
    Act,
    Fault,
    Heartbeat,
    Hello,
    Message,
    Welcome,
    WireError,
    decode,
    encode,
)

GOODBYE_S = 1.0


class ConnectionLost(Exception):
    """The connection to the server is lost, or could not be made. Hold the arm."""


class Link:
    """An open connection; made by `open_link`. lost: why it ended, "" while it is open."""

    def __init__(
        self, connection: ClientConnection, welcome: Welcome, on_loss: Callable[[str], None] | None
    ) -> None:
        self.welcome, self.lost = welcome, ""
        self._connection, self._on_loss = connection, on_loss
        self._pending: tuple[int, asyncio.Future[Act | Fault]] | None = None
        self._reader = asyncio.create_task(self._read())

    async def ask(self, sequence: int, data: bytes) -> Act | Fault:
        """Sends an encoded Observe and waits for its answer. Raises ConnectionLost as soon as the connection is lost."""
        if self.lost:
            raise ConnectionLost(self.lost)
        answer: asyncio.Future[Act | Fault] = asyncio.get_running_loop().create_future()
        self._pending = sequence, answer
        sending = asyncio.create_task(self._connection.send(data))
        try:
            return await answer
        finally:  # if the server does not read, sending would never end
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def close(self) -> None:
        """Closes in order; waits at most GOODBYE_S for the server."""
        self._reader.cancel()
        self.lost = self.lost or "closed"
        await self._connection.close()

    async def _read(self) -> None:
        """Receives messages and sends heartbeats until the connection is lost."""
        connection, silence_s = self._connection, self.welcome.heartbeat_s
        heard = beat = time.monotonic()
        reason = ""
        while not reason:
            now = time.monotonic()
            if now >= beat:
                beat = now + silence_s / 3
                beating = asyncio.create_task(connection.send(encode(Heartbeat(now))))
                beating.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                async with asyncio.timeout(beat - now):
                    reason = self._take(decode(await connection.recv()))
                heard = time.monotonic()
            except TimeoutError:
                if time.monotonic() - heard >= silence_s:
                    reason = f"the server was silent for {silence_s:g} s"
            except ConnectionClosed as error:
                reason = f"the connection ended: {error}"
            except WireError as error:
                reason = f"the server sent no valid message: {error}"
        connection.transport.abort()
        self.lost = reason
        if self._pending is not None and not self._pending[1].done():
            self._pending[1].set_exception(ConnectionLost(reason))
        if self._on_loss is not None:
            self._on_loss(reason)

    def _take(self, message: Message) -> str:
        """Hands a reply to the request that waits for it. Returns why to disconnect, "" if there is no reason."""
        if isinstance(message, Fault) and message.sequence is None:
            return f"the server ended the connection ({message.code}): {message.message}"
        if not isinstance(message, Act | Fault | Heartbeat):
            return f"the server sent a {type(message).__name__}, which is no answer"
        if isinstance(message, Act):
            shape = (self.welcome.n_action_steps, *self.welcome.action.shape)
            if message.actions.shape != shape or message.actions.dtype != self.welcome.action.dtype:
                return (
                    f"the server sent actions of {message.actions.dtype} {message.actions.shape}, not {shape}"
                )
            if not np.isfinite(message.actions.numpy()).all():
                return "the server sent actions that are not finite"
        if self._pending is not None and not isinstance(message, Heartbeat):
            sequence, answer = self._pending
            if message.sequence == sequence and not answer.done():  # otherwise nobody waits for it any more
                answer.set_result(message)
        return ""


async def open_link(
    url: str,
    check: Callable[[Welcome], None],
    token: str | None,
    name: str,
    on_loss: Callable[[str], None] | None,
    connect_s: float,
) -> Link:
    """Connects and does the handshake. check(welcome) raises if the policy does not fit.

    Raises what `check` raises; UserError if the server refuses; OSError, TimeoutError, WireError or exceptions of websockets
    if there is no policy server at the address.
    """
    async with asyncio.timeout(connect_s):
        connection = await connect(
            url,
            additional_headers={"Authorization": f"Bearer {token}"} if token else None,
            max_size=MAX_BYTES,
            compression=None,
            proxy=None,  # never through a proxy that the environment names
            open_timeout=None,
            close_timeout=GOODBYE_S,
            ping_interval=None,  # heartbeats are messages: they also show that the peer's program runs
        )
        try:
            await connection.send(encode(Hello(PROTOCOL, name[:256])))
            welcome = decode(await connection.recv())
            if isinstance(welcome, Fault):
                raise UserError(f"{url} refuses ({welcome.code}): {welcome.message}")
            if not isinstance(welcome, Welcome):
                raise WireError("invalid", "the first message of a server must be Welcome")
            check(welcome)
        except BaseException:
            connection.transport.abort()
            raise
    return Link(connection, welcome, on_loss)

# SPDX-License-Identifier: BSD-3-Clause
"""The control client on trio: connections, requests, time.

    node ── verbs ──► Client ── Dial, Fetch, HangUp ──► tasks here ── dial ──► server
      ▲                 ▲                                   │
      └── events ── run └────────── receive, fetched ◄──────┘

Whoever calls a verb of the client elsewhere rings the `Wake`. The loop runs the client by `trio.current_time()`, which
on the node's clock is the `now` of everything else.
"""

import os
from collections.abc import Mapping

import trio

from ts4nsnet.control.client import Client
from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.events import Dial, Event, Fetch, HangUp
from ts4nsnet.control.http import HttpExchange, HttpRequest, HttpResponse
from ts4nsnet.dial import DialError, TlsOptions, dial

RECEIVE_BYTES = 1 << 16


class Wake:
    """A bell: what rings before somebody waits is heard as well."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Ring."""
        self._event.set()

    async def wait(self) -> None:
        """Return once it has rung."""
        await self._event.wait()
        self._event = trio.Event()


async def run(
    client: Client,
    told: trio.MemorySendChannel[Event],
    wake: Wake,
    *,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Run `client` until it has logged out, or for ever.

    Args:
        told: takes the client's events, in order. Small is right: who does not listen holds up the control plane only.
        wake: to be rung after each verb that somebody else calls.
        environ: where to look for proxies and certificates.
    """
    async with trio.open_nursery() as nursery:
        runner = _Runner(client, nursery, wake, environ)
        while True:
            runner.act()
            while (event := client.next_event()) is not None:
                await told.send(event)
            timer = client.next_timer()
            if timer is None:
                break
            with trio.move_on_at(timer):
                await wake.wait()
            client.handle_timer(trio.current_time())
        runner.act()
        nursery.cancel_scope.cancel()


class _Connection:
    """One connection to the server, and what waits to be sent on it: as much as the session has queued."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.scope = trio.CancelScope()
        self.out = bytearray()
        self.filled = Wake()


class _Runner:
    def __init__(self, client: Client, nursery: trio.Nursery, wake: Wake, environ: Mapping[str, str]) -> None:
        self._client = client
        self._nursery = nursery
        self._wake = wake
        self._environ = environ
        self._connection: _Connection | None = None

    def act(self) -> None:
        """Do what the client wants."""
        while (action := self._client.next_action()) is not None:
            match action:
                case Fetch(number, request):
                    self._nursery.start_soon(self._fetch, number, request)
                case Dial(number=number):
                    self._connection = _Connection(number)
                    self._nursery.start_soon(self._connect, action, self._connection)
                case HangUp(number):
                    if self._connection is not None and self._connection.number == number:
                        self._connection.scope.cancel()
                        self._connection = None
        if self._connection is not None and (data := self._client.data_to_send()):
            self._connection.out += data
            self._connection.filled.set()

    # --- requests of their own --------------------------------------------------------------------------------

    async def _fetch(self, number: int, request: HttpRequest) -> None:
        outcome: HttpResponse | str
        try:
            with trio.fail_after(request.timeout):
                outcome = await self._exchange(request)
        except trio.TooSlowError:
            outcome = f"no answer within {request.timeout:g} s"
        except (DialError, ControlError) as error:
            outcome = str(error)
        except trio.BrokenResourceError:
            outcome = "the connection broke"
        self._client.fetched(number, outcome, trio.current_time())
        self._wake.set()

    async def _exchange(self, request: HttpRequest) -> HttpResponse:
        exchange = HttpExchange(request)
        origin = request.origin
        tls = TlsOptions() if origin.tls else None
        stream = await dial(origin.host, origin.port, tls=tls, timeout=request.timeout, environ=self._environ)
        async with stream:
            await stream.send_all(exchange.data_to_send())
            while True:
                response = exchange.receive(bytes(await stream.receive_some(RECEIVE_BYTES)))
                if response is not None:
                    return response

    # --- the connection ---------------------------------------------------------------------------------------

    async def _connect(self, action: Dial, connection: _Connection) -> None:
        tls = TlsOptions() if action.tls else None
        with connection.scope:
            try:
                stream = await dial(
                    action.host, action.port, tls=tls, addresses=action.addresses, environ=self._environ
                )
            except DialError as error:
                self._client.disconnected(action.number, str(error), trio.current_time())
                self._wake.set()
                return
            self._client.connected(action.number, trio.current_time())
            self._wake.set()
            await self._pump(connection, stream)

    async def _pump(self, connection: _Connection, stream: trio.abc.Stream) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, connection, stream, nursery.cancel_scope)
                nursery.start_soon(self._send, connection, stream, nursery.cancel_scope)
        finally:
            # at once: a TLS farewell could wait for a server that is gone
            await trio.aclose_forcefully(stream)

    async def _receive(self, connection: _Connection, stream: trio.abc.Stream, both: trio.CancelScope) -> None:
        try:
            while data := await stream.receive_some(RECEIVE_BYTES):
                self._client.receive(connection.number, bytes(data), trio.current_time())
                self._wake.set()
            self._client.receive(connection.number, b"", trio.current_time())
        except trio.BrokenResourceError:
            self._client.disconnected(connection.number, "the connection broke", trio.current_time())
        self._wake.set()
        both.cancel()

    async def _send(self, connection: _Connection, stream: trio.abc.Stream, both: trio.CancelScope) -> None:
        try:
            while True:
                await connection.filled.wait()
                data, connection.out = bytes(connection.out), bytearray()
                await stream.send_all(data)
        except trio.BrokenResourceError:
            self._client.disconnected(connection.number, "the connection broke", trio.current_time())
            self._wake.set()
            both.cancel()

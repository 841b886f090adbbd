# SPDX-License-Identifier: BSD-3-Clause
"""The I/O of a tailnet's servers: connections, datagrams, timers, and whom to wake.

    TLS on TCP   HTTP/1.1 ─► /ts2021 ─► Noise ─► ControlLink ─► Coordinator
                          ├► /derp ──────────► RelayLink ───► Relay
                          └► all else ───────► Web
    UDP, same port number ──────────────────────────────────► stun.answer

`now` of everything here is trio's clock. A dead client is noticed by TCP: a connection that acknowledges nothing for
`Settings.dead_time` is closed by the kernel.

Source: control.md 3.1, 3.4; derp.md 1.2, 1.3, 4.7; paths.md 8.
"""

import socket
import time
from collections.abc import Callable

import trio

from ts4nsnet.control import ts2021
from ts4nsnet.control.errors import HandshakeFailed
from ts4nsnet.control.session import ServerSession
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.lab import stun
from ts4nsnet.lab.control import Coordinator, KeyRetired, Outlet
from ts4nsnet.lab.control_link import ControlLink
from ts4nsnet.lab.credentials import Random
from ts4nsnet.lab.errors import StateError
from ts4nsnet.lab.http import HttpConnection, Request, text_response
from ts4nsnet.lab.relay import Client, Relay
from ts4nsnet.lab.relay_link import RelayLink
from ts4nsnet.lab.store import FILE, Store, state_text
from ts4nsnet.lab.web import Web

SAVE_PAUSE_TIME = 0.5  # seconds between two writes of the state file
CLOCK_TIME = 10.0  # seconds after which the wall clock is looked at again
DATAGRAM_BYTES = 2048


class Server:
    """What answers on the sockets.

    Args:
        coordinator, relay, web: who decides.
        random: so many unpredictable bytes.
    """

    def __init__(self, coordinator: Coordinator, relay: Relay, web: Web, random: Random) -> None:
        self.coordinator = coordinator
        self.relay = relay
        self.outlets: dict[Outlet, Callable[[], None]] = {}
        self._web = web
        self._random = random
        self._relay_links: dict[Client, RelayLink] = {}
        self._sleeping_until = 0.0
        self._rearm = trio.Event()
        self._unsaved = trio.Event()

    def dispatch(self) -> None:
        """A verb of the coordinator was called: hand its events on."""
        while (event := self.coordinator.next_event()) is not None:
            if isinstance(event, KeyRetired):
                self.relay.close_key(event.key)
            elif event.outlet in self.outlets:
                self.outlets[event.outlet]()
        self.serve_relay()
        if self.coordinator.next_timer() < self._sleeping_until:
            self._rearm.set()
        if self.coordinator.take_unsaved():
            self._unsaved.set()

    def serve_relay(self) -> None:
        """A verb of the relay was called: wake whom it concerns."""
        ready = list(self.relay.ready)
        self.relay.ready.clear()
        for client in ready:
            if client in self._relay_links:
                self._relay_links[client].wake()

    async def run_timers(self) -> None:
        """Call the coordinator when its time has come."""
        while True:
            now = trio.current_time()
            self.coordinator.set_clock(now, time.time())
            self.coordinator.handle_timer(now)
            self._rearm = trio.Event()
            self._sleeping_until = min(self.coordinator.next_timer(), now + CLOCK_TIME)
            self.dispatch()
            with trio.move_on_at(self._sleeping_until):
                await self._rearm.wait()

    async def run_saving(self, store: Store) -> None:
        """Write the state file soon after changes, and again until that succeeds; the last try is the server's end."""
        while True:
            await self._unsaved.wait()
            self._unsaved = trio.Event()
            try:
                await trio.to_thread.run_sync(store.write, FILE, state_text(self.coordinator.state))
            except StateError:
                self.coordinator.counters["state not saved"] += 1
                self._unsaved.set()
            await trio.sleep(SAVE_PAUSE_TIME)

    async def answer_stun(self, datagrams: trio.socket.SocketType) -> None:
        """Answer STUN requests, one by one; what cannot be sent is lost, as datagrams may be."""
        while True:
            data, source = await datagrams.recvfrom(DATAGRAM_BYTES)
            response = stun.answer(data, source[0], source[1])
            self.coordinator.counters["stun" if response else "stun dropped"] += 1
            if response:
                try:
                    await datagrams.sendto(response, source)
                except OSError:
                    self.coordinator.counters["stun not sent"] += 1

    async def serve(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        """Serve a connection until its end; nothing is raised."""
        watch_for_death(stream.transport_stream.socket, self.coordinator.settings.dead_time)
        try:
            await self._serve_http(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            self.coordinator.counters[f"connection: {type(error).__name__}"] += 1
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_http(self, stream: trio.abc.Stream) -> None:
        connection = HttpConnection(stream)
        while (request := await connection.next_request()) is not None:
            upgrade = request.headers.get("upgrade", "")
            if request.path == ts2021.PATH and upgrade:
                await self._serve_control(stream, connection, request)
                return
            if request.path == "/derp" and upgrade.lower() == "derp":
                await self._serve_relay(stream, connection, request)
                return
            response = self._web.handle(request, trio.current_time())
            self.dispatch()
            if not await connection.respond(request, response):
                return
        if connection.refused:
            self.coordinator.counters[f"http: {connection.refused}"] += 1

    async def _serve_control(self, stream: trio.abc.Stream, connection: HttpConnection, request: Request) -> None:
        text = request.headers.get(ts2021.HANDSHAKE_HEADER.lower())
        if request.method != "POST" or request.headers["upgrade"] != ts2021.UPGRADE:
            await connection.respond(request, text_response(400, "unknown next protocol"))
            return
        if text is None:
            await connection.respond(request, text_response(400, "missing Tailscale handshake header"))
            return
        try:
            initiation = ts2021.parse_handshake_header(text)
        except HandshakeFailed as error:
            await connection.respond(request, text_response(400, str(error)))
            return
        rest = await connection.upgrade([("Upgrade", ts2021.UPGRADE), ("Connection", "upgrade")])
        try:
            ephemeral = PrivateKey(self._random(32))
            response, channel = ts2021.accept(initiation, self.coordinator.state.noise_key, ephemeral)
        except HandshakeFailed as error:
            self.coordinator.counters["handshake failed"] += 1
            await stream.send_all(ts2021.error_frame(str(error)))
            return
        session = ServerSession(channel, ts2021.early_payload(PublicKey(self._random(32))))
        await stream.send_all(response + session.data_to_send())
        await ControlLink(stream, session, self).run(rest)

    async def _serve_relay(self, stream: trio.abc.Stream, connection: HttpConnection, request: Request) -> None:
        if request.method != "GET":
            await connection.respond(request, text_response(405, "want GET"))
            return
        if request.headers.get("derp-fast-start") == "1":
            rest = connection.take_over()
        else:
            headers = [("Upgrade", "DERP"), ("Connection", "Upgrade"), ("Derp-Version", "2")]
            key = self.relay.key.public.raw.hex()
            rest = await connection.upgrade([*headers, ("Derp-Public-Key", key)])
        link = RelayLink(stream, self.relay, self.serve_relay)
        self._relay_links[link.client] = link
        try:
            await link.run(rest)
        finally:
            del self._relay_links[link.client]


def watch_for_death(connection: trio.socket.SocketType, seconds: int) -> None:
    """Let the kernel close a connection whose client has acknowledged nothing for so long; silent ones are asked."""
    for option, value in (
        (socket.TCP_KEEPIDLE, seconds // 2),
        (socket.TCP_KEEPINTVL, seconds - seconds // 2),
        (socket.TCP_KEEPCNT, 1),
        (socket.TCP_USER_TIMEOUT, seconds * 1000),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

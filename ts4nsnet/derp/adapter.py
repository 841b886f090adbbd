# SPDX-License-Identifier: BSD-3-Clause
"""The relays' I/O: dials, TLS, and one task per connection that reads while another writes.

    run ─┬─ obeys Dial and Hangup, calls handle_timer          wake(): `regions` has been told something
         └─ a task per connection: dial ─► opened ─┬─ read: all TLS records there are, one call of `deliver`
                                                   └─ write: all that is due in one piece, then again

A relay that does not take what we write holds up its own writer only: its packets pile up in its queue in `Regions`,
where the oldest leave, and after 30 s the connection ends. While `deliver` waits, nothing is read, so a node that is
slow makes the relay's TCP slow, and nothing else piles up.

A region's nodes are tried in the map's order, the next one when a node cannot be reached or its certificate is wrong.

Source: tailscale's derp/derphttp; our notes on DERP, sections 1.5 and 1.6.
"""

import os
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf

import trio

from ts4nsnet.derp.client import CONNECT_TIME
from ts4nsnet.derp.errors import DerpError, Lost, Untrusted
from ts4nsnet.derp.events import Event, Received
from ts4nsnet.derp.links import Dial
from ts4nsnet.derp.map import Node
from ts4nsnet.derp.metacert import server_key, without_metacerts
from ts4nsnet.derp.regions import Regions
from ts4nsnet.dial import DialError, TlsOptions, dial
from ts4nsnet.keys import PublicKey

NODE_TIME = 3.0  # ours: seconds for a node that is not the region's last; the reference has 1.5 for TCP alone
WRITE_TIME = 30.0  # ours: seconds that a relay may take to accept one write
READ_BYTES = 1 << 16
PIN_PREFIX = "sha256-raw:"
_DER = 2  # _ssl.ENCODING_DER

Deliver = Callable[[Sequence[Event]], Awaitable[None]]
TlsStream = trio.SSLStream[trio.abc.Stream]


@dataclass(slots=True, eq=False)
class _Line:
    """A connection's task, from outside."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    wake: trio.Event = field(default_factory=trio.Event)  # there is something to write
    error: DerpError = field(default_factory=lambda: Lost("we have ended the connection"))


class Adapter:
    """Runs a `Regions` on trio; `now` is trio's time.

    Args:
        regions: may be told things at any time; call `wake` then.
        deliver: takes events in their order, several at once.
        environ: where to look for proxies and certificates.
    """

    def __init__(self, regions: Regions, deliver: Deliver, environ: Mapping[str, str] = os.environ) -> None:
        self._regions = regions
        self._deliver = deliver
        self._environ = environ
        self._wake = trio.Event()
        self._lines: dict[int, _Line] = {}
        self._delivering = trio.Lock()

    def wake(self) -> None:
        """Look at `regions` again: it may have commands, events, other timers or packets."""
        self._wake.set()

    def wake_writers(self) -> None:
        """`regions` has been told to send packets, and nothing else."""
        for connection, line in self._lines.items():
            if self._regions.wants_write(connection):
                line.wake.set()
        if self._regions.has_commands:
            self.wake()

    async def run(self) -> None:
        """Keep the connections that `regions` wants, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                self._regions.handle_timer(trio.current_time())
                self._obey(nursery)
                await self._pass_on()
                timer = self._regions.next_timer()
                with trio.CancelScope(deadline=inf if timer is None else timer):
                    await self._wake.wait()

    def _obey(self, nursery: trio.Nursery) -> None:
        while (command := self._regions.next_command()) is not None:
            if isinstance(command, Dial):
                line = self._lines[command.connection] = _Line()
                nursery.start_soon(self._serve, command, line)
            elif command.connection in self._lines:  # else it has ended by itself meanwhile
                self._lines[command.connection].scope.cancel()
        self.wake_writers()

    async def _pass_on(self) -> None:
        async with self._delivering:
            events: list[Event] = []
            while (event := self._regions.next_event()) is not None:
                events.append(event)
            if not all(isinstance(event, Received) for event in events):
                self.wake()  # with the state of a connection, commands and timers change
            if events:
                await self._deliver(events)

    # --- one connection -----------------------------------------------------------------------------------------------

    async def _serve(self, order: Dial, line: _Line) -> None:
        try:
            with line.scope:
                await self._connect(order, line)
        except DerpError as error:
            line.error = error
        finally:
            del self._lines[order.connection]
            self._regions.ended(order.connection, line.error, trio.current_time())
            self.wake()

    async def _connect(self, order: Dial, line: _Line) -> None:
        node, stream, key = await self._dial_region(order)
        try:
            self._regions.opened(order.connection, node, key, _local_address(stream), trio.current_time())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, order.connection, stream, line)
                await self._read(order.connection, stream, line)
                nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(stream)

    async def _read(self, connection: int, stream: TlsStream, line: _Line) -> None:
        while True:
            try:
                data = await stream.receive_some(READ_BYTES)
            except trio.BrokenResourceError as error:
                line.error = Lost(f"the connection broke: {error.__cause__ or error}")
                return
            self._regions.receive(connection, b"".join((data, _read_on(stream))), trio.current_time())
            self.wake_writers()
            await self._pass_on()
            if not data:
                return

    async def _write(self, connection: int, stream: TlsStream, line: _Line) -> None:
        try:
            with trio.CancelScope() as limit:  # one for all writes: each of its own costs more than to set its time
                while True:
                    line.wake = trio.Event()
                    while self._regions.wants_write(connection):
                        limit.deadline = trio.current_time() + WRITE_TIME
                        await stream.send_all(self._regions.data_to_send(connection, trio.current_time()))
                    limit.deadline = inf
                    await line.wake.wait()
            line.error = Lost(f"the relay has not taken a write within {WRITE_TIME:g} s")
        except trio.BrokenResourceError as error:
            line.error = Lost(f"the connection broke: {error.__cause__ or error}")
        line.scope.cancel()

    # --- dialling -----------------------------------------------------------------------------------------------------

    async def _dial_region(self, order: Dial) -> tuple[Node, TlsStream, PublicKey | None]:
        """Reach one node of a region. Raises: Lost, which says what was tried."""
        nodes = sorted((n for n in order.region.nodes if not n.stun_only), key=lambda n: n.name == order.avoid)
        failures = [] if nodes else ["the map names no relay there"]
        deadline = trio.current_time() + CONNECT_TIME
        for node in nodes:
            rest = deadline - trio.current_time()
            try:
                return node, *await self._dial_node(node, rest if node is nodes[-1] else min(rest, NODE_TIME))
            except (DialError, DerpError) as error:
                failures.append(f"{node.name}: {error}")
        raise Lost(f"no relay of region {order.region.region_id} can be reached: {'; '.join(failures)}")

    async def _dial_node(self, node: Node, time: float) -> tuple[TlsStream, PublicKey | None]:
        hosts = [host for host in (node.dial_host(6), node.dial_host(4)) if host is not None]
        if not hosts:
            raise Lost("the map disables both IPv4 and IPv6")
        pin = node.cert_name.removeprefix(PIN_PREFIX) if node.cert_name.startswith(PIN_PREFIX) else ""
        options = TlsOptions(
            certificate_name="" if pin or node.insecure_for_tests else node.cert_name,
            pin=pin,
            insecure=node.insecure_for_tests,
        )
        addresses = [host for host in hosts if host != node.host_name]
        stream = await dial(
            node.host_name, node.derp_port, tls=options, addresses=addresses, timeout=time, environ=self._environ
        )
        assert isinstance(stream, trio.SSLStream)  # noqa: S101 - what dial promises
        try:
            return stream, _check_chain(node, stream)
        except Untrusted:
            await trio.aclose_forcefully(stream)
            raise


def _read_on(stream: TlsStream) -> bytes:
    """The TLS records that are there already: trio has read as many as there were, and gives one at a time."""
    tls: ssl.SSLObject = stream._ssl_object
    records: list[bytes] = []
    with suppress(ssl.SSLError):  # there is no more; what else is wrong, the next read finds
        while record := tls.read(READ_BYTES):
            records.append(record)
    return b"".join(records)


def _check_chain(node: Node, stream: TlsStream) -> PublicKey | None:
    """The key of the relay's metacert, if it may be used; raises `Untrusted` for a pinned relay that shows more."""
    chain = _chain(stream)
    if node.cert_name.startswith(PIN_PREFIX) and (shown := len(without_metacerts(chain))) != 1:
        raise Untrusted(f"pinned certificate: got {shown} certificates, want exactly one")
    return server_key(chain) if stream.version() == "TLSv1.3" else None


def _chain(stream: TlsStream) -> list[bytes]:
    # neither trio nor Python before 3.13 has a public way to what the other side presented
    tls: ssl.SSLObject = stream._ssl_object
    if hasattr(tls, "get_unverified_chain"):
        return list(tls.get_unverified_chain())
    chain = getattr(tls, "_sslobj").get_unverified_chain()  # noqa: B009 - the checker does not know it
    return [certificate.public_bytes(_DER) for certificate in chain or ()]


def _local_address(stream: trio.abc.Stream) -> str:
    while isinstance(stream, trio.SSLStream):  # more than one by way of an https proxy
        stream = stream.transport_stream
    return str(stream.socket.getsockname()[0]) if isinstance(stream, trio.SocketStream) else ""

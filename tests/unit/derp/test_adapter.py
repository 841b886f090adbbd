# SPDX-License-Identifier: BSD-3-Clause
"""The adapter over real TLS on loopback: trust, pins, fast start, fail-over, relays that hang, die and come back."""

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.serialization import Encoding

from tests.unit.derp.certificates import Issued, issue, metacert
from tests.unit.derp.relays import BOB, CAROL, CLIENT, SERVER, FakeRelay
from ts4nsnet.derp.adapter import Adapter
from ts4nsnet.derp.errors import DerpError, Drop
from ts4nsnet.derp.events import Connected, Disconnected, Event, Received
from ts4nsnet.derp.frames import NotePreferred, RecvPacket
from ts4nsnet.derp.links import MAX_QUEUED_BYTES
from ts4nsnet.derp.map import Map, Node, Region
from ts4nsnet.derp.regions import Regions

HOST = "relay.lab.test"
AUTHORITY = issue(authority=True, subject="authority")
STRANGER = issue(authority=True, subject="stranger")
GOOD = issue(HOST, by=AUTHORITY)
METACERT = metacert(SERVER.public).public_bytes(Encoding.PEM)


@dataclass
class Server:
    """A relay on a port of loopback; it returns every packet to its sender, as if from the peer addressed."""

    context: ssl.SSLContext
    reads: bool = True  # after the hello
    port: int = 0
    relays: list[FakeRelay] = field(default_factory=list)
    sockets: list[trio.socket.SocketType] = field(default_factory=list)
    gone: trio.Event = field(default_factory=trio.Event)  # a connection has ended
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stopped: trio.Event = field(default_factory=trio.Event)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with self.scope:
            (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            if not self.reads:
                listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            async with listener, trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    nursery.start_soon(self._serve, await listener.accept())
        self.stopped.set()

    async def _serve(self, tcp: trio.SocketStream) -> None:
        stream = trio.SSLStream(tcp, self.context, server_side=True, https_compatible=True)
        relay = FakeRelay()
        try:
            await stream.do_handshake()
            self.relays.append(relay)
            self.sockets.append(tcp.socket)
            answered = 0
            while data := await stream.receive_some(1 << 16):
                relay.receive(bytes(data))
                packets = relay.packets()
                relay.say(*(RecvPacket(peer, packet) for peer, packet in packets[answered:]))
                answered = len(packets)
                await stream.send_all(relay.data_to_send())
                if relay.client and not self.reads:
                    await trio.sleep_forever()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)
            self.gone.set()

    def node(self, name: str = "1a", **changes: Any) -> Node:
        """How the map describes it."""
        node = Node(name, 1, HOST, ipv4="127.0.0.1", ipv6="none", derp_port=self.port)
        return replace(node, **changes)


class Tailnet:
    """Relays, and a node that uses them."""

    def __init__(self, nursery: trio.Nursery, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.nursery = nursery
        self.regions = Regions(Random(7).randbytes)
        authorities = folder / "authorities.pem"
        authorities.write_bytes(AUTHORITY.pem)
        self.adapter = Adapter(self.regions, self._deliver, {"SSL_CERT_FILE": str(authorities), **environ})
        self.most_packets = 0  # that came at once
        self._to_test, self._events = trio.open_memory_channel[Event](100_000)

    async def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Received):
                self.most_packets = max(self.most_packets, len(event.packets))
                for packet in event.packets:
                    await self._to_test.send(replace(event, packets=(packet,)))
            else:
                await self._to_test.send(event)

    async def serve(self, issued: Issued = GOOD, *more: bytes, tls13: bool = True, reads: bool = True) -> Server:
        """Start a relay."""
        server = Server(issued.server_context(self.folder, *more, tls13=tls13), reads)
        await self.nursery.start(server.run)
        return server

    def use(self, *regions: tuple[Node, ...], home: int = 1) -> None:
        """Have a map with regions 1, 2, … of these nodes, and a home."""
        now = trio.current_time()
        self.regions.set_map(Map.of(*(Region(n, nodes=nodes) for n, nodes in enumerate(regions, 1))), now)
        self.regions.set_key(CLIENT, now)
        self.regions.set_home(home, now)
        self.adapter.wake()

    def send(self, peer: bytes, region_id: int = 1) -> None:
        """Send a packet to Bob."""
        self.regions.send(BOB, region_id, (peer,), trio.current_time())
        self.adapter.wake()

    async def next_event(self) -> Event:
        """What happens next."""
        return await self._events.receive()

    async def refusal(self) -> str:
        """What happens next, which must be the end of a connection."""
        event = await self.next_event()
        assert isinstance(event, Disconnected)
        assert isinstance(event.error, DerpError)
        return str(event.error)


@asynccontextmanager
async def tailnet(folder: Path, **environ: str) -> AsyncIterator[Tailnet]:
    with trio.fail_after(40):
        async with trio.open_nursery() as nursery:
            net = Tailnet(nursery, folder, environ)
            nursery.start_soon(net.adapter.run)
            yield net
            nursery.cancel_scope.cancel()


# --- whom to trust ----------------------------------------------------------------------------------------------------

EXPIRED = issue(HOST, by=AUTHORITY, days=(-30, -1))
OTHER_NAME = issue("other.test", by=AUTHORITY)
WILDCARD = issue("*.lab.test", by=AUTHORITY)
ADDRESS = issue("127.0.0.1", by=AUTHORITY)
UNKNOWN = issue(HOST, by=STRANGER)
ALONE = issue(HOST)
ALONE_CA = issue(authority=True, subject="nothing but an authority")
ALONE_EXPIRED = issue(HOST, days=(-30, -1))
ALONE_LATER = issue(HOST, days=(1, 30))
ALONE_OTHER = issue("other.test", subject=HOST)
IP: dict[str, Any] = {"host_name": "127.0.0.1", "ipv4": ""}

# name, what the relay presents, what the map says of it
TRUSTED: list[tuple[str, Issued, dict[str, Any]]] = [
    ("by name", GOOD, {}),
    ("by wildcard", WILDCARD, {}),
    ("by address", ADDRESS, IP),
    ("by another name", OTHER_NAME, {"cert_name": "other.test"}),
    ("by another name of many", WILDCARD, {"host_name": "front.example", "cert_name": HOST}),
    ("pinned", ALONE, {"cert_name": ALONE.pin}),
    ("pinned, at an address, whatever its name", ALONE_OTHER, {**IP, "cert_name": ALONE_OTHER.pin}),
    ("pinned, at an address, without any name", ALONE_CA, {**IP, "cert_name": ALONE_CA.pin}),
    ("for tests", EXPIRED, {"insecure_for_tests": True}),
    ("for tests, pinned", ALONE, {"insecure_for_tests": True, "cert_name": ALONE.pin}),
]
# and the error
DISTRUSTED: list[tuple[str, Issued, dict[str, Any], str]] = [
    ("another name", OTHER_NAME, {}, "mismatch"),
    ("expired", EXPIRED, {}, "expired"),
    ("unknown authority", UNKNOWN, {}, "not trusted"),
    ("signed by itself", ALONE, {}, "not trusted"),
    ("address, by name", GOOD, IP, "mismatch"),
    ("not the other name", GOOD, {"cert_name": "other.test"}, "other.test"),
    ("the other name by a stranger", UNKNOWN, {"host_name": "front.test", "cert_name": HOST}, "not trusted"),
    ("another pin", ALONE, {"cert_name": GOOD.pin}, "SHA-256"),
    ("a pin in upper case", ALONE, {"cert_name": "sha256-raw:" + ALONE.pin[11:].upper()}, "SHA-256"),
    ("pinned and expired", ALONE_EXPIRED, {"cert_name": ALONE_EXPIRED.pin}, "expired"),
    ("pinned and not valid yet", ALONE_LATER, {"cert_name": ALONE_LATER.pin}, "not valid yet"),
    ("pinned with another name", ALONE_OTHER, {"cert_name": ALONE_OTHER.pin}, HOST),
    ("for tests, another pin", ALONE, {"insecure_for_tests": True, "cert_name": GOOD.pin}, "SHA-256"),
]


@pytest.mark.parametrize(("issued", "node"), [case[1:] for case in TRUSTED], ids=[case[0] for case in TRUSTED])
async def test_a_relay_is_trusted(tmp_path: Path, issued: Issued, node: dict[str, Any]) -> None:
    async with tailnet(tmp_path) as net:
        server = await net.serve(issued)
        net.use((server.node(**node),))
        assert await net.next_event() == Connected(1, SERVER.public)
        assert server.relays[0].request["host"] == f"{node.get('host_name', HOST)}:{server.port}"


@pytest.mark.parametrize(
    ("issued", "node", "why"), [case[1:] for case in DISTRUSTED], ids=[case[0] for case in DISTRUSTED]
)
async def test_a_relay_is_not_trusted(tmp_path: Path, issued: Issued, node: dict[str, Any], why: str) -> None:
    async with tailnet(tmp_path) as net:
        server = await net.serve(issued)
        net.use((server.node(**node),))
        assert why in await net.refusal()
        assert not any(relay.request_line for relay in server.relays)


async def test_a_pinned_relay_shows_one_certificate_besides_metacerts(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        one = await net.serve(ALONE, METACERT, METACERT)
        net.use((one.node(cert_name=ALONE.pin),))
        assert await net.next_event() == Connected(1, SERVER.public)
        two = await net.serve(ALONE, METACERT, AUTHORITY.pem)
        net.use((two.node(cert_name=ALONE.pin),))
        while not isinstance(event := await net.next_event(), Disconnected):
            pass
        assert "got 2 certificates, want exactly one" in str(event.error)


# --- fast start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "tls13", "fast"), [((METACERT,), True, True), ((METACERT,), False, False), ((), True, False)]
)
async def test_a_metacert_makes_a_fast_start_over_tls_1_3(
    tmp_path: Path, more: tuple[bytes, ...], tls13: bool, fast: bool
) -> None:
    async with tailnet(tmp_path) as net:
        server = await net.serve(GOOD, *more, tls13=tls13)
        net.use((server.node(),))
        net.send(b"there and back")
        assert await net.next_event() == Connected(1, SERVER.public)
        assert await net.next_event() == Received(1, BOB, (b"there and back",))
        (relay,) = server.relays
        assert ("derp-fast-start" in relay.request) == fast
        assert NotePreferred(True) in relay.received


# --- which node -------------------------------------------------------------------------------------------------------


async def test_the_next_node_is_taken_when_one_cannot_be_reached_or_trusted(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        wrong, right = await net.serve(UNKNOWN), await net.serve()
        with socket.create_server(("127.0.0.1", 0)) as unused:
            closed = unused.getsockname()[1]
        net.use(
            (
                right.node("0", stun_only=True),
                right.node("1a", derp_port=closed),
                wrong.node("1b"),
                right.node("1c", ipv4="none"),
                right.node("1d"),
            )
        )
        assert await net.next_event() == Connected(1, SERVER.public)
        assert right.relays[0].request["ideal-node"] == "0"
        (link,) = net.regions.statistics().links
        assert (link.node, link.local_address) == ("1d", "127.0.0.1")


async def test_an_error_says_what_was_tried(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        wrong = await net.serve(UNKNOWN)
        net.use((wrong.node("1a"), wrong.node("1b", ipv4="none")))
        text = await net.refusal()
        assert text.startswith("no relay of region 1 can be reached: 1a: ")
        assert "1b: the map disables both IPv4 and IPv6" in text


async def test_a_region_without_relays_is_said_so(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        net.use((Node("1a", 1, HOST, stun_only=True),))
        assert await net.refusal() == "no relay of region 1 can be reached: the map names no relay there"


# --- proxy ------------------------------------------------------------------------------------------------------------


async def test_a_proxy_is_asked_for_the_relay_by_name(tmp_path: Path) -> None:
    asked: list[bytes] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def proxy(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        asked.append(head.partition(b"\r\n")[0])
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as onward, trio.open_nursery() as nursery:
            await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            nursery.start_soon(pump, stream, onward)
            nursery.start_soon(pump, onward, stream)

    async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
        while data := await source.receive_some():
            await sink.send_all(data)

    port = listener.socket.getsockname()[1]
    async with listener, tailnet(tmp_path, HTTPS_PROXY=f"http://127.0.0.1:{port}") as net:
        server = await net.serve()
        net.nursery.start_soon(trio.serve_listeners, proxy, [listener])
        net.use((server.node(),))
        assert await net.next_event() == Connected(1, SERVER.public)
        assert asked == [f"CONNECT {HOST}:{server.port} HTTP/1.1".encode()]


# --- traffic ----------------------------------------------------------------------------------------------------------


async def test_packets_go_there_and_back_through_two_regions(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        home, other = await net.serve(), await net.serve()
        net.use((home.node(),), (other.node("2a"),))
        assert await net.next_event() == Connected(1, SERVER.public)
        for n in range(50):
            net.send(n.to_bytes(2, "big") * 500, 2)
        assert await net.next_event() == Connected(2, SERVER.public)
        for n in range(50):
            assert await net.next_event() == Received(2, BOB, (n.to_bytes(2, "big") * 500,))


async def test_the_records_of_a_read_come_at_once(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        server = await net.serve()
        net.use((server.node(),))
        assert await net.next_event() == Connected(1, SERVER.public)
        (relay,) = server.relays
        packets = [n.to_bytes(2, "big") * 500 for n in range(48)]
        relay.say(*(RecvPacket(BOB, packet) for packet in packets))  # three records, which leave with the answer
        net.send(b"last")
        for packet in (*packets, b"last"):
            assert await net.next_event() == Received(1, BOB, (packet,))
        assert net.most_packets > 2 * (1 << 14) // 1037


async def test_a_relay_that_never_reads_stalls_nobody_else(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    async with tailnet(tmp_path) as net:
        home, mute = await net.serve(), await net.serve(reads=False)
        net.use((home.node(),), (mute.node("2a"),))
        assert await net.next_event() == Connected(1, SERVER.public)
        net.send(b"first", 2)
        assert await net.next_event() == Connected(2, SERVER.public)
        while net.regions.statistics().dropped.get(Drop.QUEUE_FULL, 0) < 100:
            for _ in range(20):
                net.send(bytes(60_000), 2)
            await trio.testing.wait_all_tasks_blocked()
        for n in range(20):
            net.regions.send(CAROL, 1, (bytes([n]),), trio.current_time())
            net.adapter.wake()
            while (event := await net.next_event()) == Received(2, BOB, (b"first",)):
                pass
            assert event == Received(1, CAROL, (bytes([n]),))
        (_, stuck) = net.regions.statistics().links
        assert MAX_QUEUED_BYTES // 2 < stuck.queued_bytes <= MAX_QUEUED_BYTES  # the kernel may take some more
        mock_clock.jump(30)
        assert await net.refusal() == "the relay has not taken a write within 30 s"


async def test_a_relay_killed_and_back_is_found_again(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        server = await net.serve()
        net.use((server.node(),))
        assert await net.next_event() == Connected(1, SERVER.public)
        server.scope.cancel()
        await server.stopped.wait()
        for _ in range(3):
            await net.refusal()
        net.send(b"waits")
        again = Server(server.context, port=server.port)
        await net.nursery.start(again.run)
        while isinstance(event := await net.next_event(), Disconnected):
            pass
        assert event == Connected(1, SERVER.public)
        assert await net.next_event() == Received(1, BOB, (b"waits",))


async def test_a_connection_that_is_reset_is_replaced(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        server = await net.serve()
        net.use((server.node(),))
        assert await net.next_event() == Connected(1, SERVER.public)
        server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.sockets[0].close()
        assert "the connection broke: " in await net.refusal()
        assert await net.next_event() == Connected(1, SERVER.public)


async def test_a_connection_given_up_is_closed(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        server = await net.serve()
        net.use((server.node(),))
        assert await net.next_event() == Connected(1, SERVER.public)
        net.regions.set_key(None, trio.current_time())
        net.adapter.wake()
        await server.gone.wait()
        assert net.regions.statistics().links == ()


async def test_what_waits_for_a_dial_ends_with_the_wish(tmp_path: Path) -> None:
    async with tailnet(tmp_path) as net:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
            net.use((Node("1a", 1, HOST, ipv4="127.0.0.1", ipv6="none", derp_port=silent.getsockname()[1]),))
            await trio.testing.wait_all_tasks_blocked()
            net.regions.set_online(False, trio.current_time())
            net.adapter.wake()
            await trio.testing.wait_all_tasks_blocked()
            assert net.regions.statistics().links == ()

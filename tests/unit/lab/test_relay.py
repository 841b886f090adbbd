# SPDX-License-Identifier: BSD-3-Clause
"""The DERP server against our DERP client, frames in memory and a clock of ours; then over TLS."""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lab.clients import Node, control, dial, new_key
from ts4nsnet.derp.client import Client as DerpClient
from ts4nsnet.derp.events import Connected, Disconnected, Event, PeerGone, Probed, Received
from ts4nsnet.derp.frames import (
    HEADER,
    MAX_PACKET_BYTES,
    SERVER_LIMITS,
    ClientInfo,
    FrameBuffer,
    FrameType,
    KeepAlive,
    Ping,
    Pong,
    RecvPacket,
    SendPacket,
)
from ts4nsnet.derp.hello import ClientDetails
from ts4nsnet.fair import ENTRY_BYTES
from ts4nsnet.keys import KEY_BYTES, PrivateKey, PublicKey
from ts4nsnet.lab import Rate, Tailnet
from ts4nsnet.lab.relay import BATCH_BYTES, DISCO_MAGIC, MAX_NOTES, QUEUE_BYTES, Client, Relay

DISCO = DISCO_MAGIC.ljust(62, b".")


class Net:
    """A relay, its clients, and the wires between them."""

    def __init__(self, *, rate: Rate | None = None, admits: Callable[[PublicKey], bool] = lambda _: True) -> None:
        self.random = Random(7)
        self.now = 1000.0
        self.relay = Relay(new_key(self.random), admits, self.random.randbytes, rate)
        self.peers: list[Peer] = []

    def join(self, key: PrivateKey | None = None) -> "Peer":
        """A client, after its hello."""
        peer = Peer(self, key or new_key(self.random))
        self.peers.append(peer)
        self.deliver()
        return peer

    def joined(self, count: int) -> "list[Peer]":
        peers = [self.join() for _ in range(count)]
        for peer in peers:
            assert [type(event) for event in peer.events()] == [Connected]
        return peers

    def deliver(self) -> None:
        """Carry everything until nothing moves."""
        moved = True
        while moved:
            moved = sum(peer.carry() for peer in self.peers) > 0

    def after(self, seconds: float) -> None:
        self.now += seconds
        for peer in self.peers:
            peer.server.handle_timer(self.now)
        self.deliver()


class Peer:
    """Both ends of one connection; a stuck one does not read."""

    def __init__(self, net: Net, key: PrivateKey) -> None:
        self.net = net
        self.key = key
        self.stuck = False
        self.client = DerpClient(
            900, key, net.random.randbytes, net.now, host="lab", server_key=net.relay.key.public, preferred=True
        )
        self.server: Client = net.relay.accept(net.now)
        _, _, self._hello = self.client.data_to_send().partition(b"\r\n\r\n")

    @property
    def public(self) -> PublicKey:
        return self.key.public

    def carry(self) -> bool:
        up = self._hello + self.client.data_to_send()
        self._hello = b""
        if up and not self.server.closed:
            self.server.receive(up, self.net.now)
        down = b"" if self.stuck else self.server.data_to_send()
        if down:
            self.client.receive(down, self.net.now)
        return bool(up or down)

    def send(self, peer: "Peer | PublicKey", packet: bytes) -> None:
        self.client.send(peer.public if isinstance(peer, Peer) else peer, packet, self.net.now)

    def events(self) -> list[Event]:
        found: list[Event] = []
        while (event := self.client.next_event()) is not None:
            found.append(event)
        return found

    def packets(self) -> list[bytes]:
        return [packet for event in self.events() if isinstance(event, Received) for packet in event.packets]

    def gone(self) -> list[tuple[PublicKey, int]]:
        return [(event.peer, event.reason) for event in self.events() if isinstance(event, PeerGone)]

    def raw(self, data: bytes) -> None:
        """Bytes that our client would not send."""
        self.server.receive(data, self.net.now)


def test_packets_pass_both_ways() -> None:
    net = Net()
    alice, bob = net.joined(2)
    alice.send(bob, b"hello")
    bob.send(alice, DISCO)
    net.deliver()
    assert bob.events() == [Received(900, alice.public, (b"hello",))]
    assert alice.events() == [Received(900, bob.public, (DISCO,))]
    assert alice.server.is_home


def test_packet_to_oneself_comes_back() -> None:
    net = Net()
    [alice] = net.joined(1)
    alice.send(alice, b"hello")
    net.deliver()
    assert alice.packets() == [b"hello"]


def test_largest_packet_passes_and_a_larger_one_ends_the_connection() -> None:
    net = Net()
    alice, bob = net.joined(2)
    alice.send(bob, bytes(MAX_PACKET_BYTES))
    net.deliver()
    assert bob.packets() == [bytes(MAX_PACKET_BYTES)]
    alice.raw(SendPacket(bob.public, bytes(MAX_PACKET_BYTES + 1)).emit())
    assert "length of a frame" in alice.server.closed


@pytest.mark.parametrize(("packet", "answers"), [(DISCO, 1), (DISCO[:61], 0), (b"x" * 100, 0)])
def test_only_disco_to_an_unknown_key_is_answered(packet: bytes, answers: int) -> None:
    net = Net()
    [alice] = net.joined(1)
    stranger = new_key(net.random).public
    alice.send(stranger, packet)
    net.deliver()
    assert alice.gone() == [(stranger, 1)] * answers
    assert net.relay.counters["unknown destination"] == 1


def test_answers_for_unknown_keys_are_few() -> None:
    net = Net()
    [alice] = net.joined(1)
    for _ in range(10):
        alice.send(new_key(net.random).public, DISCO)
    net.deliver()
    assert len(alice.gone()) == 3
    net.after(1.0)
    alice.send(new_key(net.random).public, DISCO)
    alice.send(new_key(net.random).public, DISCO)
    net.deliver()
    assert len(alice.gone()) == 1


def test_slow_reader_loses_its_oldest_packets_alone() -> None:
    net = Net()
    alice, bob, carol = net.joined(3)
    bob.stuck = True
    kept = QUEUE_BYTES // (HEADER.size + KEY_BYTES + 1000 + ENTRY_BYTES)
    packets = [number.to_bytes(1000, "big") for number in range(kept + 5)]
    discos = [DISCO_MAGIC.ljust(900, b"x") + packet[900:] for packet in packets]
    for packet, disco in zip(packets, discos, strict=True):
        alice.send(bob, packet)
        alice.send(bob, disco)
    alice.send(carol, b"hello")
    net.deliver()
    assert carol.packets() == [b"hello"]
    assert net.relay.counters["queue full"] == 10
    bob.stuck = False
    net.deliver()
    assert bob.packets() == discos[5:] + packets[5:]


def test_a_sender_that_floods_a_slow_reader_costs_other_senders_nothing() -> None:
    net = Net()
    alice, bob, carol = net.joined(3)
    bob.stuck = True
    carols = [number.to_bytes(1000, "big") for number in range(60)]
    for packet in carols:
        carol.send(bob, packet)
        for _ in range(10):
            alice.send(bob, bytes(1100))
        net.deliver()
    bob.stuck = False
    net.deliver()
    packets = bob.packets()
    assert [packet for packet in packets if len(packet) == 1000] == carols
    assert len(packets) > 100
    assert len(packets) + net.relay.counters["queue full"] == 11 * 60


def test_what_was_not_yet_sent_can_still_be_dropped() -> None:
    net = Net()
    alice, bob = net.joined(2)
    bob.stuck = True
    for _ in range(32):
        alice.send(bob, bytes(MAX_PACKET_BYTES))
    net.deliver()
    assert len(bob.server.data_to_send()) < 2 * BATCH_BYTES
    assert bob.server.data_to_send()
    assert net.relay.counters["queue full"] == 30


def test_newest_connection_of_a_key_gets_the_packets() -> None:
    net = Net()
    [alice, bob] = net.joined(2)
    again = net.join(bob.key)
    again.events()
    alice.send(bob, b"1")
    net.deliver()
    assert (bob.packets(), again.packets()) == ([], [b"1"])
    bob.client.probe(net.now)
    net.deliver()
    alice.send(bob, b"2")
    net.deliver()
    assert (bob.packets(), again.packets()) == ([b"2"], [])
    bob.server.receive(b"", net.now)
    alice.send(bob, b"3")
    net.deliver()
    assert again.packets() == [b"3"]
    assert alice.gone() == []


def test_receivers_learn_when_a_sender_is_gone() -> None:
    net = Net()
    alice, bob, carol = net.joined(3)
    bob.send(alice, b"hello")
    net.deliver()
    alice.events()
    bob.server.receive(b"", net.now)
    net.deliver()
    assert alice.gone() == [(bob.public, 0)]
    assert carol.gone() == []
    again = net.join(bob.key)
    again.send(alice, b"hello")
    net.deliver()
    alice.events()
    again.server.receive(b"", net.now)
    net.deliver()
    assert alice.gone() == [(bob.public, 0)], "armed anew"


def test_ping_is_answered() -> None:
    net = Net()
    [alice] = net.joined(1)
    alice.client.probe(net.now)
    net.deliver()
    assert [type(event) for event in alice.events()] == [Probed]


def test_one_pong_waits_at_most() -> None:
    net = Net()
    [alice] = net.joined(1)
    alice.raw(Ping(b"12345678").emit() + Ping(b"abcdefgh").emit())
    assert alice.server.data_to_send() == Pong(b"12345678").emit()


def test_keep_alive_comes_about_every_minute() -> None:
    net = Net()
    [alice] = net.joined(1)
    alice.server.handle_timer(net.now + 59.9)
    assert alice.server.data_to_send() == b""
    alice.server.handle_timer(net.now + 65.0)
    assert alice.server.data_to_send() == KeepAlive().emit()
    assert 125.0 <= alice.server.next_timer() - net.now <= 130.0


def test_client_that_says_nothing_is_cut() -> None:
    net = Net()
    client = net.relay.accept(net.now)
    client.handle_timer(net.now + 9.0)
    before = client.closed
    client.handle_timer(client.next_timer())
    assert (before, client.closed) == ("", "no hello")


def test_stranger_is_not_admitted() -> None:
    known = new_key(Random(1))
    net = Net(admits=lambda key: key == known.public)
    stranger = net.join()
    assert stranger.server.closed
    assert stranger.events() == []
    assert net.relay.keys == []
    assert [type(event) for event in net.join(known).events()] == [Connected]
    assert net.relay.keys == [known.public]


def test_retired_key_is_disconnected() -> None:
    net = Net()
    alice, bob = net.joined(2)
    again = net.join(alice.key)
    net.relay.close_key(alice.public)
    net.relay.close_key(new_key(net.random).public)
    assert alice.server.closed == again.server.closed == "key no longer valid"
    assert not bob.server.closed
    assert net.relay.keys == [bob.public]
    assert alice.server in net.relay.ready


def test_too_fast_sender_is_read_later() -> None:
    net = Net(rate=Rate(bytes_per_second=1000.0, burst_bytes=2000.0))
    alice, bob = net.joined(2)
    assert alice.server.read_at <= net.now
    for _ in range(3):
        alice.send(bob, bytes(1000))
    net.deliver()
    assert 1.0 < alice.server.read_at - net.now < 2.0
    assert len(bob.packets()) == 3, "nothing is lost"
    assert bob.server.read_at <= net.now


def test_notes_for_a_slow_reader_are_bounded() -> None:
    net = Net()
    [alice] = net.joined(1)
    alice.stuck = True
    for _ in range(MAX_NOTES + 10):
        alice.server.put_note(KeepAlive().emit())
    size = 0
    while data := alice.server.data_to_send():
        size += len(data)
    assert size == MAX_NOTES * HEADER.size


def frame(kind: FrameType, payload: bytes) -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


@pytest.mark.parametrize(
    "data",
    [
        frame(FrameType.PING, b"1234567"),
        frame(FrameType.PING, bytes(1001)),
        frame(FrameType.NOTE_PREFERRED, b""),
        frame(FrameType.NOTE_PREFERRED, b"12"),
        frame(FrameType.SEND_PACKET, bytes(31)),
        frame(FrameType.FORWARD_PACKET, bytes(64)),
        frame(FrameType.WATCH_CONNS, b""),
        frame(FrameType.CLOSE_PEER, bytes(32)),
        HEADER.pack(0xEE, 2 << 20),
    ],
)
def test_frame_that_breaks_the_protocol_ends_the_connection(data: bytes) -> None:
    net = Net()
    [alice, bob] = net.joined(2)
    alice.raw(data)
    assert alice.server.closed
    assert net.relay.counters["malformed"] == 1
    assert net.relay.keys == [bob.public]


@pytest.mark.parametrize("data", [frame(FrameType.PONG, b"12345678"), frame(FrameType(0x14), b"x"), b"\xee" + bytes(4)])
def test_frame_without_meaning_is_passed_over(data: bytes) -> None:
    net = Net()
    [alice] = net.joined(1)
    alice.raw(data)
    assert not alice.server.closed


def test_hello_that_is_none_ends_the_connection() -> None:
    net = Net()
    key = new_key(net.random)
    good = ClientDetails().seal(key, net.relay.key.public, net.random.randbytes)
    for data in (
        SendPacket(key.public, b"x").emit(),
        ClientInfo(PublicKey(bytes(32)), bytes(60)).emit(),
        ClientInfo(new_key(net.random).public, good.sealed).emit(),
        frame(FrameType.CLIENT_INFO, bytes(10)),
    ):
        client = net.relay.accept(net.now)
        client.receive(data, net.now)
        assert client.closed
    assert net.relay.keys == []


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_whatever_comes_raises_nothing(noise: bytes, where: int) -> None:
    net = Net()
    [alice] = net.joined(1)
    good = SendPacket(alice.public, DISCO).emit() + Ping(b"12345678").emit()
    cut = where % len(good)
    alice.raw(good[:cut] + noise + good[cut:])
    alice.server.data_to_send()


# --- over TLS ---------------------------------------------------------------------------------------------------------


class Line:
    """A connection to the relay of a lab."""

    def __init__(self, stream: trio.abc.Stream, client: DerpClient) -> None:
        self._stream = stream
        self.client = client

    async def next_event(self) -> Event:
        """Wait for the next event."""
        with trio.fail_after(5.0):
            while (event := self.client.next_event()) is None:
                await self.flush()
                try:
                    data = bytes(await self._stream.receive_some(65536))
                except trio.BrokenResourceError:
                    data = b""
                self.client.receive(data, trio.current_time())
        return event

    async def flush(self) -> None:
        if data := self.client.data_to_send():
            await self._stream.send_all(data)

    async def send(self, peer: PublicKey, packet: bytes) -> None:
        self.client.send(peer, packet, trio.current_time())
        await self.flush()


async def connect(
    tailnet: Tailnet, stream: trio.SSLStream[trio.SocketStream], node: Node, random: Random, *, fast: bool
) -> Line:
    key = tailnet.relay.key.public if fast else None
    client = DerpClient(900, node.key, random.randbytes, trio.current_time(), host="lab", server_key=key)
    line = Line(stream, client)
    await line.flush()
    return line


async def registered(tailnet: Tailnet, name: str, random: Random) -> Node:
    node = Node(name, random)
    async with control(tailnet, node.machine, random) as client:
        await client.call("/machine/register", node.register(tailnet.auth_key()))
    return node


@pytest.mark.parametrize("fast", [True, False], ids=["fast start", "101"])
async def test_relay_over_tls(tmp_path: Path, fast: bool) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet:
        alice, bob = await registered(tailnet, "alice", random), await registered(tailnet, "bob", random)
        async with await dial(tailnet) as one, await dial(tailnet) as two:
            line, other = [
                await connect(tailnet, stream, node, random, fast=fast) for stream, node in ((one, alice), (two, bob))
            ]
            assert isinstance(await line.next_event(), Connected)
            assert isinstance(await other.next_event(), Connected)
            await line.send(bob.key.public, b"hello")
            assert await other.next_event() == Received(900, alice.key.public, (b"hello",))
            assert tailnet.relay.keys == [alice.key.public, bob.key.public]


async def test_stranger_is_refused_by_the_end(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet, await dial(tailnet) as stream:
        line = await connect(tailnet, stream, Node("stranger", random), random, fast=False)
        assert isinstance(await line.next_event(), Disconnected)


@pytest.mark.parametrize("how", ["delete", "expire", "rotate"])
async def test_node_that_goes_is_disconnected(tmp_path: Path, how: str) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet:
        alice = await registered(tailnet, "alice", random)
        async with await dial(tailnet) as stream:
            line = await connect(tailnet, stream, alice, random, fast=True)
            assert isinstance(await line.next_event(), Connected)
            node_id = tailnet.nodes()[0].node_id
            if how == "delete":
                tailnet.delete(node_id)
            elif how == "expire":
                tailnet.expire(node_id)
            else:
                alice.key = new_key(random)
                async with control(tailnet, alice.machine, random) as client:
                    await client.call("/machine/register", alice.register(tailnet.auth_key()))
            assert isinstance(await line.next_event(), Disconnected)


async def test_client_that_does_not_read_is_cut(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet:
        alice, bob = await registered(tailnet, "alice", random), await registered(tailnet, "bob", random)
        async with await dial(tailnet) as one, await dial(tailnet) as two:
            line = await connect(tailnet, one, alice, random, fast=True)
            await connect(tailnet, two, bob, random, fast=True)
            assert isinstance(await line.next_event(), Connected)
            with trio.fail_after(20.0):
                while not tailnet.relay.counters["closed: does not read"]:
                    await line.send(bob.key.public, bytes(60000))
            assert tailnet.relay.keys == [alice.key.public]


async def test_rate_slows_a_sender_down(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path, relay_rate=Rate(200_000.0, 100_000.0)) as tailnet:
        alice = await registered(tailnet, "alice", random)
        async with await dial(tailnet) as stream:
            line = await connect(tailnet, stream, alice, random, fast=True)
            assert isinstance(await line.next_event(), Connected)
            began = trio.current_time()
            for number in range(4):
                await line.send(alice.key.public, bytes(50_000) + b"%d" % number)
            received = [await line.next_event() for _ in range(4)]
            assert all(isinstance(event, Received) for event in received)
            assert trio.current_time() - began > 0.2


def test_frames_to_clients_are_those_of_the_codec() -> None:
    net = Net()
    alice, bob = net.joined(2)
    bob.stuck = True
    alice.send(bob, b"hello")
    net.deliver()
    buffer = FrameBuffer(SERVER_LIMITS)
    buffer.receive(bob.server.data_to_send())
    raw = buffer.next_frame()
    assert raw is not None
    assert RecvPacket.parse(raw[1]) == RecvPacket(alice.public, b"hello")

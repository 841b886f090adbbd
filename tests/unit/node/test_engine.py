# SPDX-License-Identifier: BSD-3-Clause
"""The `python` engine between sockets of this process: a TUN and a UDP socket are pairs of Unix sockets here.

    alice.app ═══ alice's engine ═══ wire ═══ bob's engine ═══ bob.app

Each read and write of such a Unix socket is one frame, as with a TUN. Time jumps from one deadline to the next when
nothing else is to be done, so timers of minutes run in no time.
"""

import os
import select
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_network
from random import Random
from typing import Self

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.filters import open_filter
from tests.unit.packets import frame, superpacket
from tests.unit.uring.sockets import Wire
from tests.unit.wireguard.pair import MTU, START, WALL_START
from ts4nsnet.endpoint import to_endpoint
from ts4nsnet.filter import Filter, answers, tsmp
from ts4nsnet.keys import PrivateKey
from ts4nsnet.netns import Tun
from ts4nsnet.node.engine import FRAME_BYTES, MAX_BATCH_BYTES, MAX_BATCH_FRAMES, PythonEngine, TunGone
from ts4nsnet.packet import ICMP, SYN, TCP, UDP, Buffer, IPv4, carry, parse_ip
from ts4nsnet.uring.counters import Drop
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.offloads import OffloadRefused
from ts4nsnet.uring.reference import Reference
from ts4nsnet.uring.segment import Gso, segment
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import AllowedIPs, Device, PeerConfig, SessionMemory, SessionTable
from ts4nsnet.wireguard.sessions import RekeyWanted

TIME_LIMIT = 60.0  # seconds of a clock that jumps there once nothing moves any more
KNOCK = b"knock"  # what a tailnet's own datagrams begin with
RELAY = bytes(31) + b"\1"  # an endpoint that is no UDP address
ADDRESS = {"alice": bytes([10, 0, 0, 1]), "bob": bytes([10, 0, 0, 2])}
PREFIXES = {"alice": frozenset({ip_network("10.0.0.1")}), "bob": frozenset({ip_network("10.0.0.2")})}


def packet(source: str, destination: str, payload: bytes) -> bytes:
    """A frame with one UDP datagram."""
    return frame(carry(IPv4(ADDRESS[source], ADDRESS[destination], 0), UDP(1, 2, payload)))


def bulk(number: int, size: int = 60_000) -> bytes:
    """A superpacket from alice to bob that says its number in each segment's acknowledgement."""
    inner = TCP(1, 2, 1000, acknowledgement=number, payload=bytes(size))
    return superpacket(IPv4(ADDRESS["alice"], ADDRESS["bob"], 0), inner, Gso.TCPV4, 1380)


def numbers(packets: list[bytes]) -> list[int]:
    return [int.from_bytes(each[28:32], "big") for each in packets]


class Recording(Reference):
    """A pipeline that remembers how many frames there were in each batch."""

    def __init__(self, sessions: SessionTable, routes: AllowedIPs, packet_filter: Filter) -> None:
        super().__init__(sessions, routes, packet_filter, mtu=MTU, vnet_hdr=True)
        self.batches: list[int] = []

    def from_tun(self, frames: Iterable[Buffer], now: float) -> None:
        before = self.counters.read_frames
        super().from_tun(frames, now)
        self.batches.append(self.counters.read_frames - before)


class Side:
    """A node with its engine, and `app`: the other end of its TUN."""

    def __init__(self, name: str, wire: Wire, random: Random) -> None:
        self.name = name
        self.key = PrivateKey(random.randbytes(32))
        self.wire = wire
        self.app, tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.app.setblocking(False)
        tun.setblocking(False)
        tun.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # a container that reads in time loses nothing
        self.tun = Tun("tun0", (tun.detach(),), vnet_hdr=True, offload=0)
        memory = SessionMemory(bytearray(SessionMemory.size(4)))
        self.device = Device(self.key, memory, random.randbytes, lambda: WALL_START + round(trio.current_time() * 1e9))
        self.sessions = SessionTable(memory)
        self.filter = open_filter()
        self.pipeline = Recording(self.sessions, self.device.routes, self.filter)
        self.engine = PythonEngine(self.device, self.pipeline, self.tun, wire, self)
        self.relayed: list[Train] = []  # not yet delivered
        self.local: list[bytes] = []
        self.messages: list[bytes] = []
        self.unreachable: list[bytes] = []
        self.wanted: list[int] = []
        self.offloads_refused: list[OffloadRefused] = []
        self.knocks: list[tuple[bytes, bytes]] = []
        self.other = -1

    def take_train(self, train: Train, now: float) -> bool:
        """See `engine.Tailnet`: a relay that keeps what it is given."""
        if train.endpoint != RELAY:
            return False
        self.relayed.append(train)
        return True

    def take_wanted(self, peer: int, now: float) -> None:
        """See `engine.Tailnet`."""
        self.wanted.append(peer)

    def take_datagram(self, datagram: bytes, source: bytes, now: float) -> bool:
        """See `engine.Tailnet`."""
        if not datagram.startswith(KNOCK):
            return False
        self.knocks.append((datagram, source))
        return True

    def take_local(self, packet: bytes) -> bool:
        """See `engine.Tailnet`: pings of the service address are answered, everything else goes on."""
        self.local.append(packet)
        answer = answers.echo_reply(packet)
        if answer is not None:
            self.engine.write([answer])
        return answer is not None

    def take_offload_refused(self, refused: OffloadRefused) -> None:
        """See `engine.Tailnet`."""
        self.offloads_refused.append(refused)

    def take_refused(self, destination: bytes) -> None:
        """See `engine.Tailnet`."""
        self.unreachable.append(destination)

    def take_message(self, peer: int, packet: bytes) -> None:
        """See `engine.Tailnet`: pings are answered."""
        self.messages.append(packet)
        received = tsmp.parse(packet)
        if isinstance(received.message, tsmp.Ping):
            answer = tsmp.emit(tsmp.Pong(received.message.data), received.destination, received.source)
            self.engine.seal(peer, answer)

    def know(self, other: "Side", keepalive: float = 0.0, where: bytes | None = None) -> None:
        """Configure the other side, as somebody would while the engine runs or before."""
        where = where or to_endpoint(other.wire.address)
        config = PeerConfig(other.key.public, PREFIXES[other.name], endpoint=where, persistent_keepalive=keepalive)
        self.other = self.device.set_peer(config, trio.current_time())
        self.engine.device_changed()

    def rekey(self) -> None:
        """Want a new keypair, as the session table does after 120 seconds."""
        self.device.notice(RekeyWanted(self.other), trio.current_time())
        self.engine.device_changed()

    async def received(self) -> bytes:
        """The next frame that the container gets."""
        with trio.fail_after(TIME_LIMIT):
            await trio.lowlevel.wait_readable(self.app)
        return self.app.recv(FRAME_BYTES)

    async def packets(self, number: int) -> list[bytes]:
        """The next packets that the container gets."""
        packets: list[bytes] = []
        while len(packets) < number:
            packets += segment(await self.received())
            with suppress(BlockingIOError):
                while True:
                    packets += segment(self.app.recv(FRAME_BYTES))
        return packets

    @property
    def dropped(self) -> dict[Drop, int]:
        return dict(self.pipeline.counters.statistics().dropped)

    @property
    def keypairs_made(self) -> int:
        return self.device.statistics().keypairs_made

    def close(self) -> None:
        self.app.close()
        self.tun.close()
        self.wire.close()


class Sides:
    """Alice and Bob, closed at the end of the block; their engines run only within `running`."""

    def __init__(self, clock: MockClock) -> None:
        clock.jump(START)
        random = Random(7)
        one, two = Wire.pair()
        self.alice, self.bob = Side("alice", one, random), Side("bob", two, random)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.alice.close()
        self.bob.close()

    @asynccontextmanager
    async def running(self, *sides: Side) -> AsyncIterator[trio.Nursery]:
        """Run the engines of `sides`, or of both, for the length of the block."""
        async with trio.open_nursery() as nursery:
            for side in sides or (self.alice, self.bob):
                nursery.start_soon(side.engine.run)
            yield nursery
            nursery.cancel_scope.cancel()

    async def shake_hands(self) -> None:
        """Let alice call bob, and come to rest."""
        self.alice.know(self.bob)
        self.bob.know(self.alice)
        async with self.running():
            self.alice.app.send(packet("alice", "bob", b"first"))
            await self.bob.received()
            await wait_all_tasks_blocked()


# --- carrying -------------------------------------------------------------------------------------------------


async def test_packets_go_both_ways_after_a_handshake(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob)
        sides.bob.know(sides.alice)
        async with sides.running():
            sides.alice.app.send(packet("alice", "bob", b"there"))
            assert await sides.bob.received() == packet("alice", "bob", b"there")
            sides.bob.app.send(packet("bob", "alice", b"back"))
            assert await sides.alice.received() == packet("bob", "alice", b"back")
        assert sides.alice.dropped == sides.bob.dropped == {}
        assert (sides.alice.keypairs_made, sides.bob.keypairs_made) == (1, 1)


async def test_a_superpacket_comes_out_as_one(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running():
            sides.alice.app.send(bulk(1))
            (frame_,) = [await sides.bob.received()]
        assert segment(frame_) == segment(bulk(1))


@pytest.mark.parametrize(
    ("frames", "batches"),
    [
        ([packet("alice", "bob", b"small")] * (MAX_BATCH_FRAMES + 5), [MAX_BATCH_FRAMES, 5]),
        ([bulk(1, MAX_BATCH_BYTES // 3)] * 7, [3, 3, 1]),  # with their headers, three are enough
    ],
    ids=["frames", "bytes"],
)
async def test_a_batch_ends_so_that_the_other_direction_gets_its_turn(
    autojump_clock: MockClock, frames: list[bytes], batches: list[int]
) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.app.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for each in frames:
            sides.alice.app.send(each)
        async with sides.running(sides.alice):
            await wait_all_tasks_blocked()
        assert sides.alice.pipeline.batches == batches


async def test_a_peer_that_comes_later_is_noticed(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        async with sides.running():
            await wait_all_tasks_blocked()
            sides.bob.know(sides.alice)
            sides.alice.know(sides.bob)
            sides.alice.app.send(packet("alice", "bob", b"there"))
            assert await sides.bob.received() == packet("alice", "bob", b"there")


async def test_packets_go_to_where_the_peer_was_last_heard(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        moved = ("::ffff:192.0.2.77", 4242, 0, 0)
        sides.bob.wire.peer_address = moved
        async with sides.running():
            sides.alice.app.send(packet("alice", "bob", b"from elsewhere"))
            await sides.bob.received()
            sides.bob.app.send(packet("bob", "alice", b"to there"))
            await sides.alice.received()
        assert sides.bob.wire.sent_to == moved


async def deliver_relayed(sides: Sides) -> None:
    """Bring what either side has given to the relay to the other, as one datagram after the other."""
    await wait_all_tasks_blocked()
    while sides.alice.relayed or sides.bob.relayed:
        for sender, receiver in ((sides.alice, sides.bob), (sides.bob, sides.alice)):
            trains, sender.relayed = sender.relayed, []
            receiver.engine.receive([Train.received(each, 0, RELAY) for train in trains for each in train.payload])
        await wait_all_tasks_blocked()


async def test_what_is_for_no_udp_address_goes_by_the_relay(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob, where=RELAY)
        sides.bob.know(sides.alice, where=RELAY)
        async with sides.running():
            sides.alice.app.send(bulk(1))
            await deliver_relayed(sides)
            assert segment(await sides.bob.received()) == segment(bulk(1))
            sides.bob.app.send(packet("bob", "alice", b"back"))
            await deliver_relayed(sides)
            assert await sides.alice.received() == packet("bob", "alice", b"back")
        assert sides.alice.wire.sent_to is sides.bob.wire.sent_to is None
        assert sides.alice.dropped == sides.bob.dropped == {}


async def test_a_peer_that_was_relayed_is_sent_to_where_it_is_heard_directly(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob)
        sides.bob.know(sides.alice, where=RELAY)
        async with sides.running():
            sides.alice.app.send(packet("alice", "bob", b"directly"))
            await sides.bob.received()
            sides.bob.app.send(packet("bob", "alice", b"back"))
            assert await sides.alice.received() == packet("bob", "alice", b"back")
        assert sides.bob.relayed == []


async def test_what_is_neither_data_nor_a_handshake_is_the_tailnets(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob)
        sides.bob.know(sides.alice)
        async with sides.running():
            sides.alice.engine.send(KNOCK + b" knock", to_endpoint(sides.bob.wire.address), whole=True)
            await wait_all_tasks_blocked()
            assert sides.bob.knocks == [(KNOCK + b" knock", to_endpoint(sides.alice.wire.address))]
            sides.alice.app.send(packet("alice", "bob", b"and handshakes are the device's"))
            assert await sides.bob.received() == packet("alice", "bob", b"and handshakes are the device's")
        assert sides.alice.wanted == [sides.alice.other]
        assert sides.bob.knocks == [(KNOCK + b" knock", to_endpoint(sides.alice.wire.address))]


async def test_how_long_packets_for_a_peer_may_be(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob)
        sides.bob.know(sides.alice)
        async with sides.running():
            sides.alice.engine.set_mtu(sides.alice.other, 8920)
            long = packet("alice", "bob", bytes(8000))
            sides.alice.app.send(long)
            assert await sides.bob.received() == long
            sides.alice.engine.set_routes({sides.alice.other: ()})  # whoever has that number next
            sides.alice.app.send(long)
            (answer,) = await sides.alice.packets(1)
            assert int.from_bytes(ICMP.parse(parse_ip(answer).payload).rest, "big") == MTU


# --- what the node answers itself -----------------------------------------------------------------------------


async def test_packets_for_the_node_are_shown_to_it_and_go_on_if_it_has_no_use_for_them(
    autojump_clock: MockClock,
) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob)
        sides.bob.know(sides.alice)
        sides.alice.pipeline.judge.local = LocalTraffic(frozenset({ADDRESS["bob"], answers.SERVICE_IPV4}))
        async with sides.running():
            ping = carry(IPv4(ADDRESS["alice"], answers.SERVICE_IPV4, 0), ICMP(8, 0, b"\0\1\0\2", b"data"))
            sides.alice.app.send(frame(ping))
            (answer,) = await sides.alice.packets(1)
            assert parse_ip(answer).source == answers.SERVICE_IPV4
            sides.alice.app.send(packet("alice", "bob", b"not for the node"))
            assert await sides.bob.received() == packet("alice", "bob", b"not for the node")
            sides.alice.app.send(frame(carry(IPv4(ADDRESS["alice"], answers.SERVICE_IPV4, 0), UDP(1, 2, b""))))
            (refused,) = await sides.alice.packets(1)  # there is no way to it either
            assert ICMP.parse(parse_ip(refused).payload).type == 3
        assert sides.alice.unreachable == [answers.SERVICE_IPV4]
        assert [parse_ip(each).destination for each in sides.alice.local] == [
            answers.SERVICE_IPV4,
            ADDRESS["bob"],
            answers.SERVICE_IPV4,
        ]


async def test_what_the_filter_answers_leaves_by_itself(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob)
        sides.bob.know(sides.alice)
        sides.bob.filter.set_rules([], [ip_network("10.0.0.2")])
        async with sides.running():
            knock = TCP(1, 22, 1000, flags=SYN)
            sides.alice.app.send(frame(carry(IPv4(ADDRESS["alice"], ADDRESS["bob"], 0), knock)))
            await wait_all_tasks_blocked()
            (message,) = sides.alice.messages
            assert tsmp.parse(message).message == tsmp.Reject(6, tsmp.Reason.ACL, 1, 22)
        assert sides.bob.dropped == {Drop.FILTERED_IN: 1}


async def test_pings_of_the_tailnets_own_are_answered(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob)
        sides.bob.know(sides.alice)
        async with sides.running():
            sides.alice.engine.seal(
                sides.alice.other, tsmp.emit(tsmp.Ping(b"12345678"), ADDRESS["alice"], ADDRESS["bob"])
            )
            await wait_all_tasks_blocked()
            assert [tsmp.parse(each).message for each in sides.alice.messages] == [tsmp.Pong(b"12345678")]


# --- when something is full -----------------------------------------------------------------------------------


async def fill(side: Side) -> int:
    """Send bulk until the engine takes no more; returns how many superpackets it took."""
    taken = 0
    while True:
        try:
            side.app.send(bulk(taken))
        except BlockingIOError:
            await wait_all_tasks_blocked()
            if not select.select([], [side.app], [], 0)[1]:
                return taken
        else:
            taken += 1


async def test_a_full_socket_stops_the_reading_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running(sides.alice):  # nobody reads from the wire
            taken = await fill(sides.alice)
            read = sides.alice.pipeline.counters.statistics().read_frames
            # what the wire holds, one batch, and what the TUN holds; it is the TUN's queue that grew
            assert 5 <= read <= taken < 20
            async with sides.running(sides.bob):
                got = await sides.bob.packets(taken * 44)
        assert numbers(got) == [number for number in range(taken) for _ in range(44)]
        assert sides.alice.dropped == sides.bob.dropped == {}


async def test_a_train_is_tried_again_until_there_is_room_for_it(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        sides.alice.wire.refusals = 3
        async with sides.running():
            sides.alice.app.send(packet("alice", "bob", b"at last"))
            assert await sides.bob.received() == packet("alice", "bob", b"at last")
        assert sides.alice.wire.refusals == 0


async def test_a_keep_alive_that_finds_no_room_waits_for_its_turn(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running(sides.alice):
            taken = await fill(sides.alice)
            sides.alice.know(sides.bob, keepalive=1)
            await trio.sleep(5)
            async with sides.running(sides.bob):
                got = await sides.bob.packets(taken * 44)
        assert numbers(got) == [number for number in range(taken) for _ in range(44)]
        assert sides.alice.dropped == {}


async def test_packets_still_arrive_while_there_is_no_room_to_send(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running(sides.alice):
            await fill(sides.alice)
            for number in range(3):
                sealed = sides.bob.sessions.seal(
                    sides.bob.other, [packet("bob", "alice", bytes([number]))[10:]], MTU, trio.current_time()
                )
                assert sealed is not None
                sides.bob.wire.send(bytes(2) + sealed[0])
                assert await sides.alice.received() == packet("bob", "alice", bytes([number]))


async def test_a_handshake_message_that_finds_no_room_is_dropped_and_repeated(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running(sides.alice):
            await fill(sides.alice)
            sides.alice.rekey()
            await trio.sleep(5)
            sides.alice.rekey()
            assert sides.alice.dropped == {Drop.SEND_FAILED: 1}
            async with sides.running(sides.bob):
                await trio.sleep(10)
        assert sides.alice.keypairs_made == 2


async def test_a_container_that_does_not_read_loses_its_packets_alone(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running():
            sent = 0
            while not sides.bob.dropped:
                sides.alice.app.send(bulk(sent))
                sent += 1
                await wait_all_tasks_blocked()
            assert sides.bob.dropped == {Drop.WRITE_FAILED: 1}
            got = await sides.bob.packets((sent - 1) * 44)
            assert numbers(got) == [number for number in range(sent - 1) for _ in range(44)]
            sides.alice.app.send(packet("alice", "bob", b"again"))
            assert await sides.bob.received() == packet("alice", "bob", b"again")


# --- timers ---------------------------------------------------------------------------------------------------


async def test_a_call_that_nobody_answers_is_repeated_for_ninety_seconds(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.alice.know(sides.bob)
        async with sides.running(sides.alice):
            sides.alice.app.send(packet("alice", "bob", b"anybody there?"))
            await trio.sleep(90)
            sent = sides.alice.device.statistics().initiations_sent
            await trio.sleep(300)
        assert sent in (17, 18, 19)  # 5 seconds apart, and up to a third more
        assert sides.alice.device.statistics().initiations_sent == 20
        assert sides.alice.keypairs_made == 0


async def test_who_receives_without_answering_keeps_the_session_alive_once(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running():
            sides.alice.app.send(packet("alice", "bob", b"one way"))
            await sides.bob.received()
            before = sides.bob.pipeline.counters.statistics().sent_datagrams
            await trio.sleep(9.9)
            assert sides.bob.pipeline.counters.statistics().sent_datagrams == before
            await trio.sleep(30)
            assert sides.bob.pipeline.counters.statistics().sent_datagrams == before + 1
        assert sides.alice.keypairs_made == 1


async def test_a_persistent_keep_alive_keeps_its_interval(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        sides.bob.know(sides.alice)
        sides.alice.know(sides.bob, keepalive=25)
        async with sides.running():
            await trio.sleep(60)
            assert sides.alice.keypairs_made == 1  # it needs a session, and makes one
            before = sides.alice.pipeline.counters.statistics().sent_datagrams
            await trio.sleep(50)
            assert sides.alice.pipeline.counters.statistics().sent_datagrams == before + 2


async def test_an_interval_that_is_configured_later_begins_at_once(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running():
            await trio.sleep(50)  # no timer is near
            before = sides.alice.pipeline.counters.statistics().sent_datagrams
            sides.alice.know(sides.bob, keepalive=1)
            await trio.sleep(4.5)
            assert sides.alice.pipeline.counters.statistics().sent_datagrams in (before + 4, before + 5)


async def test_traffic_that_goes_on_gets_new_keys_every_two_minutes(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running():
            for _ in range(400):
                sides.alice.app.send(packet("alice", "bob", b"tick"))
                await sides.bob.received()
                sides.bob.app.send(packet("bob", "alice", b"tock"))
                await sides.alice.received()
                await trio.sleep(1)
        assert sides.alice.keypairs_made == sides.bob.keypairs_made == 4
        assert sides.alice.dropped == sides.bob.dropped == {}


# --- the end --------------------------------------------------------------------------------------------------


async def test_a_tun_that_is_gone_ends_the_engine(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        sides.bob.app.setblocking(True)
        with pytest.RaisesGroup(pytest.RaisesExc(TunGone, match="Connection reset"), flatten_subgroups=True):
            async with sides.running():
                sides.alice.app.send(packet("alice", "bob", b"unread"))
                await trio.lowlevel.wait_readable(sides.bob.app)
                sides.bob.app.close()
                await trio.sleep(TIME_LIMIT)


async def test_a_cancelled_engine_leaves_nothing_behind_and_can_run_again(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        tasks = trio.lowlevel.current_statistics().tasks_living
        files = os.listdir("/proc/self/fd")
        async with sides.running():
            await wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert os.listdir("/proc/self/fd") == files
        async with sides.running():
            sides.alice.app.send(packet("alice", "bob", b"again"))
            assert await sides.bob.received() == packet("alice", "bob", b"again")


async def test_an_engine_can_be_cancelled_while_it_waits_for_room(autojump_clock: MockClock) -> None:
    with Sides(autojump_clock) as sides:
        await sides.shake_hands()
        async with sides.running(sides.alice):
            await fill(sides.alice)
        async with sides.running(sides.bob):
            await sides.bob.packets(44)

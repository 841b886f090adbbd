# SPDX-License-Identifier: BSD-3-Clause
"""The two backends, each between a pair of Unix sockets and the loopback interface."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from errno import EOPNOTSUPP

import pytest

from tests.unit.packets import frame
from tests.unit.uring.ports import End, Ends, skip_unless_it_works
from tests.unit.uring.test_reference import ALICE, BOB, tcp_superpacket, udp
from ts4nsnet.endpoint import to_endpoint
from ts4nsnet.uring.backends import EngineUnavailable
from ts4nsnet.uring.counters import Drop
from ts4nsnet.uring.events import Slow, Unsealed
from ts4nsnet.uring.offloads import REFUSED, UNEVEN_ONLY, Offload, OffloadRefused, OffloadsSet
from ts4nsnet.uring.segment import segment
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Seal
from ts4nsnet.wireguard.sessions import Roamed

RELAYED = b"key".ljust(20, b"\0") + b"\0\0\0\7" + bytes(8)  # an endpoint without a port


@pytest.fixture(params=["epoll", "uring"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    skip_unless_it_works(name)
    return name


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def ends(engine: str, opened: ExitStack) -> Ends:
    return Ends(engine, opened)


def test_superpackets_and_packets_go_both_ways(ends: Ends) -> None:
    there, back = tcp_superpacket(ALICE, BOB, 60_000, 1228), frame(udp(BOB, ALICE))
    ends.alice.container.send(there)
    ends.bob.container.send(back)
    ends.carry()
    assert ends.bob.written() == segment(there)
    assert ends.alice.written() == segment(back)
    assert ends.alice.port.counters.sent_trains == 2  # one is the keep-alive


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_packets_arrive_in_their_order(ends: Ends, count: int) -> None:
    packets = [udp(ALICE, BOB, bytes([number]) * (number + 1)) for number in range(count)]
    ends.alice.container.setblocking(False)
    sent = 0
    while sent < count:
        try:
            ends.alice.container.send(frame(packets[sent]))
            sent += 1
        except BlockingIOError:
            ends.carry()
    ends.carry()
    assert ends.bob.written() == packets


def test_what_is_no_transport_data_is_for_the_node_and_stops_nothing(ends: Ends) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as stranger:
        for datagram in (b"hello", b"", b"again"):
            stranger.sendto(datagram, ends.bob.sock.getsockname()[:2])
        source = to_endpoint(("::1", stranger.getsockname()[1], 0, 0))
    events = []
    for _ in range(3):
        ends.carry()
        while (event := ends.bob.port.next_event()) is not None:
            events.append(event)
    assert events == [Slow(datagram, source) for datagram in (b"hello", b"", b"again")]
    ends.alice.container.send(frame(udp(ALICE, BOB)))
    ends.carry()
    assert ends.bob.written() == [udp(ALICE, BOB)]


def test_a_train_for_a_relay_is_the_nodes(ends: Ends) -> None:
    ends.alice.port.apply(Roamed(1, RELAYED), ends.now)
    ends.alice.container.send(tcp_superpacket(ALICE, BOB, 3000, 1000))
    ends.carry()
    train = ends.alice.port.next_event()
    assert isinstance(train, Train)
    assert (train.datagram_count, train.endpoint) == (3, RELAYED)
    taken: list[Train] = []
    ends.alice.port.relay = taken.append
    ends.alice.container.send(frame(udp(ALICE, BOB)))
    ends.carry()
    assert [each.datagram_count for each in taken] == [1]
    # and what a relay brings is taken like what UDP brings
    ends.bob.port.from_udp([Train.received(b"".join(train.payload), train.segment_bytes, RELAYED)], ends.now)
    assert len(ends.bob.written()) == 3


def test_without_a_session_packets_go_to_the_node(engine: str, opened: ExitStack) -> None:
    alice = End(engine, opened, BOB)
    alice.container.send(frame(udp(ALICE, BOB)))
    alice.port.carry(0)
    assert alice.port.next_event() == Unsealed(1, (udp(ALICE, BOB),))


def test_control_is_reported_while_it_is_readable_and_not_after(engine: str, opened: ExitStack) -> None:
    ours, theirs = socket.socketpair()
    opened.enter_context(closing(ours))
    opened.enter_context(closing(theirs))
    port = End(engine, opened, BOB, ours.fileno()).port
    assert not port.carry(0)
    for _ in range(2):
        theirs.send(b"?")
        assert port.carry(1000)
        ours.recv(1)
        assert not port.carry(10)


def test_without_trains_datagrams_go_one_by_one(ends: Ends) -> None:
    ends.alice.port.switch(OffloadsSet(frozenset({Offload.UDP_GSO})))
    there = tcp_superpacket(ALICE, BOB, 10_000, 1000)
    ends.alice.container.send(there)
    ends.carry()
    assert ends.bob.written() == segment(there)
    assert ends.bob.port.counters.received_trains == 1 + 10


def test_offloads_are_switched_while_packets_pass(ends: Ends) -> None:
    there, seen = tcp_superpacket(ALICE, BOB, 10_000, 1000), []
    for wanted in (OffloadsSet(frozenset(Offload)), OffloadsSet(), OffloadsSet(equal_tails=False)):
        before = [end.port.counters.statistics() for end in (ends.alice, ends.bob)]
        for end in (ends.alice, ends.bob):
            end.port.switch(wanted)
        ends.alice.container.send(there)
        ends.carry()
        assert ends.bob.written() == segment(there)
        alice, bob = (end.port.counters.statistics() for end in (ends.alice, ends.bob))
        seen.append(
            (
                alice.sent_trains - before[0].sent_trains,
                bob.received_trains - before[1].received_trains,
                bob.written_frames - before[1].written_frames,
            )
        )
        assert alice.offloads == ends.alice.pipeline.offloads.states
    assert seen == [(10, 10, 10), (1, 1, 1), (10, 10, 1)]
    assert ends.alice.pipeline.offloads.states[Offload.UDP_GSO] == UNEVEN_ONLY


def test_without_udp_gro_trains_come_by_the_datagram(ends: Ends) -> None:
    there = tcp_superpacket(ALICE, BOB, 10_000, 1000)
    ends.bob.port.switch(OffloadsSet(frozenset({Offload.UDP_GRO})))
    ends.alice.container.send(there)
    ends.carry()
    assert ends.bob.written() == segment(there)
    assert ends.alice.port.counters.sent_trains == 1 + 1
    assert ends.bob.port.counters.received_trains == 1 + 10


def test_what_waits_for_a_handshake_takes_no_room_in_the_arena(ends: Ends) -> None:
    alice = ends.alice.port
    for _ in range(60):
        alice.apply(Seal(0, (bytes(1200),) * 64), ends.now)  # 4.7 MB for a peer without a session, nothing from the TUN
        assert isinstance(alice.next_event(), Unsealed)
    before = alice.counters.sent_datagrams
    alice.apply(Seal(1, (udp(ALICE, BOB),)), ends.now)
    ends.carry()
    assert ends.bob.written() == [udp(ALICE, BOB)]
    assert alice.counters.sent_datagrams == before + 1
    assert not alice.counters.dropped


def test_a_tun_without_superpackets(engine: str, opened: ExitStack) -> None:
    ends = Ends(engine, opened, vnet_hdr=False)
    for end in (ends.alice, ends.bob):
        while (event := end.port.next_event()) is not None:
            assert isinstance(event, OffloadRefused)
    packets = [udp(ALICE, BOB, bytes([number]) * 100) for number in range(5)]
    for packet in packets:
        ends.alice.container.send(packet)
    ends.carry()
    assert ends.bob.written() == packets
    states = ends.bob.port.counters.offloads
    assert [states[each] for each in (Offload.TUN_TCP_GRO, Offload.TUN_UDP_GRO)] == [REFUSED + EOPNOTSUPP] * 2


def test_trains_to_a_relay_stay_whole_whatever_udp_can(ends: Ends) -> None:
    for wanted in (OffloadsSet(frozenset({Offload.UDP_GSO})), OffloadsSet(equal_tails=False)):
        ends.alice.port.switch(wanted)
        ends.alice.port.apply(Roamed(1, RELAYED), ends.now)
        ends.alice.container.send(tcp_superpacket(ALICE, BOB, 3000, 1000))
        ends.carry()
        train = ends.alice.port.next_event()
        assert isinstance(train, Train)
        assert train.datagram_count == 3


def test_what_cannot_be_sent_is_counted_and_the_rest_goes(ends: Ends) -> None:
    there = frame(udp(ALICE, BOB))
    ends.alice.port.apply(Roamed(1, to_endpoint(("255.255.255.255", 9))), ends.now)
    ends.alice.container.send(there)
    ends.carry()
    ends.alice.port.apply(Roamed(1, ends.bob.endpoint), ends.now)
    ends.alice.container.send(there)
    ends.carry()
    assert ends.bob.written() == segment(there)
    assert ends.alice.port.counters.dropped == {Drop.SEND_FAILED: 1}


def test_what_the_tun_does_not_take_is_counted(ends: Ends) -> None:
    ends.bob.container.close()
    ends.alice.container.send(frame(udp(ALICE, BOB)))
    ends.carry()
    assert ends.bob.port.counters.dropped == {Drop.WRITE_FAILED: 1}


def test_uring_alone_is_refused_where_it_does_not_work(monkeypatch: pytest.MonkeyPatch, opened: ExitStack) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "not permitted")

    monkeypatch.setattr("ts4nsnet.uring.ring.RingPort", refuse)
    with pytest.raises(EngineUnavailable, match="engine uring: not permitted"):
        End("uring", opened, BOB)
    assert End("auto", opened, BOB).port.name == "epoll"

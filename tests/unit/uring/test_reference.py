# SPDX-License-Identifier: BSD-3-Clause
"""The pipeline, by what goes in at one TUN and comes out at the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.packets import frame, superpacket, with_byte
from tests.unit.uring.pipelines import Net, comparable
from tests.unit.wireguard.pair import MTU, endpoint
from ts4nsnet.packet import ACK, IP, TCP, UDP, IPv4, IPv6, carry, parse_ip
from ts4nsnet.uring.counters import Drop
from ts4nsnet.uring.events import Slow, Unsealed
from ts4nsnet.uring.offloads import Offload, OffloadsSet
from ts4nsnet.uring.segment import Gso, VnetHeader, segment
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard.messages import TRANSPORT_OVERHEAD_BYTES
from ts4nsnet.wireguard.messages import Drop as Refusal
from ts4nsnet.wireguard.records import NOWHERE

ALICE, BOB, CAROL = (bytes([10, 0, 0, host]) for host in (1, 2, 3))
ALICE6, BOB6 = (bytes.fromhex("fd").ljust(15, b"\0") + bytes([host]) for host in (1, 2))
TWO = ("10.0.0.1/32 fd00::1/128", "10.0.0.2/32 fd00::2/128")
THREE = (*TWO, "10.0.0.3/32")


def udp(source: bytes, destination: bytes, payload: bytes = b"payload", port: int = 1) -> bytes:
    ip: IP = IPv4(source, destination, 0) if len(source) == 4 else IPv6(source, destination, 0)
    return carry(ip, UDP(port, 2, payload))


def tcp_superpacket(source: bytes, destination: bytes, size: int, gso_size: int = 1000) -> bytes:
    payload = bytes(number % 251 for number in range(size))
    ip: IP = IPv4(source, destination, 0) if len(source) == 4 else IPv6(source, destination, 0)
    return superpacket(
        ip, TCP(1, 2, 5000, 6000, payload=payload), Gso.TCPV4 if len(source) == 4 else Gso.TCPV6, gso_size
    )


def connected(*prefixes: str, mtu: int = MTU, vnet_hdr: bool = True) -> Net:
    """A net in which alice has a session with everybody."""
    net = Net(*prefixes, mtu=mtu, vnet_hdr=vnet_hdr)
    alice = net.nodes[0]
    for other in net.nodes[1:]:
        alice.seal(other, b"")
        net.deliver()
    net.forget_traffic()
    return net


# --- there and back -------------------------------------------------------------------------------------------


def test_packets_wait_for_the_handshake_and_arrive_in_their_order() -> None:
    net = Net(*TWO)
    alice, bob = net.nodes
    packets = [udp(ALICE, BOB, bytes([number]) * 100) for number in range(5)]
    alice.read(*map(frame, packets[:3]))
    alice.read(*map(frame, packets[3:]))
    number = alice.peers[bob.endpoint]
    assert alice.unsealed == [Unsealed(number, tuple(packets[:3])), Unsealed(number, tuple(packets[3:]))]
    net.deliver()
    assert list(map(comparable, bob.packets())) == list(map(comparable, packets))
    assert alice.dropped() == bob.dropped() == {}


@pytest.mark.parametrize(("source", "destination"), [(ALICE, BOB), (ALICE6, BOB6)], ids=["ipv4", "ipv6"])
def test_a_superpacket_travels_as_one_train_and_is_written_as_one_frame(source: bytes, destination: bytes) -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    read = tcp_superpacket(source, destination, 44_300)
    alice.read(read)
    (train,) = alice.out
    assert (train.datagram_count, train.endpoint) == (45, bob.endpoint)
    net.deliver()
    (written,) = bob.written
    assert segment(written) == segment(read)


# --- paths that carry more, or less, than others --------------------------------------------------------------


@pytest.mark.parametrize(("source", "destination"), [(ALICE, BOB), (ALICE6, BOB6)], ids=["ipv4", "ipv6"])
def test_a_wide_path_carries_a_superpacket_as_one_message(source: bytes, destination: bytes) -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.widen(bob, 65456)
    read = tcp_superpacket(source, destination, 60_000)
    alice.read(read)
    (train,) = alice.out
    headers = 40 if source == ALICE else 60
    assert (train.datagram_count, len(train.payload[0])) == (1, 32 + (headers + 60_000 + 15) // 16 * 16)
    net.deliver()
    (written,) = bob.written
    assert VnetHeader.parse(written).gso_size == MTU - headers  # it can be cut again, into what all paths carry
    assert segment(written, 65535, coarse=True) == segment(read, 65535, coarse=True)


def test_a_path_is_one_peers() -> None:
    net = connected(*THREE)
    alice, bob, _ = net.nodes
    alice.widen(bob, 8920)
    alice.read(tcp_superpacket(ALICE, BOB, 20_000), tcp_superpacket(ALICE, CAROL, 20_000))
    for_bob, for_carol = alice.out
    assert [len(each) for each in for_bob.payload] == [32 + 8832, 32 + 8832, 32 + 2464]
    assert {len(each) for each in for_carol.payload} == {32 + 1040}
    assert for_carol.datagram_count == 20
    net.deliver()


def test_datagrams_of_a_superpacket_stay_what_they_are_on_a_wide_path() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.widen(bob, 65456)
    read = superpacket(IPv4(ALICE, BOB, 0), UDP(1, 2, bytes(5000)), Gso.UDP_L4, 1000)
    alice.read(read)
    assert alice.out[0].datagram_count == 5
    net.deliver()
    assert list(map(comparable, bob.packets())) == list(map(comparable, segment(read)))


def test_a_datagram_is_as_long_as_its_path_carries() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.widen(bob, 8920)
    datagrams = udp(ALICE, BOB, bytes(8920 - 28)), udp(ALICE, BOB, bytes(8920 - 27))
    alice.read(*map(frame, datagrams))
    assert next(len(train.payload[0]) for train in alice.out) == 8952
    net.deliver()
    assert bob.packets()[0] == datagrams[0]


@pytest.mark.parametrize("mtu", [0, 100, MTU])
def test_no_path_carries_less_than_all(mtu: int) -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.widen(bob, 8920)
    alice.widen(bob, mtu)
    assert alice.pipeline.mtu_to(alice.peers[bob.endpoint]) == MTU
    read = tcp_superpacket(ALICE, BOB, 5000)
    alice.read(read)
    net.deliver()
    assert list(map(comparable, bob.packets())) == list(map(comparable, segment(read)))


def test_tcp_that_has_become_too_long_for_its_path_is_cut_and_nobody_is_told() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    lone = carry(IPv4(ALICE, BOB, 0, flags=2), TCP(1, 2, 5000, 6000, payload=bytes(range(250)) * 8))
    read = tcp_superpacket(ALICE, BOB, 20_000, gso_size=8000)
    alice.read(frame(lone), read)
    assert max(len(each) for train in alice.out for each in train.payload) == MTU + 32
    net.deliver()
    assert alice.written == []
    received = [TCP.parse(parse_ip(packet).payload) for packet in bob.packets()]
    assert b"".join(bytes(each.payload) for each in received[:2]) == bytes(range(250)) * 8
    assert [each.sequence for each in received[:2]] == [5000, 5000 + MTU - 40]
    sent = b"".join(bytes(TCP.parse(parse_ip(packet).payload).payload) for packet in segment(read))
    assert b"".join(bytes(each.payload) for each in received[2:]) == sent


def test_the_answer_comes_back_with_the_same_session() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    bob.read(frame(udp(BOB, ALICE)))
    net.deliver()
    assert alice.packets() == [udp(BOB, ALICE)]
    assert bob.unsealed == []


def test_batches_for_several_peers_keep_the_order_for_each() -> None:
    net = connected(*THREE)
    alice, bob, carol = net.nodes
    for_bob = [udp(ALICE, BOB, bytes([number]) * 10 * (7 - number)) for number in range(6)]
    for_carol = [udp(ALICE, CAROL, bytes([number]) * 50) for number in range(6)]
    alice.read(*(frame(packet) for both in zip(for_bob, for_carol, strict=True) for packet in both))
    net.deliver()
    assert list(map(comparable, bob.packets())) == list(map(comparable, for_bob))
    assert list(map(comparable, carol.packets())) == list(map(comparable, for_carol))


def test_one_batch_from_several_peers_is_opened_with_the_key_of_each() -> None:
    net = connected(*THREE)
    alice, bob, carol = net.nodes
    bob.read(frame(udp(BOB, ALICE)))
    carol.read(frame(udp(CAROL, ALICE)))
    trains = [Train.received(bytes(node.out[0].payload[0]), 0, node.endpoint) for node in (bob, carol)]
    alice.receive(*trains)
    assert alice.packets() == [udp(BOB, ALICE), udp(CAROL, ALICE)]


def test_frames_may_lie_in_one_buffer() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    packets = [udp(ALICE, BOB, bytes([number]) * 8) for number in range(3)]
    buffer = bytearray(100)

    def frames() -> Iterator[memoryview]:
        for packet in packets:
            size = len(frame(packet))
            buffer[:size] = frame(packet)
            yield memoryview(buffer)[:size]

    alice.pipeline.from_tun(frames(), alice.now)
    alice.read()
    net.deliver()
    assert list(map(comparable, bob.packets())) == list(map(comparable, packets))


def test_without_a_vnet_header_a_frame_is_a_packet() -> None:
    net = connected(*TWO, vnet_hdr=False)
    alice, bob = net.nodes
    packets = [udp(ALICE, BOB, bytes([number]) * 100) for number in range(3)]
    alice.read(*packets)
    net.deliver()
    assert bob.written == packets


@pytest.mark.parametrize("size", [20, 31, 32, 33, 1404, 1405, 1419, 1420])
def test_padding_fills_sixteen_bytes_but_ends_at_the_mtu(size: int) -> None:
    net = connected(*TWO, mtu=1420)
    alice, bob = net.nodes
    packet = IPv4(ALICE, BOB, 254, bytes(size - 20)).emit()
    alice.read(frame(packet))
    (train,) = alice.out
    plaintext_bytes = len(train.payload[0]) - TRANSPORT_OVERHEAD_BYTES
    assert plaintext_bytes == min(1420, -(-size // 16) * 16)
    net.deliver()
    assert bob.packets() == [packet]


def test_full_segments_make_equally_long_datagrams() -> None:
    net = connected(*TWO, mtu=1280)
    alice, _ = net.nodes
    alice.read(tcp_superpacket(ALICE, BOB, 5 * 1240 + 1, gso_size=1240))
    (train,) = alice.out
    assert [len(each) for each in train.payload] == [1280 + TRANSPORT_OVERHEAD_BYTES] * 5 + [48 + 32]


@dataclass
class Flow:
    """What one application sends, so far."""

    version: int
    tcp: bool
    port: int
    sequence: int = 0xFFFF_F000  # so that it wraps
    identification: int = 0

    def frame(self, sizes: tuple[int, int]) -> bytes:
        """The next frame of the flow: `count` segments of `size` bytes."""
        size, count = sizes
        payload = (f"{self.port}:{self.sequence}:".encode() * (size * count))[: size * count]
        source, destination = (ALICE, BOB) if self.version == 4 else (ALICE6, BOB6)
        ip: IP = (
            IPv4(source, destination, 0, identification=self.identification)
            if self.version == 4
            else IPv6(source, destination, 0)
        )
        self.identification = (self.identification + count) % 2**16
        inner: TCP | UDP = (
            TCP(self.port, 9, self.sequence, flags=ACK, payload=payload) if self.tcp else UDP(self.port, 9, payload)
        )
        self.sequence = (self.sequence + len(payload)) % 2**32
        if count == 1 or not payload:
            return frame(carry(ip, inner))
        kind = {True: (Gso.TCPV4, Gso.TCPV6), False: (Gso.UDP_L4, Gso.UDP_L4)}[self.tcp][self.version == 6]
        return superpacket(ip, inner, kind, size)


def flow_of(packet: bytes) -> tuple[int, int, bytes]:
    """Version, protocol and source port."""
    four = packet[0] >> 4 == 4
    return packet[0] >> 4, packet[9 if four else 6], packet[20:22] if four else packet[40:42]


@given(
    flows=st.lists(st.tuples(st.sampled_from([4, 6]), st.booleans()), min_size=1, max_size=5),
    batches=st.lists(
        st.lists(st.tuples(st.integers(0, 4), st.tuples(st.integers(1, 1300), st.integers(1, 50))), max_size=8),
        min_size=1,
        max_size=4,
    ),
)
def test_any_mix_of_flows_arrives_unchanged_and_each_in_its_order(
    flows: list[tuple[int, bool]], batches: list[list[tuple[int, tuple[int, int]]]]
) -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    made = [Flow(version, is_tcp, 1000 + port) for port, (version, is_tcp) in enumerate(flows)]
    sent: list[bytes] = []
    for batch in batches:
        frames = [made[number % len(made)].frame(sizes) for number, sizes in batch]
        sent += [packet for each in frames for packet in segment(each)]
        alice.read(*frames)
        net.deliver()
    got = bob.packets()
    assert len(got) == len(sent)
    for flow in {*map(flow_of, sent), *map(flow_of, got)}:
        want = [comparable(packet) for packet in sent if flow_of(packet) == flow]
        assert [comparable(packet) for packet in got if flow_of(packet) == flow] == want
    assert alice.dropped() == bob.dropped() == {}


# --- what does not pass ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("destination", [bytes([10, 0, 0, 9]), bytes(16)], ids=["ipv4", "ipv6"])
def test_what_is_for_nobody_is_counted_by_the_packet(destination: bytes) -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.read(tcp_superpacket(bytes(len(destination)), destination, 2500), frame(udp(ALICE, BOB)))
    assert alice.dropped() == {Drop.NO_ROUTE: 3}
    net.deliver()
    assert bob.packets() == [udp(ALICE, BOB)]


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        bytes(9),
        bytes(10),
        frame(b"\x45"),
        frame(bytes(100)),
        frame(udp(ALICE, BOB))[:-1],
        frame(b"\x60" + bytes(30)),
        with_byte(tcp_superpacket(ALICE, BOB, 2500), 1, 3),  # an old kernel's UFO
        with_byte(tcp_superpacket(ALICE, BOB, 2500), 10, 0x46),
    ],
    ids=["nothing", "half a header", "a header", "a byte", "zeroes", "cut", "cut ipv6", "ufo", "no tcp there"],
)
def test_a_frame_that_is_no_packet_is_dropped_alone(junk: bytes) -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.read(frame(udp(ALICE, BOB)), junk, frame(udp(ALICE, BOB)))
    net.deliver()
    assert alice.dropped() == {Drop.FRAME_MALFORMED: 1}
    assert len(bob.packets()) == 2


def test_without_a_vnet_header_junk_is_dropped_too() -> None:
    net = connected(*TWO, vnet_hdr=False)
    alice, _ = net.nodes
    alice.read(b"", b"\x45", bytes(60))
    assert alice.dropped() == {Drop.FRAME_MALFORMED: 3}
    assert not alice.out


def test_packets_for_a_peer_that_is_nowhere_are_dropped() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.move(bob, NOWHERE)
    alice.read(tcp_superpacket(ALICE, BOB, 2500))
    assert not alice.out
    assert alice.dropped() == {Drop.NO_ENDPOINT: 3}


def test_a_keep_alive_reaches_nobody_and_is_no_drop() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    opened = bob.sessions.statistics().opened
    alice.seal(bob, b"")
    assert [len(each) for each in alice.out[0].payload] == [TRANSPORT_OVERHEAD_BYTES]
    net.deliver()
    assert bob.sessions.statistics().opened == opened + 1
    assert bob.written == []
    assert bob.dropped() == {}


@pytest.mark.parametrize("plaintext", [bytes(16), b"\x45" + bytes(30), udp(ALICE, BOB)[:-1]])
def test_a_peer_that_seals_junk_is_not_believed(plaintext: bytes) -> None:
    # padding has to stay shorter than what is missing, lest it completes the packet
    net = connected(*TWO, mtu=len(plaintext))
    alice, bob = net.nodes
    alice.seal(bob, plaintext)
    net.deliver()
    assert bob.written == []
    assert bob.dropped() == {Drop.INNER_MALFORMED: 1}


@pytest.mark.parametrize(
    "source",
    [CAROL, bytes([192, 0, 2, 1]), bytes(16)],
    ids=["another peer's, within the sender's prefix", "nobody's", "nobody's ipv6"],
)
def test_a_packet_whose_source_is_not_its_senders_is_dropped(source: bytes) -> None:
    net = connected("10.0.0.0/24 fd00::/64", "10.0.0.2/32 fd00::2/128", "10.0.0.3/32")
    alice, bob, _ = net.nodes
    spoofed = udp(source, BOB if len(source) == 4 else BOB6)
    alice.seal(bob, spoofed, udp(ALICE, BOB), spoofed)
    net.deliver()
    assert bob.packets() == [udp(ALICE, BOB)]
    assert bob.dropped() == {Drop.SOURCE_NOT_ALLOWED: 2}


@pytest.mark.parametrize("junk", [b"", b"\4", b"\4\0\0", b"\5\0\0\0" + bytes(60), b"\4\0\0\1" + bytes(60), bytes(1400)])
def test_what_is_no_transport_data_goes_to_the_node(junk: bytes) -> None:
    net = connected(*TWO)
    _, bob = net.nodes
    stranger = endpoint(99)
    bob.receive(Train.received(junk, 0, stranger))
    assert bob.slow == [Slow(junk, stranger)]
    assert isinstance(bob.slow[0].datagram, bytes)  # the buffer it came in is used again
    assert bob.written == []
    assert not bob.out


def test_the_byte_that_others_put_behind_equal_datagrams_is_dropped_without_a_word() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.read(frame(udp(ALICE, BOB)), frame(udp(ALICE, BOB, b"another")))
    (train,) = alice.out
    whole = b"".join(train.payload)
    bob.receive(
        Train.received(whole + b"\7", train.segment_bytes, alice.endpoint), Train.received(b"\7", 0, alice.endpoint)
    )
    sent = [udp(ALICE, BOB), udp(ALICE, BOB, b"another")]
    assert list(map(comparable, bob.packets())) == list(map(comparable, sent))
    assert (bob.slow, bob.dropped(), bob.refused()) == ([], {}, {})


def test_trains_are_as_long_as_the_switches_allow_but_to_a_relay() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    packets = [frame(udp(ALICE, BOB, bytes(500))) for _ in range(3)] + [frame(udp(ALICE, BOB))]
    seen = []
    for wanted in (OffloadsSet(), OffloadsSet(frozenset({Offload.UDP_GSO})), OffloadsSet(equal_tails=False)):
        alice.pipeline.switch(wanted)
        for where in (bob.endpoint, bytes(20) + b"\1" + bytes(11)):
            alice.move(bob, where)
            alice.read(*packets[:3], packets[3])
            alice.read(*packets[:3])
            seen.append([train.datagram_count for train in alice.out])
            alice.out.clear()
    assert seen == [[4, 3], [4, 3], [1] * 7, [4, 3], [4, 1, 1, 1], [4, 3]]


def test_long_datagrams_without_equal_tails_begin_again_where_no_train_is_possible() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.widen(bob, 65_456)
    alice.pipeline.switch(OffloadsSet(equal_tails=False))
    alice.read(*(frame(udp(ALICE, BOB, bytes(size))) for size in (60_000, 30_000, 100)))
    assert [train.datagram_count for train in alice.out] == [1, 2]


def test_junk_that_looks_like_transport_data_is_refused_by_the_session_table() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.read(frame(udp(ALICE, BOB)))
    genuine = bytes(alice.out[0].payload[0])
    trains = [genuine[:31], genuine[:-1] + b"?", b"\4\0\0\0" + bytes(40), genuine, genuine]
    bob.receive(*(Train.received(each, 0, alice.endpoint) for each in trains))
    assert bob.packets() == [udp(ALICE, BOB)]
    assert bob.slow == []
    assert bob.refused() == {
        Refusal.LENGTH: 1,
        Refusal.AUTHENTICATION: 1,
        Refusal.INDEX_UNKNOWN: 1,
        Refusal.REPLAYED: 1,
    }


def test_a_junk_datagram_within_a_train_does_not_spoil_the_rest() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.read(tcp_superpacket(ALICE, BOB, 3000))
    (train,) = alice.out
    first, second, third = (bytes(each) for each in train.payload)
    bob.receive(Train.received(first + bytes(len(second)) + third, train.segment_bytes, alice.endpoint))
    assert bob.packets() == [segment(tcp_superpacket(ALICE, BOB, 3000))[number] for number in (0, 2)]
    assert [len(slow.datagram) for slow in bob.slow] == [len(second)]


def test_a_removed_peer_gets_no_packets() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.device.remove_peer(bob.key.public)
    alice.read(frame(udp(ALICE, BOB)))
    assert alice.dropped() == {Drop.NO_ROUTE: 1}
    assert not alice.out


# --- what is counted ------------------------------------------------------------------------------------------


def test_counters_say_how_well_batches_work() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    before = (alice.pipeline.counters.statistics(), bob.pipeline.counters.statistics())
    alice.read(tcp_superpacket(ALICE, BOB, 2500), frame(udp(ALICE, BOB)))
    net.deliver()
    sent, got = alice.pipeline.counters.statistics(), bob.pipeline.counters.statistics()
    assert (sent.read_frames - before[0].read_frames, sent.read_packets - before[0].read_packets) == (2, 4)
    # the last segment is shorter and ends its train
    assert (sent.sent_trains - before[0].sent_trains, sent.sent_datagrams - before[0].sent_datagrams) == (2, 4)
    assert got.received_trains - before[1].received_trains == 2
    assert got.received_datagrams - before[1].received_datagrams == 4
    assert (got.written_frames - before[1].written_frames, got.written_packets - before[1].written_packets) == (2, 4)


def test_statistics_are_a_copy() -> None:
    net = connected(*TWO)
    alice, _ = net.nodes
    before = alice.pipeline.counters.statistics()
    alice.read(b"")
    assert before.dropped == {}
    assert alice.pipeline.counters.statistics().dropped == {Drop.FRAME_MALFORMED: 1}


def test_what_came_out_is_taken_once() -> None:
    net = connected(*TWO)
    alice, bob = net.nodes
    alice.pipeline.from_tun([frame(udp(ALICE, BOB))], alice.now)
    (train,) = alice.pipeline.trains_to_send()
    assert alice.pipeline.trains_to_send() == []
    bob.pipeline.from_udp([Train.received(bytes(train.payload[0]), 0, alice.endpoint)], bob.now)
    assert len(bob.pipeline.frames_to_write()) == 1
    assert bob.pipeline.frames_to_write() == []
    assert bob.pipeline.next_event() is None

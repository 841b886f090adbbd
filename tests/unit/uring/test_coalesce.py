# SPDX-License-Identifier: BSD-3-Clause
"""Coalescing: a table of batches and their groups, frames byte for byte, and that `segment` takes them apart again."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.packets import A4, A6, B4, B6, FLOW4, FLOW6, frame, intact, superpacket, with_byte
from ts4nsnet.packet import (
    ACK,
    CWR,
    ECE,
    FIN,
    ICMP,
    PSH,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    Extension,
    IPv4,
    IPv6,
    Protocol,
    carry,
    checksum,
    pseudo_sum,
)
from ts4nsnet.uring.coalesce import coalesce
from ts4nsnet.uring.segment import VNET_HEADER_BYTES, Gso, VnetHeader, segment

STAMPS = bytes.fromhex("0101080a 00000001 00000002")
A, B = TCP(1, 2, 0, 7, payload=b"a" * 100), TCP(3, 4, 2**32 - 150, 7, payload=b"b" * 100)
U, V = UDP(1, 2, b"u" * 100), UDP(3, 4, b"v" * 100)


def nth(tcp: TCP, index: int, size: int = 100, flags: int = ACK) -> TCP:
    """The segment of a flow in pieces of 100 bytes, of which this one may be cut."""
    return tcp._replace(sequence=(tcp.sequence + 100 * index) % 2**32, payload=tcp.payload[:size], flags=flags)


def on4(*layer4: TCP | UDP | ICMP) -> list[bytes]:
    return [carry(FLOW4, each) for each in layer4]


def on6(*layer4: TCP | UDP | ICMP) -> list[bytes]:
    return [carry(FLOW6, each) for each in layer4]


def normal(packet: bytes) -> bytes:
    """The packet without what merging may lose: the IPv4 identification, and the header checksum over it."""
    if packet[:1] and packet[0] >> 4 == 4 and len(packet) >= 20:
        return packet[:4] + bytes(2) + packet[6:10] + bytes(2) + packet[12:]
    return packet


def taken_apart(frames: Sequence[bytes]) -> list[list[bytes]]:
    return [[normal(packet) for packet in segment(each)] for each in frames]


# --- which packets are merged ---

HOPPED = FLOW6._replace(extensions=(Extension(Protocol.HOP_BY_HOP, bytes.fromhex("00 0104 00000000")),))
MERGED: list[tuple[str, list[bytes], list[list[int]]]] = [
    ("nothing", [], []),
    ("one", on4(A), [[0]]),
    ("tcp", on4(nth(A, 0), nth(A, 1), nth(A, 2)), [[0, 1, 2]]),
    ("tcp whose numbers wrap", on6(nth(B, 0), nth(B, 1), nth(B, 2)), [[0, 1, 2]]),
    ("flows interleaved", on4(A, U, B, nth(A, 1), V, U, nth(B, 1), V), [[0, 3], [1, 5], [2, 6], [4, 7]]),
    ("both versions", on4(A) + on6(A) + on4(nth(A, 1)) + on6(nth(A, 1)), [[0, 2], [1, 3]]),
    ("a gap, then two runs", on4(nth(A, 0), nth(A, 2), nth(A, 1), nth(A, 3)), [[0, 2], [1, 3]]),
    ("nothing is put before", on4(nth(A, 1), nth(A, 0)), [[0], [1]]),
    ("sent twice", on4(nth(A, 0), nth(A, 0), nth(A, 1)), [[0], [1, 2]]),
    ("a shorter one is the last", on4(nth(A, 0), nth(A, 1, 99), nth(A, 2)._replace(sequence=199)), [[0, 1], [2]]),
    ("a longer one begins", on4(nth(A, 0, 99), nth(A, 1)._replace(sequence=99)), [[0], [1]]),
    ("PSH ends", on4(nth(A, 0), nth(A, 1, flags=ACK | PSH), nth(A, 2), nth(A, 3)), [[0, 1], [2, 3]]),
    ("PSH on the first", on4(nth(A, 0, flags=ACK | PSH), nth(A, 1)), [[0], [1]]),
    ("a pure ACK between", on4(nth(A, 0), A._replace(payload=b""), nth(A, 1)), [[0, 2], [1]]),
    ("SYN keeps its place", on4(A, TCP(9, 9, 0, flags=SYN), nth(A, 1)), [[0, 2], [1]]),
    ("udp", on6(U, U, U), [[0, 1, 2]]),
    ("udp: shorter is the last", on4(U, U._replace(payload=b"u"), U, U), [[0, 1], [2, 3]]),
    ("udp: longer begins", on4(U._replace(payload=b"u"), U, U), [[0], [1, 2]]),
    ("udp: none overtakes one without checksum", on4(U, U._replace(has_checksum=False), U), [[0], [1], [2]]),
    ("udp: none overtakes an empty one", on6(U, U._replace(payload=b""), U), [[0], [1], [2]]),
    ("udp: none overtakes another TTL", [*on4(U), carry(FLOW4._replace(ttl=9), U), *on4(U)], [[0], [1], [2]]),
    (
        "udp: none overtakes a fragment, which may be any port's",
        [*on4(U, A), FLOW4._replace(protocol=17, fragment_offset=8, payload=bytes(3)).emit(), *on4(U, nth(A, 1))],
        [[0], [1, 4], [2], [3]],
    ),
    (
        "udp: a fragment between other addresses stops nobody",
        [*on4(U), IPv4(B4, A4, 17, bytes(9), flags=1).emit(), *on4(U)],
        [[0, 2], [1]],
    ),
    ("icmp", on4(ICMP(8, 0), ICMP(8, 0)), [[0], [1]]),
    ("no IP packets", [b"?", b"?" * 40, b"\x60"], [[0], [1], [2]]),
    ("64 datagrams", on4(*[U] * 130), [[*range(64)], [*range(64, 128)], [128, 129]]),
    (
        "65535 bytes of tcp/ipv4",
        on4(*(TCP(1, 2, 13099 * i, payload=bytes(13099)) for i in range(6))),
        [[0, 1, 2, 3, 4], [5]],
    ),
    (
        "65536 bytes of tcp/ipv4",
        on4(*(TCP(1, 2, 8187 * i, payload=bytes(8187)) for i in range(8))),
        [[0, 1, 2, 3, 4, 5, 6], [7]],
    ),
    (
        "65535 bytes of tcp/ipv6",
        on6(*(TCP(1, 2, 21825 * i, payload=bytes(21825)) for i in range(3))),
        [[0, 1, 2]],
    ),
    (
        "65536 bytes of tcp/ipv6",
        on6(*(TCP(1, 2, 16369 * i, payload=bytes(16369)) for i in range(4))),
        [[0, 1, 2], [3]],
    ),
]


@pytest.mark.parametrize(("packets", "groups"), [pytest.param(*case[1:], id=case[0]) for case in MERGED])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_groups(packets: list[bytes], groups: list[list[int]], kind: type[bytes | bytearray | memoryview]) -> None:
    frames = coalesce([kind(packet) for packet in packets])
    assert taken_apart(frames) == [[normal(packets[index]) for index in group] for group in groups]
    alone = {group[0]: data for group, data in zip(groups, frames, strict=True) if len(group) == 1}
    assert all(data == frame(packets[index]) for index, data in alone.items())


V4_CHANGES: list[dict[str, Any]] = [{"traffic_class": 1}, {"ttl": 63}, {"flags": 2}, {"flags": 4}]
V6_CHANGES: list[dict[str, Any]] = [{"traffic_class": 1}, {"ttl": 63}, {"flow_label": 1}]
TCP_CHANGES: list[dict[str, Any]] = [
    {"source_port": 9},
    {"destination_port": 9},
    {"acknowledgement": 8},
    {"window": 1},
    {"options": STAMPS},
    {"urgent": 1},
    {"flags": ACK | 0x100},
    *[{"flags": ACK | flag} for flag in (FIN, SYN, RST, URG, ECE, CWR)],
    {"flags": 0},
    {"payload": b""},
]


@pytest.mark.parametrize(
    ("second", "first"),
    [
        *((FLOW4._replace(**change), FLOW4) for change in V4_CHANGES),
        *((FLOW6._replace(**change), FLOW6) for change in V6_CHANGES),
        (FLOW4._replace(source=B4), FLOW4),
        (FLOW4._replace(destination=A4), FLOW4),
        (FLOW4._replace(options=bytes(4)), FLOW4),
        (FLOW4._replace(flags=1), FLOW4),
        (FLOW6._replace(source=B6), FLOW6),
        (FLOW6._replace(destination=A6), FLOW6),
        (HOPPED, FLOW6),
    ],
)
@pytest.mark.parametrize(("one", "two"), [(A, nth(A, 1)), (U, U)], ids=["tcp", "udp"])
def test_ip_headers_that_differ(second: IPv4 | IPv6, first: IPv4 | IPv6, one: TCP | UDP, two: TCP | UDP) -> None:
    packets = [carry(first, one), carry(second, two)]
    assert coalesce(packets) == [frame(packet) for packet in packets]
    twice = [carry(second, one), carry(second, two)]
    plain = isinstance(second, IPv6) or not (second.options or second.is_fragment)
    assert len(coalesce(twice)) == (1 if plain and second is not HOPPED else 2)


@pytest.mark.parametrize("change", TCP_CHANGES, ids=str)
def test_tcp_headers_that_differ(change: dict[str, Any]) -> None:
    packets = on4(A, nth(A, 1)._replace(**change))
    assert coalesce(packets) == [frame(packet) for packet in packets]


def test_equal_options_and_reserved_bits_merge() -> None:
    tcp = A._replace(options=STAMPS, flags=ACK | 0xF00)
    packets = on6(tcp, nth(tcp, 1, flags=tcp.flags | PSH))
    assert taken_apart(coalesce(packets)) == [packets]


@pytest.mark.parametrize("packets", [on4(A, nth(A, 1)), on6(A, nth(A, 1)), on4(U, U), on6(U, U)])
def test_damaged_packets_are_left_to_the_kernel(packets: list[bytes]) -> None:
    for which, at in itertools.product((0, 1), range(len(packets[0]))):
        damaged = list(packets)
        damaged[which] = with_byte(damaged[which], at, damaged[which][at] ^ 0x10)
        label_or_hops = packets[0][0] >> 4 == 6 and at in {0, 1, 2, 3, 7}  # IPv6 guards these with no checksum
        if not label_or_hops:
            assert coalesce(damaged) == [frame(packet) for packet in damaged]


@pytest.mark.parametrize("packets", [on4(A, nth(A, 1)), on6(U, U)])
def test_bytes_behind_the_end(packets: list[bytes]) -> None:
    padded = [packets[0], packets[1] + b"\0"]
    assert coalesce(padded) == [frame(packet) for packet in padded]


def test_a_udp_length_shorter_than_the_packet() -> None:
    first = on4(U)[0]
    datagram = bytearray(U.emit(A4, B4))
    datagram[4:8] = bytes([0, 107, 0, 0])  # of 108; the checksum, by the packet's length, is right
    datagram[6:8] = checksum(datagram, pseudo_sum(A4, B4, Protocol.UDP, 108)).to_bytes(2, "big")
    packet = IPv4(A4, B4, 17, bytes(datagram)).emit()
    assert coalesce([first, packet, first]) == [frame(first), frame(packet), frame(first)]


def test_no_udp_checksum_where_zero_would_be_right() -> None:
    field = UDP(1, 2, bytes(2)).emit(A4, B4)[6:8]
    made, none = on4(UDP(1, 2, field), UDP(1, 2, field, has_checksum=False))
    assert made[26:28] == b"\xff\xff"
    assert none[26:28] == b"\0\0"
    assert coalesce([none, none]) == [frame(none), frame(none)]
    assert taken_apart(coalesce([made, made])) == [[normal(made), normal(made)]]


def test_malformed_layer_4() -> None:
    packets = [IPv4(A4, B4, protocol, bytes(10)).emit() for protocol in (6, 17, 6, 17)]
    assert coalesce(packets) == [frame(packet) for packet in packets]


def test_switches() -> None:
    packets = on4(A, U, nth(A, 1), U)
    alone = [frame(packet) for packet in packets]
    assert len(coalesce(packets)) == 2
    assert len(coalesce(packets, tcp=False)) == 3
    assert coalesce(packets, tcp=False)[::2] == alone[::2]
    assert len(coalesce(packets, udp=False)) == 3
    assert coalesce(packets, udp=False)[1:] == alone[1::2]
    assert coalesce(packets, tcp=False, udp=False) == alone


# --- what the frame is ---


@pytest.mark.parametrize(
    ("ip", "whole", "sizes", "gso_type"),
    [
        pytest.param(FLOW4, TCP(1, 2, 3, 4, ACK | PSH, 5, b"x" * 25, STAMPS), (10, 10, 5), Gso.TCPV4, id="tcp/ipv4"),
        pytest.param(FLOW6, TCP(1, 2, 3, 4, ACK, 5, b"x" * 20), (10, 10), Gso.TCPV6, id="tcp/ipv6"),
        pytest.param(FLOW4, UDP(1, 2, b"x" * 25), (10, 10, 5), Gso.UDP_L4, id="udp/ipv4"),
        pytest.param(FLOW6, UDP(1, 2, b"x" * 30), (10, 10, 10), Gso.UDP_L4, id="udp/ipv6"),
    ],
)
def test_frame_is_the_kernels_superpacket(
    ip: IPv4 | IPv6, whole: TCP | UDP, sizes: tuple[int, ...], gso_type: Gso
) -> None:
    hdr_len = ip.header_len + (whole.header_len if isinstance(whole, TCP) else 8)
    expected = superpacket(ip, whole, gso_type, sizes[0], hdr_len)
    packets = segment(expected)
    assert [len(packet) - hdr_len for packet in packets] == list(sizes)
    assert coalesce(packets) == [expected]


@pytest.mark.parametrize("on", [on4, on6])
def test_a_frame_of_tcp_can_be_cut_into_what_all_paths_carry(on: Any) -> None:
    long = A._replace(payload=bytes(range(200)))
    following = long._replace(sequence=200)
    headers = 40 if on is on4 else 60
    for packets, size in ((on(long), 200), (on(long, following), 400)):
        (written,) = coalesce(packets, mtu=headers + 90)
        assert VnetHeader.parse(written).gso_size == 90
        pieces = segment(written)
        assert all(map(intact, pieces))
        assert [len(each) - headers for each in pieces] == [*[90] * (size // 90), size % 90]
        assert segment(written, coarse=True)[0][headers:] == bytes(range(200)) * (size // 200)
    assert coalesce(on(long), mtu=headers + 200) == [frame(on(long)[0])]


def test_datagrams_stay_as_long_as_they_are() -> None:
    assert coalesce(on4(U), mtu=100) == [frame(on4(U)[0])]
    (written,) = coalesce(on4(U, U), mtu=100)
    assert VnetHeader.parse(written).gso_size == 100


def test_the_longest_frame_can_be_written() -> None:
    size = (65535 - 40) // 5
    (data,) = coalesce(on4(*(TCP(1, 2, size * index, payload=bytes(size)) for index in range(5))))
    assert len(data) == VNET_HEADER_BYTES + 65535
    assert all(map(intact, segment(data)))


# --- any batch ---

STEP = st.tuples(
    st.integers(0, 5),  # flow: TCP, UDP and neither, on both IP versions
    st.sampled_from([40, 40, 40, 40, 39, 41, 1, 0]),  # payload
    st.sampled_from(["", "", "", "", "", "push", "again", "gap", "ttl", "flip", "bare", "fragment", "pad"]),
)


def build(steps: Sequence[tuple[int, int, str]]) -> list[bytes]:
    """A batch of packets; the flows go on as the steps say, each payload with its number so that none are equal."""
    sequence = [2**32 - 100] * 6
    packets = []
    for number, (flow, size, turn) in enumerate(steps):
        ip: IPv4 | IPv6 = (FLOW4, FLOW6)[flow % 2]._replace(ttl=63 if turn == "ttl" else 64)
        if isinstance(ip, IPv4):
            ip = ip._replace(identification=number, flags=1 if turn == "fragment" else 0)
        payload = number.to_bytes(2, "big") * (size // 2) + b"!" * (size % 2)
        inner: TCP | UDP | ICMP = ICMP(8, 0, payload=payload)
        if flow < 2:
            sequence[flow] += {"again": -size, "gap": 7}.get(turn, 0)
            flags = ACK | (PSH if turn == "push" else 0)
            inner = TCP(1, 2, sequence[flow] % 2**32, 3, flags, 4, payload, STAMPS)
            sequence[flow] += size
        elif flow < 4:
            inner = UDP(1, 2, payload, has_checksum=turn != "bare")
        packet = carry(ip, inner)
        if turn == "flip":
            packet = with_byte(packet, len(packet) - 1, packet[-1] ^ 1)
        packets.append(packet + (b"\0" if turn == "pad" else b""))
    return packets


def udp_in_order(packets: Sequence[bytes]) -> dict[tuple[int, bytes], list[bytes]]:
    """The UDP packets between each pair of addresses."""
    found = defaultdict(list)
    for packet in packets:
        version = packet[0] >> 4
        if packet[9 if version == 4 else 6] == Protocol.UDP:
            found[version, packet[12:20] if version == 4 else packet[8:40]].append(packet)
    return dict(found)


@given(st.lists(STEP, max_size=200))
def test_any_batch_is_taken_apart_into_itself(steps: list[tuple[int, int, str]]) -> None:
    packets = build(steps)
    frames = coalesce(packets)
    after = list(itertools.chain.from_iterable(taken_apart(frames)))
    before = [normal(packet) for packet in packets]
    assert Counter(after) == Counter(before)
    assert udp_in_order(after) == udp_in_order(before)
    place = -1
    for members in taken_apart(frames):
        place = before.index(members[0], place + 1)  # each frame stands where its first packet was
    for data in frames:
        vnet = VnetHeader.parse(data)
        if vnet == VnetHeader():
            continue
        members = segment(data)
        assert all(map(intact, members))
        assert {len(member) - vnet.hdr_len for member in members[:-1]} == {vnet.gso_size}
        assert len(members) > 1
        assert len(members) <= (64 if vnet.gso_type == Gso.UDP_L4 else len(packets))


@given(st.lists(st.binary(min_size=1, max_size=70), max_size=5))
def test_arbitrary_bytes_are_passed_on(packets: list[bytes]) -> None:
    assert coalesce(packets) == [frame(packet) for packet in packets]

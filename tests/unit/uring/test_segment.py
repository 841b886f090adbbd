# SPDX-License-Identifier: BSD-3-Clause
"""Segmentation: a table of frames and their packets, every field's rule, and arbitrary bytes at the door."""

import contextlib
import sys
from collections.abc import Iterator

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
    SYN,
    TCP,
    UDP,
    Extension,
    IPv4,
    IPv6,
    Malformed,
    Protocol,
    carry,
    parse_ip,
)
from ts4nsnet.uring.segment import GSO_ECN, VNET_HEADER_BYTES, Gso, VnetFlag, VnetHeader, segment

STAMPS = bytes.fromhex("0101080a 00000001 00000002")
EXTENDED = IPv6(A6, B6, 0, extensions=(Extension(Protocol.DESTINATION_OPTIONS, bytes.fromhex("00 0104 00000000")),))


def numbered(ip: IPv4, index: int) -> IPv4:
    return ip._replace(identification=(ip.identification + index) % 2**16)


CASES: list[tuple[str, bytes, list[bytes]]] = [
    ("plain", frame(carry(FLOW4, ICMP(8, 0))), [carry(FLOW4, ICMP(8, 0))]),
    ("plain, unread", frame(b"?"), [b"?"]),
    (
        "tcp/ipv4 with a shorter last segment; numbers wrap; FIN and PSH only last, CWR only first",
        superpacket(
            FLOW4,
            TCP(1, 2, 0xFFFFFFFE, 7, ACK | PSH | FIN | CWR | ECE, 99, b"aaabbbc", STAMPS, urgent=5),
            Gso.TCPV4 | GSO_ECN,
            3,
        ),
        [
            carry(FLOW4, TCP(1, 2, 0xFFFFFFFE, 7, ACK | CWR | ECE, 99, b"aaa", STAMPS, urgent=5)),
            carry(numbered(FLOW4, 1), TCP(1, 2, 1, 7, ACK | ECE, 99, b"bbb", STAMPS, urgent=5)),
            carry(numbered(FLOW4, 2), TCP(1, 2, 4, 7, ACK | PSH | FIN | ECE, 99, b"c", STAMPS, urgent=5)),
        ],
    ),
    (
        "tcp/ipv4 of one segment keeps everything",
        superpacket(FLOW4, TCP(1, 2, 3, 4, ACK | PSH | CWR, 5, b"one"), Gso.TCPV4, 3),
        [carry(FLOW4, TCP(1, 2, 3, 4, ACK | PSH | CWR, 5, b"one"))],
    ),
    (
        "tcp/ipv4 with IP options; the AE bit is copied",
        superpacket(FLOW4._replace(options=bytes(8), flags=2), TCP(1, 2, 3, 4, ACK | 0x100, 5, b"aab"), Gso.TCPV4, 2),
        [
            carry(FLOW4._replace(options=bytes(8), flags=2), TCP(1, 2, 3, 4, ACK | 0x100, 5, b"aa")),
            carry(numbered(FLOW4, 1)._replace(options=bytes(8), flags=2), TCP(1, 2, 5, 4, ACK | 0x100, 5, b"b")),
        ],
    ),
    (
        "tcp/ipv6 behind an extension header",
        superpacket(EXTENDED, TCP(1, 2, 3, 4, ACK, 5, b"aabb"), Gso.TCPV6, 2),
        [carry(EXTENDED, TCP(1, 2, 3, 4, ACK, 5, b"aa")), carry(EXTENDED, TCP(1, 2, 5, 4, ACK, 5, b"bb"))],
    ),
    (
        "udp/ipv4",
        superpacket(FLOW4, UDP(1, 2, b"aaaabbbbc"), Gso.UDP_L4, 4),
        [
            carry(FLOW4, UDP(1, 2, b"aaaa")),
            carry(numbered(FLOW4, 1), UDP(1, 2, b"bbbb")),
            carry(numbered(FLOW4, 2), UDP(1, 2, b"c")),
        ],
    ),
    (
        "udp/ipv6",
        superpacket(FLOW6, UDP(1, 2, b"aab"), Gso.UDP_L4, 2),
        [carry(FLOW6, UDP(1, 2, b"aa")), carry(FLOW6, UDP(1, 2, b"b"))],
    ),
]


@pytest.mark.parametrize(("data", "packets"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_frame_becomes_packets(data: bytes, packets: list[bytes], kind: type[bytes | bytearray | memoryview]) -> None:
    assert segment(kind(data)) == packets


@pytest.mark.parametrize(("data", "packets"), [pytest.param(*case[1:], id=case[0]) for case in CASES])
def test_hdr_len_is_never_trusted(data: bytes, packets: list[bytes]) -> None:
    for hdr_len in (0, 1, 40, 0xFFFF):
        vnet = VnetHeader.parse(data)._replace(hdr_len=hdr_len)
        assert segment(vnet.emit() + data[VNET_HEADER_BYTES:]) == packets


@pytest.mark.parametrize(("data", "packets"), [pytest.param(*case[1:], id=case[0]) for case in CASES[2:]])
def test_the_partial_checksum_is_never_trusted(data: bytes, packets: list[bytes]) -> None:
    vnet = VnetHeader.parse(data)
    at = VNET_HEADER_BYTES + vnet.csum_start + vnet.csum_offset
    assert segment(with_byte(with_byte(data, at, 0x12), at + 1, 0x34)) == packets


def test_vnet_header() -> None:
    vnet = VnetHeader(1, 4, 0x1234, 0x5678, 0x9ABC, 0xDEF0)
    data = bytes([1, 4]) + b"".join(value.to_bytes(2, sys.byteorder) for value in vnet[2:])
    assert vnet.emit() == data
    assert VnetHeader.parse(data + b"x") == vnet


# --- how long packets become ---

WHOLE = carry(FLOW4, TCP(1, 2, 0xFFFFFFFE, 7, ACK | PSH, 99, bytes(range(200)), STAMPS))
HEADERS = 20 + 32
LONE = frame(WHOLE)
SUPER = superpacket(FLOW4, TCP(1, 2, 0xFFFFFFFE, 7, ACK | PSH, 99, bytes(range(200)), STAMPS), Gso.TCPV4, 40)
LONE6 = frame(carry(FLOW6, TCP(1, 2, 3, 4, ACK, 5, bytes(200))))
SIGNED = TCP(1, 2, 3, 4, SYN, 5, bytes(200))


def sizes(data: bytes, mtu: int, *, coarse: bool = False) -> list[int]:
    packets = segment(data, mtu, coarse=coarse)
    assert all(map(intact, packets))
    payloads = [TCP.parse(parse_ip(packet).payload) for packet in packets]
    assert b"".join(bytes(each.payload) for each in payloads) == TCP.parse(parse_ip(data[10:]).payload).payload
    return list(map(len, packets))


def test_what_a_path_has_become_too_narrow_for_is_cut_smaller() -> None:
    assert sizes(LONE, HEADERS + 200) == [HEADERS + 200]
    assert sizes(LONE, HEADERS + 199) == [HEADERS + 199, HEADERS + 1]
    assert sizes(LONE, HEADERS + 90) == [HEADERS + 90, HEADERS + 90, HEADERS + 20]
    assert sizes(SUPER, HEADERS + 40) == [HEADERS + 40] * 5
    assert sizes(SUPER, HEADERS + 39) == [HEADERS + 39] * 5 + [HEADERS + 5]
    assert sizes(LONE6, 160) == [160, 160]
    assert segment(LONE, 128) == segment(SUPER, 128, coarse=True)


@pytest.mark.parametrize(("mtu", "payloads"), [(256, [200]), (9999, [200]), (255, [76, 76, 48])])
def test_a_wide_path_takes_a_superpacket_in_pieces_as_long_as_it_carries(mtu: int, payloads: list[int]) -> None:
    assert sizes(SUPER, mtu, coarse=True) == [HEADERS + size for size in payloads]
    if payloads == [200]:
        assert segment(SUPER, mtu, coarse=True) == [WHOLE]


EXTENDED_LONE = frame(carry(EXTENDED, TCP(1, 2, 3, 4, ACK, 5, bytes(200))))


@pytest.mark.parametrize(
    "data",
    [
        frame(carry(FLOW4, UDP(1, 2, bytes(200)))),
        frame(carry(FLOW4, SIGNED)),
        frame(carry(FLOW4._replace(options=bytes(4)), TCP(1, 2, 3, 4, ACK, 5, bytes(200)))),
        frame(FLOW4._replace(protocol=6, fragment_offset=8, payload=bytes([80]) * 200).emit()),
        frame(carry(FLOW4, TCP(1, 2, 3, 4, ACK, 5)) + bytes(200)),
        frame(FLOW4._replace(protocol=6, payload=bytes(200)).emit()),
        EXTENDED_LONE,
        frame(bytes(200)),
    ],
    ids=["udp", "syn", "options", "a fragment", "nothing but padding", "no tcp", "extension header", "nothing"],
)
def test_what_cannot_be_cut_stays_as_it_is(data: bytes) -> None:
    assert segment(data, 128, coarse=True) == [data[10:]]
    assert segment(data, 30) == segment(data, 63, coarse=True) == [data[10:]]


def test_only_superpackets_are_cut_into_whole_steps() -> None:
    assert sizes(LONE, HEADERS + 200, coarse=True) == [HEADERS + 200]
    assert sizes(LONE, HEADERS + 199, coarse=True) == [128, 128, HEADERS + 48]


def test_a_lone_packet_is_not_longer_than_headers() -> None:
    assert segment(LONE, HEADERS) == [LONE[10:]]
    assert len(segment(SUPER, HEADERS)) == 5


@pytest.mark.parametrize("flags", [ACK | FIN, ACK | CWR, ACK | ECE])
def test_what_the_other_end_could_not_write_as_a_superpacket_is_cut_as_it_says(flags: int) -> None:
    data = superpacket(FLOW4, TCP(1, 2, 3, 4, flags, 5, bytes(200)), Gso.TCPV4, 40)
    assert segment(data, 9999, coarse=True) == segment(data)
    assert len(segment(data, 79)) == 6


def test_udp_is_cut_as_it_says() -> None:
    data = superpacket(FLOW4, UDP(1, 2, bytes(200)), Gso.UDP_L4, 40)
    assert segment(data, 9999, coarse=True) == segment(data, 40) == segment(data)


def test_a_lone_packet_whose_checksum_has_no_place_is_malformed_however_long_it_may_be() -> None:
    data = VnetHeader(VnetFlag.NEEDS_CSUM, 0, 0, 0, 20, 999).emit() + LONE[10:]
    for mtu in (100, 9999):
        with pytest.raises(Malformed, match="csum"):
            segment(data, mtu)


# --- a checksum alone ---


@pytest.mark.parametrize("ip", [FLOW4, FLOW6, EXTENDED], ids=["ipv4", "ipv6", "extended"])
@pytest.mark.parametrize("inner", [TCP(1, 2, 3, payload=b"odd"), TCP(1, 2, 3), UDP(1, 2, b"even"), UDP(1, 2)])
def test_lone_checksum_is_completed(ip: IPv4 | IPv6, inner: TCP | UDP) -> None:
    data = with_byte(superpacket(ip, inner, Gso.NONE, 0), 1, Gso.NONE)
    assert segment(data) == [carry(ip, inner)]


@pytest.mark.parametrize("ip", [FLOW4, FLOW6], ids=["ipv4", "ipv6"])
def test_a_udp_checksum_of_zero_becomes_its_double(ip: IPv4 | IPv6) -> None:
    field = carry(ip, UDP(1, 2, bytes(2)))[ip.header_len + 6 :][:2]
    zero = UDP(1, 2, field)
    (lone,) = segment(superpacket(ip, zero, Gso.NONE, 0))
    first, second = segment(superpacket(ip, UDP(1, 2, field * 2), Gso.UDP_L4, 2))
    for packet in (lone, first, second):
        assert packet[ip.header_len + 6 :] == b"\xff\xff" + field
        assert intact(packet)


@pytest.mark.parametrize(("start", "offset"), [(0, 6), (19, 6), (20, 9), (20, 0xFFFF), (28, 1), (0xFFFF, 6)])
def test_lone_checksum_outside_the_packet(start: int, offset: int) -> None:
    packet = carry(FLOW4, UDP(1, 2, b"x"))
    assert len(packet) == 29
    with pytest.raises(Malformed) as caught:
        segment(frame(packet, VnetHeader(VnetFlag.NEEDS_CSUM, Gso.NONE, 0, 0, start, offset)))
    assert caught.value.what == "csum"


# --- any superpacket ---

PORT = st.integers(0, 0xFFFF)
LONG = st.integers(0, 0xFFFFFFFF)
IPV4S = st.builds(
    lambda tos, ttl, number, flags, options: IPv4(A4, B4, 0, b"", ttl, tos, number, flags, 0, options),
    st.integers(0, 255),
    st.integers(0, 255),
    PORT,
    st.sampled_from([0, 2, 4]),
    st.sampled_from([b"", bytes(4), bytes(40)]),
)
IPS = st.one_of(IPV4S, st.sampled_from([FLOW6, EXTENDED]))
TCPS = st.builds(
    TCP,
    PORT,
    PORT,
    LONG,
    LONG,
    st.integers(0, 0xFFF),
    PORT,
    st.binary(min_size=1, max_size=200),
    st.sampled_from([b"", STAMPS, bytes(40)]),
    PORT,
)
UDPS = st.builds(UDP, PORT, PORT, st.binary(min_size=1, max_size=200), st.just(True))


def pieces(payload: bytes, size: int) -> list[bytes]:
    return [payload[at : at + size] for at in range(0, len(payload), size)]


@given(IPS, TCPS, st.integers(1, 201))
def test_any_tcp_superpacket(ip: IPv4 | IPv6, tcp: TCP, size: int) -> None:
    packets = segment(superpacket(ip, tcp, Gso.TCPV4 if isinstance(ip, IPv4) else Gso.TCPV6, size))
    parsed = [parse_ip(packet) for packet in packets]
    segments = [TCP.parse(each.payload) for each in parsed]
    assert [each.payload for each in segments] == pieces(bytes(tcp.payload), size)
    assert [each.sequence for each in segments] == [
        (tcp.sequence + index * size) % 2**32 for index in range(len(packets))
    ]
    for index, (each, layer4) in enumerate(zip(parsed, segments, strict=True)):
        cleared = (0 if index == len(packets) - 1 else FIN | PSH) | (0 if index == 0 else CWR)
        assert layer4 == tcp._replace(sequence=layer4.sequence, flags=tcp.flags & ~cleared, payload=layer4.payload)
        assert each == (numbered(ip, index) if isinstance(ip, IPv4) else ip)._replace(protocol=6, payload=each.payload)
        assert intact(packets[index], each.header_len)


@given(IPS, UDPS, st.integers(1, 201))
def test_any_udp_superpacket(ip: IPv4 | IPv6, udp: UDP, size: int) -> None:
    packets = segment(superpacket(ip, udp, Gso.UDP_L4, size))
    assert len(packets) == len(pieces(bytes(udp.payload), size))
    for index, (packet, payload) in enumerate(zip(packets, pieces(bytes(udp.payload), size), strict=True)):
        expected = numbered(ip, index) if isinstance(ip, IPv4) else ip
        assert packet == carry(expected, udp._replace(payload=payload))
        assert intact(packet, ip.header_len)


def test_the_longest_superpacket() -> None:
    payload = bytes(range(256)) * 256
    tcp4 = TCP(1, 2, 3, payload=payload[: 65535 - 40])
    packets = segment(superpacket(FLOW4, tcp4, Gso.TCPV4, 1))
    assert len(packets) == 65495
    assert intact(packets[-1])
    tcp6 = TCP(1, 2, 3, payload=payload[: 65535 - 20])  # an IPv6 header is not part of its length
    assert b"".join(packet[60:] for packet in segment(superpacket(FLOW6, tcp6, Gso.TCPV6, 1440))) == tcp6.payload


# --- malformed ---

GOOD_TCP = superpacket(FLOW4, TCP(1, 2, 3, payload=b"12345678"), Gso.TCPV4, 3)
GOOD_UDP = superpacket(EXTENDED, UDP(1, 2, b"12345678"), Gso.UDP_L4, 3)
PART = FLOW4._replace(flags=1)
REFUSED: list[tuple[str, str, bytes]] = [
    ("nothing", "vnet", b""),
    ("half a vnet header", "vnet", bytes(9)),
    ("no packet", "vnet", bytes(10)),
    ("UFO", "gso", with_byte(GOOD_UDP, 1, Gso.UDP)),
    ("unknown type", "gso", with_byte(GOOD_UDP, 1, 2)),
    ("UFO with ECN", "gso", with_byte(GOOD_UDP, 1, Gso.UDP | GSO_ECN)),
    ("TCPv6 on IPv4", "gso", with_byte(GOOD_TCP, 1, Gso.TCPV6)),
    ("TCPv4 on IPv6", "gso", superpacket(FLOW6, TCP(1, 2, 3, payload=b"12"), Gso.TCPV4, 1)),
    ("UDP_L4 on TCP", "gso", with_byte(GOOD_TCP, 1, Gso.UDP_L4)),
    ("TCPv6 on UDP", "gso", with_byte(GOOD_UDP, 1, Gso.TCPV6)),
    ("gso_size 0", "gso", superpacket(FLOW4, TCP(1, 2, 3, payload=b"12"), Gso.TCPV4, 0)),
    ("TCP without payload", "gso", superpacket(FLOW4, TCP(1, 2, 3), Gso.TCPV4, 3)),
    ("UDP without payload", "gso", superpacket(FLOW4, UDP(1, 2), Gso.UDP_L4, 3)),
    ("fragment", "gso", superpacket(PART, UDP(1, 2, b"1234"), Gso.UDP_L4, 3)),
    ("csum_start elsewhere", "gso", VnetHeader(1, 1, 0, 3, 24, 16).emit() + GOOD_TCP[VNET_HEADER_BYTES:]),
    ("no IP packet", "ipv4", VnetHeader(1, 1, 0, 3, 20, 16).emit() + b"?" * 60),
    ("IPv4 cut", "ipv4", GOOD_TCP[:-1]),
    ("IPv6 cut", "ipv6", GOOD_UDP[:-1]),
    ("TCP header cut", "tcp", VnetHeader(1, 1, 0, 3, 20, 16).emit() + IPv4(A4, B4, 6, bytes(12)).emit()),
    ("UDP length", "udp", VnetHeader(1, 5, 0, 3, 20, 6).emit() + IPv4(A4, B4, 17, bytes(12)).emit()),
]


@pytest.mark.parametrize(("what", "data"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_refused(what: str, data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        segment(data)
    assert caught.value.what == what


def mutants(data: bytes) -> Iterator[bytes]:
    """Every truncation, and every byte with each bit flipped and with its extreme values."""
    for at in range(len(data)):
        yield data[:at]
        for value in {data[at] ^ 1 << bit for bit in range(8)} | {0, 0xFF}:
            yield with_byte(data, at, value)


@pytest.mark.parametrize("data", [GOOD_TCP, GOOD_UDP, frame(carry(FLOW4, UDP(1, 2)), VnetHeader(1, 0, 0, 0, 20, 6))])
def test_mutants_give_packets_or_malformed(data: bytes) -> None:
    refused = 0
    for mutant in mutants(data):
        try:
            assert all(segment(mutant))
        except Malformed:
            refused += 1
    assert refused


@given(st.binary(max_size=100), st.sampled_from([0, 1]), st.sampled_from([0, 1, 4, 5, 0x81]), st.integers(0, 60))
def test_arbitrary_bytes(packet: bytes, flags: int, gso_type: int, start: int) -> None:
    data = VnetHeader(flags, gso_type, 0, 8, start, 6).emit() + packet
    with contextlib.suppress(Malformed):
        assert all(segment(data))

# SPDX-License-Identifier: BSD-3-Clause
"""Packets: one table read and written, checksums against a slow sum, and arbitrary bytes at the doors."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.packets import A4, A6, B4, B6, slow_sum
from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.packet import (
    ACK,
    CWR,
    ICMP,
    IP,
    MAX_EXTENSION_HEADERS,
    PSH,
    SYN,
    TCP,
    UDP,
    Extension,
    Inner,
    IPv4,
    IPv6,
    Malformed,
    PacketError,
    Protocol,
    carry,
    checksum,
    checksum_ok,
    clamp_mss,
    fold,
    parse_ip,
    pseudo_sum,
    set_payload_len,
    sum16,
)


def slow_ok(ip: IP) -> bool:
    """Whether the layer 4 checksum is right, by the pseudo-headers of RFC 768 and RFC 8200 as they are drawn there."""
    length = len(ip.payload)
    if isinstance(ip, IPv4):
        pseudo = ip.source + ip.destination + bytes([0, ip.protocol]) + length.to_bytes(2, "big")
    else:
        pseudo = ip.source + ip.destination + length.to_bytes(4, "big") + bytes([0, 0, 0, ip.protocol])
    return slow_sum(pseudo + bytes(ip.payload)) == 0xFFFF


def fragment(offset: int, more: int) -> Extension:
    return Extension(Protocol.FRAGMENT, b"\0" + (offset | more).to_bytes(2, "big") + b"\0\0\0\x09")


# the second value, if there is one, is what the first one carries
CASES: list[tuple[str, IP, UDP | TCP | ICMP | None, str]] = [
    (
        "ipv4 udp",
        IPv4(A4, B4, Protocol.UDP, identification=7),
        UDP(1234, 53, b"hi"),
        "4500001e 00070000 4011b245 64400001 64400002  04d2 0035 000a c9e6 6869",
    ),
    (
        "ipv4 udp without checksum, DF, ECN, of odd length",
        IPv4(A4, B4, Protocol.UDP, traffic_class=0xB9, flags=2, ttl=1),
        UDP(1, 2, b"odd", has_checksum=False),
        "45b9001f 00004000 0111b092 64400001 64400002  0001 0002 000b 0000 6f6464",
    ),
    (
        "ipv4 tcp with options on both layers",
        IPv4(A4, B4, Protocol.TCP, options=b"\x94\x04\0\0"),
        TCP(443, 50000, 0xFFFFFFFF, 1, SYN | ACK | CWR | 0x100, 512, b"", bytes.fromhex("02040500"), urgent=3),
        (
            "46000030 00000000 4006 1d41 64400001 64400002 94040000"
            "  01bb c350 ffffffff 00000001 6192 0200 07b8 0003 02040500"
        ),
    ),
    (
        "ipv4 icmp echo",
        IPv4(A4, B4, Protocol.ICMP),
        ICMP(8, 0, b"\0\1\0\2", b"ping"),
        "45000020 00000000 4001b25a 64400001 64400002  0800 192c 0001 0002 70696e67",
    ),
    (
        "ipv4 later fragment",
        IPv4(A4, B4, Protocol.UDP, b"middle", identification=0xABCD, flags=1, fragment_offset=1480),
        None,
        "4500001a abcd20b9 4011e5c9 64400001 64400002  6d6964646c65",
    ),
    (
        "ipv6 udp",
        IPv6(A6, B6, Protocol.UDP, traffic_class=0x2E, flow_label=0xABCDE),
        UDP(5353, 5353, b"\0"),
        f"62eabcde 0009 11 40 {A6.hex()}{B6.hex()}  14e9 14e9 0009 7498 00",
    ),
    (
        "ipv6 tcp behind hop-by-hop and destination options",
        IPv6(
            A6,
            B6,
            Protocol.TCP,
            extensions=(
                Extension(Protocol.HOP_BY_HOP, bytes.fromhex("00 0502 0000 0100")),
                Extension(Protocol.DESTINATION_OPTIONS, bytes.fromhex("01 010b 0000 0000 0000 0000 0000 0000")),
            ),
        ),
        TCP(1, 2, 3, 4, ACK | PSH, 5, b"x"),
        (
            f"60000000 002d 00 40 {A6.hex()}{B6.hex()} 3c00050200000100 0601010b000000000000000000000000"
            "  0001 0002 00000003 00000004 5018 0005 d64a 0000 78"
        ),
    ),
    (
        "ipv6 first fragment",
        IPv6(A6, B6, Protocol.UDP, b"12345678", extensions=(fragment(0, 1),)),
        None,
        f"60000000 0010 2c 40 {A6.hex()}{B6.hex()} 1100000100000009 3132333435363738",
    ),
    (
        "ipv6 later fragment: what follows is no header, though its number says so",
        IPv6(A6, B6, Protocol.DESTINATION_OPTIONS, b"xx", extensions=(fragment(1448, 0),)),
        None,
        f"60000000 000a 2c 40 {A6.hex()}{B6.hex()} 3c0005a800000009 7878",
    ),
    (
        "ipv6 authentication header",
        IPv6(A6, B6, Protocol.NO_NEXT_HEADER, extensions=(Extension(51, bytes.fromhex("01 0000 00000001 00000002")),)),
        None,
        f"60000000 000c 33 40 {A6.hex()}{B6.hex()} 3b0100000000000100000002",
    ),
    (
        "icmpv6 packet too big",
        IPv6(A6, B6, Protocol.ICMPV6),
        ICMP(2, 0, b"\0\0\5\0", b"quote"),
        f"60000000 000d 3a 40 {A6.hex()}{B6.hex()}  0200 515c 00000500 71756f7465",
    ),
]

VALUES = pytest.mark.parametrize(("ip", "inner", "data"), [pytest.param(*case[1:], id=case[0]) for case in CASES])


@VALUES
def test_value_becomes_bytes(ip: IP, inner: UDP | TCP | ICMP | None, data: str) -> None:
    assert (carry(ip, inner) if inner is not None else ip.emit()).hex() == bytes.fromhex(data).hex()


@VALUES
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_become_value(
    ip: IP, inner: UDP | TCP | ICMP | None, data: str, kind: type[bytes | bytearray | memoryview]
) -> None:
    packet = bytes.fromhex(data)
    parsed = parse_ip(kind(packet + b"padding"))
    assert parsed.payload == packet[parsed.header_len :]
    if inner is not None:
        assert type(inner).parse(parsed.payload) == inner
        parsed = parsed._replace(payload=b"")
    assert parsed == ip


@VALUES
def test_every_checksum_stands_the_slow_sum(ip: IP, inner: UDP | TCP | ICMP | None, data: str) -> None:
    packet = parse_ip(bytes.fromhex(data))
    if isinstance(packet, IPv4):
        assert slow_sum(bytes.fromhex(data)[: packet.header_len]) == 0xFFFF
    if inner is None or (isinstance(inner, UDP) and not inner.has_checksum):
        return
    if isinstance(inner, ICMP) and isinstance(ip, IPv4):
        assert slow_sum(bytes(packet.payload)) == 0xFFFF
    else:
        assert slow_ok(packet)
        assert checksum_ok(packet)
        assert not checksum_ok(packet._replace(payload=bytes(packet.payload[:-1]) + b"\xfe"))


def test_published_sums() -> None:
    assert sum16(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2  # RFC 1071, 3
    assert checksum(bytes.fromhex("45000073000040004011 0000 c0a80001c0a800c7")) == 0xB861


@given(st.binary(max_size=70), st.integers(0, 2**20))
def test_checksum_is_the_slow_one(data: bytes, initial: int) -> None:
    assert sum16(data) == slow_sum(data)
    words = data + initial.to_bytes(4, "big") if len(data) % 2 == 0 else data + b"\0" + initial.to_bytes(4, "big")
    assert checksum(data, initial) == 0xFFFF - slow_sum(words)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\0\0\0", b"\xff\xff", b"\xff\xff\0", b"\xff", b"\xff\xfe\0\1", b"\xff" * 6]
)
def test_zero_and_its_double(data: bytes) -> None:
    assert sum16(data) == slow_sum(data)
    assert fold(slow_sum(data)) == slow_sum(data)


def test_a_udp_checksum_of_zero_is_written_as_its_double() -> None:
    without = UDP(0, 0, bytes(2)).emit(A4, B4)
    field = int.from_bytes(without[6:8], "big")
    assert UDP(0, 0, field.to_bytes(2, "big")).emit(A4, B4)[6:8] == b"\xff\xff"


def test_pseudo_sum_counts_the_length() -> None:
    assert fold(pseudo_sum(A6, B6, Protocol.TCP, 0x1234)) == slow_sum(A6 + B6 + b"\x12\x34\0\x06")


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_header_is_fitted_to_another_payload(case: tuple[str, IP, object, str]) -> None:
    ip = case[1]._replace(payload=b"four")
    header = bytearray(ip.emit()[: ip.header_len])
    set_payload_len(header, ip.header_len, 900)
    assert bytes(header) == ip._replace(payload=bytes(900)).emit()[: ip.header_len]


def test_fragments() -> None:
    assert not IPv4(A4, B4, 17, flags=2).is_fragment
    assert IPv4(A4, B4, 17, flags=1).is_fragment
    assert IPv4(A4, B4, 17, fragment_offset=8).is_fragment
    assert not IPv6(A6, B6, 17).is_fragment
    assert not IPv6(A6, B6, 17, extensions=(fragment(0, 0),)).is_fragment  # an atomic fragment is whole
    first, later = (IPv6(A6, B6, 17, extensions=(fragment(*each),)) for each in ((0, 1), (8, 0)))
    assert first.is_fragment
    assert later.is_fragment
    assert (first.fragment_offset, later.fragment_offset) == (0, 8)


# --- any value ---


def binary(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@st.composite
def extensions(draw: st.DrawFn) -> tuple[Extension, ...]:
    found = []
    for kind in draw(st.lists(st.sampled_from([0, 43, 44, 51, 60, 135, 139, 140]), max_size=4)):
        units = draw(st.integers(0, 3))
        if kind == Protocol.FRAGMENT:
            found.append(fragment(0, draw(st.integers(0, 1))))
        else:
            size = 6 + units * (4 if kind == Protocol.AUTHENTICATION else 8)
            found.append(Extension(kind, bytes([units]) + draw(binary(size))))
    if draw(st.booleans()):
        found.append(fragment(draw(st.integers(1, 0x1FFF)) * 8, draw(st.integers(0, 1))))
    return tuple(found)


BYTE, WORD, LONG = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
PAYLOAD = st.binary(max_size=40)
OPTIONS = st.integers(0, 10).flatmap(lambda words: binary(words * 4))
OFFSETS = st.integers(0, 0x1FFF).map(lambda unit: unit * 8)
FINAL = st.sampled_from([1, 6, 17, 58, 59, 253])
IPV4S = st.builds(IPv4, binary(4), binary(4), BYTE, PAYLOAD, BYTE, BYTE, WORD, st.integers(0, 7), OFFSETS, OPTIONS)
IPV6S = st.builds(IPv6, binary(16), binary(16), FINAL, PAYLOAD, BYTE, BYTE, st.integers(0, 0xFFFFF), extensions())
LAYER4 = st.one_of(
    st.builds(UDP, WORD, WORD, PAYLOAD, st.booleans()),
    st.builds(TCP, WORD, WORD, LONG, LONG, st.integers(0, 0xFFF), WORD, PAYLOAD, OPTIONS, WORD),
    st.builds(ICMP, BYTE, BYTE, binary(4), PAYLOAD),
)


@given(st.one_of(IPV4S, IPV6S), st.binary(max_size=15))
def test_any_ip_packet_is_read_as_it_was_written(ip: IP, padding: bytes) -> None:
    data = ip.emit()
    assert parse_ip(data + padding) == ip
    inner = Inner.parse(data + padding)
    assert inner == (len(data), ip.source, ip.destination)


@given(st.sampled_from([IPv4(A4, B4, 0), IPv6(A6, B6, 0)]), LAYER4)
def test_any_layer_4_is_read_as_it_was_written(ip: IP, inner: UDP | TCP | ICMP) -> None:
    packet = parse_ip(carry(ip, inner))
    assert type(inner).parse(packet.payload) == inner
    if packet.protocol != Protocol.ICMP and getattr(inner, "has_checksum", True):
        assert slow_ok(packet)


# --- malformed ---


def read_all(data: bytes) -> set[str]:
    """Knock at every door; what those say that refuse."""
    refused = set()
    for parse in (parse_ip, IPv4.parse, IPv6.parse, UDP.parse, TCP.parse, ICMP.parse, Inner.parse):
        try:
            parse(data)
        except Malformed as error:
            refused.add(error.what)
    return refused


@given(st.binary(max_size=100))
def test_arbitrary_bytes_raise_nothing_but_malformed(data: bytes) -> None:
    assert read_all(data) <= {"ipv4", "ipv6", "udp", "tcp", "icmp", "inner"}


def mutants(data: bytes) -> Iterator[bytes]:
    """Every truncation, and every byte with each bit flipped and with its extreme values."""
    for at in range(len(data)):
        yield data[:at]
        for value in {data[at] ^ 1 << bit for bit in range(8)} | {0, 0xFF}:
            yield data[:at] + bytes([value]) + data[at + 1 :]


@pytest.mark.parametrize("data", [case[3] for case in CASES], ids=[case[0] for case in CASES])
def test_mutants_raise_nothing_but_malformed(data: str) -> None:
    for mutant in mutants(bytes.fromhex(data)):
        read_all(mutant)
        try:
            ip = parse_ip(mutant)
        except Malformed:
            continue
        read_all(bytes(ip.payload))
        assert parse_ip(ip.emit()) == ip


V4, V6 = IPv4(A4, B4, 17, b"payload").emit(), IPv6(A6, B6, 17, b"payload").emit()
LONGEST = IPv6(A6, B6, 17, extensions=(Extension(60, bytes(7)),) * MAX_EXTENSION_HEADERS)
REFUSED: list[tuple[str, str, bytes]] = [
    ("nothing", "ipv4", b""),
    ("version 5", "ipv4", b"\x55" + V4[1:]),
    ("ipv4 of 19 bytes", "ipv4", V4[:19]),
    ("header of 16 bytes", "ipv4", b"\x44" + V4[1:]),
    ("header longer than total", "ipv4", b"\x47" + V4[1:]),
    ("total longer than what is there", "ipv4", V4[:-1]),
    ("total shorter than the header", "ipv4", V4[:2] + b"\0\x13" + V4[4:]),
    ("ipv6 of 39 bytes", "ipv6", V6[:39]),
    ("ipv6 cut", "ipv6", V6[:-1]),
    ("extension header in 7 bytes", "ipv6", V6[:6] + b"\0" + V6[7:]),
    ("extension header longer than the packet", "ipv6", IPv6(A6, B6, 60, b"\x11\1" + bytes(13)).emit()),
    ("too many extension headers", "ipv6", LONGEST._replace(protocol=60, payload=b"\x11" + bytes(7)).emit()),
]


@pytest.mark.parametrize(("what", "data"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_refused_ip(what: str, data: bytes) -> None:
    with pytest.raises(Malformed, match=what):
        parse_ip(data)


def test_as_many_extension_headers_as_allowed() -> None:
    assert parse_ip(LONGEST.emit()) == LONGEST


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="a keep-alive"),
        pytest.param(V4[:19], id="ipv4 of 19 bytes"),
        pytest.param(V6[:39], id="ipv6 of 39 bytes"),
        pytest.param(b"\x50" + V4[1:], id="version 5"),
        pytest.param(V4[:2] + b"\0\x13" + V4[4:], id="ipv4 total of 19"),
        pytest.param(V4[:2] + b"\xff\xff" + V4[4:], id="ipv4 total of 65535"),
        pytest.param(V6[:4] + b"\xff\xff" + V6[6:], id="ipv6 payload of 65535"),
    ],
)
def test_refused_inside_a_transport_message(data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        Inner.parse(data)
    assert caught.value.what == "inner"


def test_refused_layer_4() -> None:
    udp, tcp = UDP(1, 2, b"x").emit(A4, B4), TCP(1, 2, 3).emit(A4, B4)
    for data in (udp[:7], udp[:8], udp[:4] + b"\0\7" + udp[6:]):
        with pytest.raises(Malformed, match="udp"):
            UDP.parse(data)
    for data in (tcp[:19], tcp[:12] + b"\x40" + tcp[13:], tcp[:12] + b"\x60" + tcp[13:]):
        with pytest.raises(Malformed, match="tcp"):
            TCP.parse(data)
    with pytest.raises(Malformed, match="icmp"):
        ICMP.parse(bytes(7))


def test_error_family() -> None:
    error = Malformed("udp", got=1, want=8)
    assert isinstance(error, PacketError)
    assert isinstance(error, Ts4nsnetError)
    assert str(error) == "udp: got 1, want 8"


# --- the maximum segment size ---


def offering(size: int) -> bytes:
    """The option that says so."""
    return b"\2\4" + size.to_bytes(2, "big")


SYN4, SYN6 = IPv4(A4, B4, 0), IPv6(A6, B6, 0)
BEFORE = [b"", b"\1\1", b"\1", b"\4\2", b"\x03\x03\x07", b"\x08\x0a" + bytes(8)]  # NOPs, SACK, window scale, timestamps


@given(
    st.sampled_from([SYN4, SYN4._replace(options=b"\1" * 8), SYN6]),
    st.sampled_from(BEFORE),
    st.integers(0, 65535),
    st.integers(1280, 65535),
    st.sampled_from([SYN, SYN | ACK]),
    st.binary(max_size=3),
)
def test_a_syn_offers_no_more_than_fits(ip: IP, before: bytes, size: int, mtu: int, flags: int, data: bytes) -> None:
    options = before + offering(size)
    options += bytes(-len(options) % 4)
    packet = carry(ip, TCP(1, 2, 3, flags=flags, options=options, payload=data))
    fits = mtu - (40 if isinstance(ip, IPv4) else 60)
    clamped = clamp_mss(packet, mtu)
    if size <= fits:
        assert clamped is packet
    else:
        expected = options.replace(offering(size), offering(fits), 1)
        assert clamped == carry(ip, TCP(1, 2, 3, flags=flags, options=expected, payload=data))
        assert slow_ok(parse_ip(clamped))


@pytest.mark.parametrize(
    ("name", "packet"),
    [
        ("nothing", b""),
        ("a short packet", b"\x45" * 39),
        ("no SYN", carry(SYN4, TCP(1, 2, 3, flags=ACK, options=offering(9000)))),
        ("UDP that looks like one", carry(SYN4, UDP(1, 2, b"\0\0\0\0\x60\2" + bytes(6) + offering(9000)))),
        ("UDP that looks like one, v6", carry(SYN6, UDP(1, 2, b"\0\0\0\0\x60\2" + bytes(6) + offering(9000)))),
        ("a later fragment", carry(SYN4._replace(fragment_offset=80), TCP(1, 2, 3, flags=SYN, options=offering(9000)))),
        (
            "a very late one",
            carry(SYN4._replace(fragment_offset=40960), TCP(1, 2, 3, flags=SYN, options=offering(9000))),
        ),
        ("a header that is cut", carry(SYN6, TCP(1, 2, 3, flags=SYN))[:-1]),
        ("a short IPv4 header", b"\x44" + carry(SYN4, TCP(1, 2, 3, flags=SYN, options=offering(9000)))[1:]),
        ("no options", carry(SYN4, TCP(1, 2, 3, flags=SYN))),
        ("options that end before it", carry(SYN4, TCP(1, 2, 3, flags=SYN, options=bytes(4) + offering(9000)))),
        ("an option of no length", carry(SYN4, TCP(1, 2, 3, flags=SYN, options=b"\3\0\1\1" + offering(9000)))),
        ("an option of length 1", carry(SYN4, TCP(1, 2, 3, flags=SYN, options=b"\3\1\1\1" + offering(9000)))),
        ("an option without a length", carry(SYN4, TCP(1, 2, 3, flags=SYN, options=b"\1\1\1\3"))),
        ("an option beyond the header", carry(SYN4, TCP(1, 2, 3, flags=SYN, options=b"\1\1\2\4", payload=b"\xff\xff"))),
        ("another length", carry(SYN4, TCP(1, 2, 3, flags=SYN, options=b"\2\6\xff\xff\0\0\0\0"))),
    ],
)
def test_other_packets_stay_as_they_are(name: str, packet: bytes) -> None:
    assert clamp_mss(packet, 1280) is packet, name


@given(st.binary(max_size=120), st.sampled_from([b"\x45", b"\x60", b"\x4f", b""]))
def test_any_bytes_can_be_clamped(data: bytes, first: bytes) -> None:
    packet = first + data
    assert len(clamp_mss(packet, 1280)) == len(packet)
    header = bytearray(packet.ljust(60, b"\0"))
    header[6 if first == b"\x60" else 9] = Protocol.TCP
    assert len(clamp_mss(bytes(header), 1280)) == len(header)

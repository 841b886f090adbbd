# SPDX-License-Identifier: BSD-3-Clause
"""What the filter sees of a packet, and what it refuses to look at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.filter.cases import PEER4, PEER6, SELF4, SELF6, emit, packets
from tests.unit.packets import with_byte
from ts4nsnet.filter.views import FRAGMENT, UNKNOWN, look
from ts4nsnet.packet import ICMP, IP, TCP, UDP, Extension, IPv4, IPv6, carry

FROM4, FROM6 = IPv4(PEER4, SELF4, 0), IPv6(PEER6, SELF6, 0)
LONG = bytes(100)


def fragment6(offset: int, *, more: bool = False) -> Extension:
    """A fragment header; the offset is in units of 8 bytes."""
    return Extension(44, bytes([0]) + (offset << 3 | more).to_bytes(2, "big") + b"\0\0\0\7")


def padded(packet: bytes, size: int) -> bytes:
    return packet + bytes(size)


WHOLE4, WHOLE6 = carry(FROM4, UDP(5, 6, LONG)), carry(FROM6, UDP(5, 6, LONG))
OPTIONS = FROM4._replace(options=b"\1" * 8)
FIRST4 = FROM4._replace(flags=1)
LATER4 = FROM4._replace(protocol=17, payload=LONG)
FIRST6 = FROM6._replace(extensions=(fragment6(0, more=True),))
HEADERS = [(1, 4), (2, 8), (6, 20), (17, 8), (58, 4), (99, 7), (132, 12)]


@pytest.mark.parametrize(
    ("name", "packet", "protocol", "start"),
    [
        ("udp", WHOLE4, 17, 20),
        ("udp, v6", WHOLE6, 17, 40),
        ("padding is no part of it", padded(WHOLE4, 12), 17, 20),
        ("padding is no part of it, v6", padded(WHOLE6, 12), 17, 40),
        ("behind IPv4 options", carry(OPTIONS, TCP(5, 6, 1)), 6, 28),
        ("first fragment", carry(FIRST4, UDP(5, 6)), 17, 20),
        ("first fragment, v6", carry(FIRST6, UDP(5, 6)), 17, 48),
        ("fragment of one piece, v6", carry(FROM6._replace(extensions=(fragment6(0),)), TCP(5, 6, 1)), 6, 48),
        ("later fragment", LATER4._replace(fragment_offset=80).emit(), FRAGMENT, 20),
        ("the last fragment possible", LATER4._replace(fragment_offset=8191 * 8).emit(), FRAGMENT, 20),
        ("later fragment, v6", FROM6._replace(extensions=(fragment6(10),), payload=LONG).emit(), FRAGMENT, 48),
        ("any other protocol", FROM4._replace(protocol=47).emit(), 47, 20),
        ("a header that is not understood is the protocol", FROM6._replace(protocol=43, payload=LONG).emit(), 43, 40),
        ("two fragment headers", carry(FROM6._replace(extensions=(fragment6(0),) * 2), UDP(5, 6)), 44, 48),
    ],
)
def test_what_is_seen(name: str, packet: bytes, protocol: int, start: int) -> None:
    size, at = (4, 12) if packet[0] >> 4 == 4 else (16, 8)
    assert look(packet) == (protocol, start, packet[at : at + size], packet[at + size : at + 2 * size]), name
    assert look(memoryview(bytearray(packet))) == look(packet)


@pytest.mark.parametrize(
    ("name", "packet"),
    [
        ("nothing", b""),
        ("19 bytes", WHOLE4[:19]),
        ("39 bytes of IPv6", WHOLE6[:39]),
        ("version 5", with_byte(WHOLE4, 0, 0x55)),
        ("header of 16 bytes", with_byte(WHOLE4, 0, 0x44)),
        ("header longer than the packet", with_byte(FROM4._replace(protocol=47).emit(), 0, 0x46)),
        ("longer than what is there", WHOLE4[:-1]),
        ("longer than what is there, v6", WHOLE6[:-1]),
        ("shorter than its header", with_byte(with_byte(WHOLE4, 2, 0), 3, 19)),
        ("hop-by-hop options", FROM6._replace(extensions=(Extension(0, bytes(7)),), payload=LONG).emit()),
        ("our number for fragments", FROM4._replace(protocol=255, payload=LONG).emit()),
        ("our number for fragments, v6", FROM6._replace(protocol=255, payload=LONG).emit()),
        ("the same in a fragment", FIRST4._replace(protocol=255, payload=LONG).emit()),
        ("second fragment within the header", LATER4._replace(fragment_offset=72).emit()),
        ("second fragment within the header, v6", FROM6._replace(extensions=(fragment6(9),), payload=LONG).emit()),
        ("half a fragment header", FROM6._replace(protocol=44, payload=bytes(7)).emit()),
        ("TSMP in fragments", FIRST4._replace(protocol=99, payload=LONG).emit()),
        ("TSMP in fragments, v6", FIRST6._replace(protocol=99, payload=LONG).emit()),
    ],
)
def test_what_cannot_be_read(name: str, packet: bytes) -> None:
    assert look(packet)[0] == UNKNOWN, name


@pytest.mark.parametrize(("protocol", "needed"), HEADERS)
@pytest.mark.parametrize("ip", [FROM4, FIRST4, FROM6, FIRST6])
def test_a_header_must_be_whole(ip: IP, protocol: int, needed: int) -> None:
    if protocol == 99 and ip.is_fragment:
        return
    whole = ip._replace(protocol=protocol, payload=bytes(needed)).emit()
    short = ip._replace(protocol=protocol, payload=bytes(needed - 1)).emit()
    assert look(whole)[0] == protocol
    assert look(short)[0] == UNKNOWN
    assert look(padded(short, 12))[0] == UNKNOWN


@given(packets(), st.integers(0, 20))
def test_whole_packets_are_seen_as_they_are(packet: tuple[IP, TCP | UDP | ICMP | bytes], padding: int) -> None:
    data = emit(*packet)
    ip, inner = packet
    protocol, start, source, destination = look(data + bytes(padding))
    assert (source, destination) == (ip.source, ip.destination)
    assert data[start:] == (inner if isinstance(inner, bytes) else inner.emit(source, destination))
    assert protocol == data[9 if isinstance(ip, IPv4) else 6]

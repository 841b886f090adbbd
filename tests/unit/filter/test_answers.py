# SPDX-License-Identifier: BSD-3-Clause
"""ICMP for the container: what is said, of what, and when there must be silence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.filter.cases import PEER4, PEER6, SELF4, SELF6
from tests.unit.packets import intact
from ts4nsnet.filter import answers
from ts4nsnet.packet import ICMP, IP, SYN, TCP, UDP, Extension, IPv4, IPv6, carry, parse_ip

OUT4, OUT6 = IPv4(SELF4, PEER4, 0, identification=7), IPv6(SELF6, PEER6, 0)
SERVICE4, SERVICE6 = bytes([100, 100, 100, 100]), bytes.fromhex("fd7a115ca1e00000 0000000000000053")
CONNECT = TCP(40000, 80, 1, flags=SYN)
FRAGMENT6 = (Extension(44, bytes.fromhex("00 0050 00000007")),)  # at 80 bytes


def read(answer: bytes | None) -> tuple[IP, ICMP]:
    assert answer is not None
    assert intact(answer)
    ip = parse_ip(answer)
    assert ip.protocol == (1 if isinstance(ip, IPv4) else 58)
    return ip, ICMP.parse(ip.payload)


@pytest.mark.parametrize(
    ("ip", "inner"),
    [
        (OUT4, CONNECT),
        (OUT4, UDP(5000, 53, b"name")),
        (OUT4, ICMP(8, 0, b"\0\1\0\1", b"ping")),
        (OUT4._replace(options=b"\1" * 8), CONNECT),
        (OUT4._replace(flags=1), CONNECT),
        (OUT4._replace(destination=bytes([240, 0, 0, 1])), CONNECT),
        (OUT6, CONNECT),
        (OUT6, UDP(5000, 53, b"name")),
        (OUT6, ICMP(128, 0, b"\0\1\0\1", b"ping")),
        (OUT6._replace(extensions=(Extension(60, bytes(7)),)), CONNECT),
    ],
)
def test_what_may_not_go_on_is_refused(ip: IP, inner: TCP | UDP | ICMP) -> None:
    packet = carry(ip, inner)
    answer, message = read(answers.refusal(packet + b"padding"))
    assert (answer.source, answer.destination) == (SERVICE4 if isinstance(ip, IPv4) else SERVICE6, ip.source)
    assert (message.type, message.code) == ((3, 13) if isinstance(ip, IPv4) else (1, 1))
    assert message.rest == bytes(4)
    assert message.payload == packet
    assert answers.refusal(memoryview(packet)) == answers.refusal(packet)


@pytest.mark.parametrize("flags", [0, 2])
def test_too_big_says_what_fits(flags: int) -> None:
    packet = carry(OUT4._replace(flags=flags), UDP(1, 2, bytes(3000)))
    answer, message = read(answers.too_big(packet, 1280))
    assert (answer.source, answer.destination) == (SERVICE4, SELF4)
    assert (message.type, message.code, message.rest) == (3, 4, bytes.fromhex("0000 0500"))
    assert packet.startswith(message.payload)
    answer, message = read(answers.too_big(carry(OUT6, UDP(1, 2, bytes(3000))), 1420))
    assert (answer.source, answer.destination) == (SERVICE6, SELF6)
    assert (message.type, message.code, message.rest) == (2, 0, bytes.fromhex("0000 058c"))


@pytest.mark.parametrize(("ip", "size"), [(OUT4, 576), (OUT6, 1280)])
def test_as_much_is_quoted_as_is_usual(ip: IP, size: int) -> None:
    packet = carry(ip, UDP(1, 2, bytes(range(250)) * 10))
    for answer in (answers.refusal(packet), answers.too_big(packet, 1280)):
        assert answer is not None
        assert len(answer) == size
        assert packet.startswith(read(answer)[1].payload)


@pytest.mark.parametrize(
    ("name", "packet"),
    [
        ("no packet", b"\x45"),
        ("an error", carry(OUT4, ICMP(3, 1))),
        ("source quench", carry(OUT4, ICMP(4, 0))),
        ("redirect", carry(OUT4, ICMP(5, 0))),
        ("time exceeded", carry(OUT4, ICMP(11, 0))),
        ("bad parameter", carry(OUT4, ICMP(12, 0))),
        ("ICMP too short to tell", OUT4._replace(protocol=1).emit()),
        ("an error, IPv6", carry(OUT6, ICMP(1, 0))),
        ("any error, IPv6", carry(OUT6, ICMP(127, 0))),
        ("an error behind options, IPv6", carry(OUT6._replace(extensions=(Extension(60, bytes(7)),)), ICMP(2, 0))),
        ("redirect, IPv6", carry(OUT6, ICMP(137, 0))),
        ("later fragment", OUT4._replace(protocol=17, payload=bytes(80), fragment_offset=80).emit()),
        ("later fragment, IPv6", OUT6._replace(protocol=17, payload=bytes(80), extensions=FRAGMENT6).emit()),
        ("to many", carry(OUT4._replace(destination=bytes([224, 0, 0, 251])), UDP(1, 2))),
        ("to many, the last", carry(OUT4._replace(destination=bytes([239, 255, 255, 255])), UDP(1, 2))),
        ("to all", carry(OUT4._replace(destination=bytes([255] * 4)), UDP(1, 2))),
        ("to many, IPv6", carry(OUT6._replace(destination=b"\xff\2" + bytes(14)), UDP(1, 2))),
        ("from nobody", carry(OUT4._replace(source=bytes(4)), UDP(68, 67))),
        ("from many", carry(OUT4._replace(source=bytes([224, 0, 0, 1])), UDP(1, 2))),
        ("from all", carry(OUT4._replace(source=bytes([255] * 4)), UDP(1, 2))),
        ("from loopback", carry(OUT4._replace(source=bytes([127, 0, 0, 1])), UDP(1, 2))),
        ("from nobody, IPv6", carry(OUT6._replace(source=bytes(16)), UDP(1, 2))),
        ("from many, IPv6", carry(OUT6._replace(source=b"\xff\2" + bytes(14)), UDP(1, 2))),
        ("from loopback, IPv6", carry(OUT6._replace(source=bytes(15) + b"\1"), UDP(1, 2))),
    ],
)
def test_silence(name: str, packet: bytes) -> None:
    assert answers.refusal(packet) is None, name
    assert answers.too_big(packet, 1280) is None, name


@given(st.binary(max_size=64), st.binary(min_size=4, max_size=4))
def test_a_ping_is_answered(data: bytes, rest: bytes) -> None:
    for ip, request, reply in ((IPv4(SELF4, SERVICE4, 0, ttl=1), 8, 0), (IPv6(SELF6, SERVICE6, 0, ttl=1), 128, 129)):
        answer, message = read(answers.echo_reply(carry(ip, ICMP(request, 0, rest, data))))
        assert (answer.source, answer.destination, answer.ttl) == (ip.destination, ip.source, 64)
        assert message == ICMP(reply, 0, rest, data)


def test_options_do_not_come_back() -> None:
    answer, _ = read(answers.echo_reply(carry(OUT4._replace(options=b"\7\7\4" + bytes(5)), ICMP(8, 0))))
    assert answer.header_len == 20
    hops = (Extension(0, bytes(7)),)
    answer, _ = read(answers.echo_reply(carry(OUT6._replace(extensions=hops), ICMP(128, 0))))
    assert answer.header_len == 40


@pytest.mark.parametrize(
    ("name", "packet"),
    [
        ("no packet", b""),
        ("an answer", carry(OUT4, ICMP(0, 0))),
        ("of IPv6", carry(OUT4, ICMP(128, 0))),
        ("with a code", carry(OUT4, ICMP(8, 1))),
        ("UDP", carry(OUT4, UDP(0x0800, 0))),
        ("a first fragment", carry(OUT4._replace(flags=1), ICMP(8, 0))),
        ("cut", OUT4._replace(protocol=1, payload=b"\x08\0\0\0\0\0\0").emit()),
    ],
)
def test_what_is_no_ping_is_not_answered(name: str, packet: bytes) -> None:
    assert answers.echo_reply(packet) is None, name

# SPDX-License-Identifier: BSD-3-Clause
"""Messages between nodes inside the tunnel."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.filter.cases import OTHER4, PEER4, PEER6, SELF4, SELF6, rule
from tests.unit.packets import intact
from ts4nsnet.filter import Filter, Verdict, tsmp
from ts4nsnet.keys import PublicKey
from ts4nsnet.packet import SYN, TCP, UDP, IPv4, IPv6, Malformed, carry

DATA = bytes(range(1, 9))
KEY = PublicKey(bytes(range(32)))
LOCAL_OF = {address: [ip_network(address)] for address in (SELF4, PEER4)}

# the ping is one that tailscale sent
CASES: list[tuple[tsmp.Message, str]] = [
    (tsmp.Ping(DATA), "70 0102030405060708"),
    (tsmp.Pong(DATA, 0x1234), "6f 0102030405060708 1234"),
    (tsmp.Reject(6, tsmp.Reason.ACL, 40000, 80), "21 06 41 9c40 0050"),
    (tsmp.Reject(17, tsmp.Reason.FORWARDING_OFF, 1, 2, maybe_broken=True), "21 11 46 0001 0002 01"),
    (tsmp.DiscoKey(KEY), "61" + bytes(range(32)).hex()),
]


@pytest.mark.parametrize(("message", "body"), CASES)
def test_value_becomes_bytes(message: tsmp.Message, body: str) -> None:
    for source, destination, header in ((PEER4, SELF4, 20), (PEER6, SELF6, 40)):
        packet = tsmp.emit(message, source, destination)
        assert packet[header:] == bytes.fromhex(body)
        assert packet[9 if header == 20 else 6] == 99
        assert intact(packet)


@pytest.mark.parametrize(("message", "body"), CASES)
def test_bytes_become_value(message: tsmp.Message, body: str) -> None:
    for ip in (IPv4(PEER4, SELF4, 99), IPv6(PEER6, SELF6, 99)):
        packet = ip._replace(payload=bytes.fromhex(body)).emit()
        assert tsmp.parse(packet) == (ip.source, ip.destination, message)
        assert tsmp.parse(memoryview(packet + b"padding")) == (ip.source, ip.destination, message)


def test_the_ping_of_a_tailscale_node() -> None:
    packet = bytes.fromhex("4500001d000000004063b1fb6440000164400002700102030405060708")
    assert tsmp.parse(packet) == (SELF4, PEER4, tsmp.Ping(DATA))
    assert tsmp.emit(tsmp.Ping(DATA), SELF4, PEER4) == packet


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("6f 0102030405060708", tsmp.Pong(DATA)),  # before there was a PeerAPI
        ("6f 0102030405060708 12", tsmp.Pong(DATA)),
        ("21 06 58 0001 0002", tsmp.Reject(6, ord("X"), 1, 2)),  # a reason that came later
        ("21 06 41 0001 0002 fe", tsmp.Reject(6, ord("A"), 1, 2)),
        ("21 06 41 0001 0002 03 ffff", tsmp.Reject(6, ord("A"), 1, 2, maybe_broken=True)),
        ("70 0102030405060708 ff", tsmp.Ping(DATA)),
    ],
)
def test_older_and_newer_forms(body: str, message: tsmp.Message) -> None:
    assert tsmp.parse(IPv4(PEER4, SELF4, 99, bytes.fromhex(body)).emit()).message == message


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        IPv4(PEER4, SELF4, 99).emit(),
        IPv4(PEER4, SELF4, 99, b"p" + DATA[:7]).emit(),
        IPv4(PEER4, SELF4, 99, b"o" + DATA[:7]).emit(),
        IPv4(PEER4, SELF4, 99, b"!\6A\0\1\0").emit(),
        IPv4(PEER4, SELF4, 99, b"a" + bytes(31)).emit(),
        IPv4(PEER4, SELF4, 99, b"z" + bytes(40)).emit(),
        IPv4(PEER4, SELF4, 98, b"p" + DATA).emit(),
        IPv4(PEER4, SELF4, 99, b"p" + DATA, flags=1).emit(),
        IPv4(PEER4, SELF4, 99, b"p" + DATA, fragment_offset=80).emit(),
    ],
)
def test_what_is_no_message(packet: bytes) -> None:
    with pytest.raises(Malformed, match="want"):
        tsmp.parse(packet)


@given(st.binary(min_size=8, max_size=8), st.integers(0, 65535), st.integers(0, 65535), st.booleans())
def test_any_message_is_read_as_it_was_written(data: bytes, one: int, other: int, flag: bool) -> None:
    for message in (tsmp.Ping(data), tsmp.Pong(data, one), tsmp.Reject(6, data[0], one, other, flag)):
        assert tsmp.parse(tsmp.emit(message, PEER4, SELF4)).message == message


@pytest.mark.parametrize(("source", "destination"), [(PEER4, SELF4), (PEER6, SELF6)])
@pytest.mark.parametrize("flags", [0, 1])
def test_a_refused_connection_is_told_to_its_sender(source: bytes, destination: bytes, flags: int) -> None:
    ip = IPv4(source, destination, 0, flags=flags) if len(source) == 4 else IPv6(source, destination, 0)
    packet = carry(ip, TCP(40000, 81, 1, flags=SYN))
    for verdict, reason in ((Verdict.NO_RULE, ord("A")), (Verdict.SHIELDS_UP, ord("S"))):
        answer = tsmp.reject(packet, verdict)
        assert answer is not None
        assert intact(answer)
        assert tsmp.parse(answer) == (destination, source, tsmp.Reject(6, reason, 40000, 81))
    for verdict in set(Verdict) - {Verdict.NO_RULE, Verdict.SHIELDS_UP}:
        assert tsmp.reject(packet, verdict) is None


def test_only_connections_are_told_of() -> None:
    assert tsmp.reject(carry(IPv4(PEER4, SELF4, 0), UDP(40000, 81)), Verdict.NO_RULE) is None
    assert tsmp.reject(IPv4(PEER4, SELF4, 99, b"p" + DATA).emit(), Verdict.NO_RULE) is None
    assert tsmp.reject(b"", Verdict.NO_RULE) is None


def test_a_reject_is_a_message_to_the_filter_of_its_receiver() -> None:
    refusing, asking = Filter(), Filter()
    refusing.set_rules([rule("100.64.0.3", "100.64.0.1")], LOCAL_OF[SELF4])
    asking.set_rules([], LOCAL_OF[PEER4])
    packet = carry(IPv4(PEER4, SELF4, 0), TCP(40000, 81, 1, flags=SYN))
    verdict = refusing.inbound(packet)
    answer = tsmp.reject(packet, verdict)
    assert verdict is Verdict.NO_RULE
    assert answer is not None
    assert asking.inbound(answer) is Verdict.TSMP
    assert refusing.inbound(carry(IPv4(OTHER4, SELF4, 0), TCP(1, 81, 1, flags=SYN))) is Verdict.ACCEPT

# SPDX-License-Identifier: BSD-3-Clause
"""The packet filter against bytes from peers and containers: mutants of packets, and anything. Each has a fate."""

from contextlib import suppress
from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.filter.cases import LOCAL, PEER4, PEER6, SELF4, SELF6, emit, packets, rule
from ts4nsnet.filter import Filter, Verdict, answers, tsmp
from ts4nsnet.keys import PublicKey
from ts4nsnet.packet import ICMP, SYN, TCP, UDP, Extension, IPv4, IPv6, Malformed, carry, clamp_mss

RULES = [rule("*", "*", (80, 443)), rule("*", "*", (0, 65535), *range(256))]
FRAGMENT = (Extension(44, bytes.fromhex("00 0051 00000007")),)
VALID = [
    carry(IPv4(PEER4, SELF4, 0, options=b"\1" * 4), TCP(1, 80, 3, flags=SYN, options=b"\2\4\xff\xff\1\3\3\7")),
    carry(IPv6(PEER6, SELF6, 0, extensions=FRAGMENT), UDP(1, 80, b"data")),
    carry(IPv4(PEER4, SELF4, 0), ICMP(8, 0, payload=b"data")),
    carry(IPv6(PEER6, SELF6, 0, extensions=(Extension(0, bytes(7)),)), ICMP(128, 0, payload=b"data")),
    IPv4(PEER4, SELF4, 17, bytes(90), fragment_offset=80).emit(),
    tsmp.emit(tsmp.Ping(b"12345678"), PEER4, SELF4),
    tsmp.emit(tsmp.Pong(b"12345678", 9), PEER6, SELF6),
    tsmp.emit(tsmp.Reject(6, 65, 1, 2, maybe_broken=True), PEER4, SELF4),
    tsmp.emit(tsmp.DiscoKey(PublicKey(bytes(32))), PEER4, SELF4),
]


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    """A packet with up to four bytes changed, and its end cut or grown."""
    data = bytearray(draw(st.sampled_from(VALID) | packets().map(lambda each: emit(*each))))
    for _ in range(draw(st.integers(0, 4))):
        # more often in the headers, which are what is read
        at = draw(st.integers(0, len(data) - 1) | st.integers(0, min(59, len(data) - 1)))
        data[at] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)) | st.just(len(data)))]) + draw(st.binary(max_size=9))


ANYTHING = mutants() | st.binary(max_size=80) | st.binary(max_size=80).map(lambda data: b"\x45\0\0\x28" + data)


def made() -> Filter:
    packet_filter = Filter()
    packet_filter.set_rules(RULES, LOCAL)
    return packet_filter


@given(st.lists(ANYTHING, max_size=10))
def test_every_packet_has_a_fate(passing: list[bytes]) -> None:
    packet_filter, other = made(), made()
    for packet in passing:
        verdict = packet_filter.inbound(packet)
        assert other.inbound(memoryview(packet)) is verdict
        if verdict in {Verdict.ACCEPT, Verdict.TSMP}:
            destination = ip_address(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
            assert any(destination in prefix for prefix in LOCAL)
        leaving = packet_filter.outbound(packet)
        assert other.outbound(memoryview(packet)) is leaving
        assert leaving not in {Verdict.TSMP, Verdict.NOT_LOCAL, Verdict.NO_RULE, Verdict.SHIELDS_UP}
        assert tsmp.reject(packet, verdict) is None or verdict is Verdict.NO_RULE


@given(ANYTHING)
def test_an_answer_is_not_answered(packet: bytes) -> None:
    for answer in (answers.refusal(packet), answers.too_big(packet, 1280)):
        if answer is not None:
            assert answers.refusal(answer) is None
            assert answers.too_big(answer, 1280) is None
            assert answers.echo_reply(answer) is None
    pong = answers.echo_reply(packet)
    assert pong is None or answers.echo_reply(pong) is None
    assert len(clamp_mss(packet, 1280)) == len(packet)


@given(ANYTHING)
def test_a_message_is_read_or_malformed(packet: bytes) -> None:
    with suppress(Malformed):
        received = tsmp.parse(packet)
        emitted = tsmp.emit(received.message, received.source, received.destination)
        assert tsmp.parse(emitted) == received

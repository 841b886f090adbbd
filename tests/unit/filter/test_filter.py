# SPDX-License-Identifier: BSD-3-Clause
"""A packet's fate: the cases of the notes, and any packets under any rules, against rules one by one."""

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.filter.cases import (
    LOCAL,
    OTHER4,
    PEER4,
    PEER6,
    SELF4,
    SELF6,
    SUBNET4,
    emit,
    packets,
    rule,
    rules,
)
from tests.unit.filter.oracle import Inner, Oracle
from ts4nsnet.filter import Filter, Range, Rule, Verdict, parse_ranges
from ts4nsnet.filter.rules import Prefix
from ts4nsnet.packet import ACK, ICMP, IP, RST, SYN, TCP, UDP, Extension, IPv4, IPv6, carry

IN4, OUT4 = IPv4(PEER4, SELF4, 0), IPv4(SELF4, PEER4, 0)
IN6, OUT6 = IPv6(PEER6, SELF6, 0), IPv6(SELF6, PEER6, 0)
LINK_LOCAL, METADATA = bytes([169, 254, 1, 1]), bytes([169, 254, 169, 254])
HOP_BY_HOP = (Extension(0, bytes(7)),)
WEB = [rule("100.64.0.2", "100.64.0.1", (80, 80), 6)]
WEB6 = [rule("fd7a:115c:a1e0::2", "fd7a:115c:a1e0::1", (80, 80), 6)]
SSH = [rule("100.64.0.2", "100.64.0.1", (22, 22), 6)]
EVERYTHING = [rule("*", "*")]
GRE = [rule("100.64.0.2", "100.64.0.1", (0, 65535), 47)]
MESSAGE = IN4._replace(protocol=99, payload=b"p" + bytes(8))
LATER = IN4._replace(protocol=6, payload=bytes(80))


def syn(port: int, flags: int = SYN) -> TCP:
    return TCP(40000, port, 1, flags=flags)


def made(
    all_rules: Sequence[Rule],
    sources_with: Mapping[str, Sequence[Range]] | None = None,
    jailed: Sequence[Prefix] = (),
) -> Filter:
    packet_filter = Filter()
    packet_filter.set_rules(all_rules, LOCAL, sources_with, jailed)
    return packet_filter


@pytest.mark.parametrize(
    ("name", "all_rules", "packet", "verdict"),
    [
        ("1, the port of the rule", WEB, carry(IN4, syn(80)), Verdict.ACCEPT),
        ("1, IPv6", WEB6, carry(IN6, syn(80)), Verdict.ACCEPT),
        ("1, another port", WEB, carry(IN4, syn(81)), Verdict.NO_RULE),
        ("1, IPv6, another port", WEB6, carry(IN6, syn(81)), Verdict.NO_RULE),
        ("1, another sender", WEB, carry(IN4._replace(source=OTHER4), syn(80)), Verdict.NO_RULE),
        ("1, another protocol", WEB, carry(IN4, UDP(40000, 80)), Verdict.NO_RULE),
        ("1, begins with other flags, too", WEB, carry(IN4, syn(81, SYN | 0xC0)), Verdict.NO_RULE),
        ("1, behind options", WEB, carry(IN4._replace(options=b"\1" * 4), syn(81)), Verdict.NO_RULE),
        ("1, first fragment", WEB, carry(IN4._replace(flags=1), syn(81)), Verdict.NO_RULE),
        ("2, TCP of a connection", [], carry(IN4, syn(81, ACK)), Verdict.ACCEPT),
        ("2, its beginning, answered", [], carry(IN4, syn(81, SYN | ACK)), Verdict.ACCEPT),
        ("2, its end", [], carry(IN6, syn(81, RST)), Verdict.ACCEPT),
        ("5, ping where any port is open", SSH, carry(IN4, ICMP(8, 0)), Verdict.ACCEPT),
        ("5, ping where none is", [], carry(IN4, ICMP(8, 0)), Verdict.NO_RULE),
        (
            "5, ping of another address of ours",
            SSH,
            carry(IN4._replace(destination=SUBNET4), ICMP(8, 0)),
            Verdict.NO_RULE,
        ),
        ("echo reply", [], carry(IN4, ICMP(0, 0)), Verdict.ACCEPT),
        ("echo reply, IPv6", [], carry(IN6, ICMP(129, 0)), Verdict.ACCEPT),
        ("echo reply with a code", [], carry(IN4, ICMP(0, 1)), Verdict.NO_RULE),
        ("unreachable", [], carry(IN4, ICMP(3, 13)), Verdict.ACCEPT),
        ("bad parameter", [], carry(IN4, ICMP(12, 0)), Verdict.ACCEPT),
        ("redirect", [], carry(IN4, ICMP(5, 0)), Verdict.NO_RULE),
        ("too big, IPv6", [], carry(IN6, ICMP(2, 0)), Verdict.ACCEPT),
        ("6, GRE under rules that do not name it", EVERYTHING, IN4._replace(protocol=47).emit(), Verdict.NO_RULE),
        ("6, GRE under one that does", GRE, IN4._replace(protocol=47).emit(), Verdict.ACCEPT),
        ("6, but names ports", [rule("*", "*", (1, 65535), 47)], IN4._replace(protocol=47).emit(), Verdict.NO_RULE),
        ("7, not to us", EVERYTHING, carry(IN4._replace(destination=OTHER4), syn(1, ACK)), Verdict.NOT_LOCAL),
        ("7, a subnet of ours", EVERYTHING, carry(IN4._replace(destination=SUBNET4), syn(1)), Verdict.ACCEPT),
        ("8, second fragment at 72", EVERYTHING, LATER._replace(fragment_offset=72).emit(), Verdict.UNKNOWN),
        ("8, second fragment at 80", [], LATER._replace(fragment_offset=80).emit(), Verdict.ACCEPT),
        (
            "8, second fragment, not to us",
            EVERYTHING,
            LATER._replace(fragment_offset=80, destination=OTHER4).emit(),
            Verdict.NOT_LOCAL,
        ),
        (
            "9, 12 bytes of TCP",
            EVERYTHING,
            IN4._replace(protocol=6, payload=bytes(12), flags=1).emit(),
            Verdict.UNKNOWN,
        ),
        (
            "10, to a link-local address",
            EVERYTHING,
            carry(IN4._replace(destination=LINK_LOCAL), syn(1)),
            Verdict.LINK_LOCAL,
        ),
        ("10, to the metadata service", EVERYTHING, carry(IN4._replace(destination=METADATA), syn(1)), Verdict.ACCEPT),
        (
            "to a multicast address",
            EVERYTHING,
            carry(IN4._replace(destination=b"\xe0\0\0\1"), UDP(1, 2)),
            Verdict.MULTICAST,
        ),
        ("13, hop-by-hop options", EVERYTHING, carry(IN6._replace(extensions=HOP_BY_HOP), syn(1)), Verdict.UNKNOWN),
        ("14, nothing is open without a rule", [], carry(IN4, syn(40000)), Verdict.NO_RULE),
        ("TSMP", [], MESSAGE.emit(), Verdict.TSMP),
        ("TSMP, not to us", [], MESSAGE._replace(destination=OTHER4).emit(), Verdict.NOT_LOCAL),
        ("19 bytes", EVERYTHING, carry(IN4, syn(80))[:19], Verdict.TOO_SHORT),
    ],
)
def test_inbound(name: str, all_rules: list[Rule], packet: bytes, verdict: Verdict) -> None:
    assert made(all_rules).inbound(packet) is verdict, name
    assert made(all_rules).inbound(memoryview(packet)) is verdict, name


@pytest.mark.parametrize(
    ("name", "packet", "verdict"),
    [
        ("TCP", carry(OUT4, syn(80)), Verdict.ACCEPT),
        ("IPv6", carry(OUT6, syn(80)), Verdict.ACCEPT),
        ("to anywhere", carry(OUT4._replace(destination=bytes([1, 1, 1, 1])), syn(80)), Verdict.ACCEPT),
        ("10, to a link-local address", carry(OUT4._replace(destination=LINK_LOCAL), UDP(1, 2)), Verdict.LINK_LOCAL),
        ("10, to the metadata service", carry(OUT4._replace(destination=METADATA), UDP(1, 2)), Verdict.ACCEPT),
        ("link-local, IPv6", carry(OUT6._replace(destination=b"\xfe\xbf" + bytes(14)), UDP(1, 2)), Verdict.LINK_LOCAL),
        ("multicast", carry(OUT4._replace(destination=b"\xef\xff\xff\xff"), UDP(1, 2)), Verdict.MULTICAST),
        ("multicast, IPv6", carry(OUT6._replace(destination=b"\xff\x02" + bytes(14)), UDP(1, 2)), Verdict.MULTICAST),
        ("broadcast", carry(OUT4._replace(destination=bytes([255] * 4)), UDP(1, 2)), Verdict.ACCEPT),
        ("later fragment", OUT4._replace(protocol=17, payload=bytes(9), fragment_offset=80).emit(), Verdict.ACCEPT),
        ("fragment that hides something", OUT4._replace(protocol=6, payload=bytes(12)).emit(), Verdict.UNKNOWN),
        ("hop-by-hop options", carry(OUT6._replace(extensions=HOP_BY_HOP), syn(1)), Verdict.UNKNOWN),
        ("TSMP of the container", OUT4._replace(protocol=99, payload=bytes(9)).emit(), Verdict.FORGED),
        ("nothing", b"", Verdict.TOO_SHORT),
    ],
)
def test_outbound(name: str, packet: bytes, verdict: Verdict) -> None:
    assert made([]).outbound(packet) is verdict, name
    assert Filter().outbound(packet) is verdict, name


def test_nothing_comes_in_before_there_are_rules() -> None:
    packet_filter = Filter()
    assert packet_filter.outbound(carry(OUT4, UDP(5000, 53))) is Verdict.ACCEPT
    for packet in (carry(IN4, syn(80, ACK)), carry(IN6, ICMP(129, 0)), carry(IN4, UDP(53, 5000)), MESSAGE.emit()):
        assert packet_filter.inbound(packet) is Verdict.NOT_LOCAL
    assert packet_filter.inbound(LATER._replace(fragment_offset=80).emit()) is Verdict.NOT_LOCAL
    assert packet_filter.statistics().flows == 1


@pytest.mark.parametrize(("leaves", "comes"), [(OUT4, IN4), (OUT6, IN6)])
def test_answers_to_udp_come_in(leaves: IP, comes: IP) -> None:
    """3 of the notes."""
    packet_filter = made([])
    packet_filter.outbound(carry(leaves, UDP(5000, 53)))
    assert packet_filter.inbound(carry(comes, UDP(53, 5000))) is Verdict.ACCEPT
    assert packet_filter.inbound(carry(comes, UDP(54, 5000))) is Verdict.NO_RULE
    assert packet_filter.inbound(carry(comes, UDP(53, 5001))) is Verdict.NO_RULE


def test_answers_to_sctp_come_in() -> None:
    packet_filter = made([])
    ports = bytes.fromhex("0101 0202")
    packet_filter.outbound(OUT4._replace(protocol=132, payload=ports + bytes(8)).emit())
    answer = IN4._replace(protocol=132, payload=ports[2:] + ports[:2] + bytes(8))
    assert packet_filter.inbound(answer.emit()) is Verdict.ACCEPT
    assert packet_filter.inbound(answer._replace(protocol=17).emit()) is Verdict.NO_RULE
    assert packet_filter.inbound(answer._replace(payload=ports + bytes(8)).emit()) is Verdict.NO_RULE


def test_a_flow_outlives_five_hundred_others() -> None:
    """4 of the notes; tailscale would have forgotten it."""
    packet_filter = made([])
    packet_filter.outbound(carry(OUT4, UDP(5000, 53)))
    for port in range(1, 513):
        packet_filter.outbound(carry(OUT4, UDP(port, 99)))
    assert packet_filter.inbound(carry(IN4, UDP(53, 5000))) is Verdict.ACCEPT
    assert packet_filter.statistics().flows == 513


def test_flows_stay_when_rules_change() -> None:
    """11 of the notes."""
    packet_filter = made(WEB)
    packet_filter.outbound(carry(OUT4, UDP(5000, 53)))
    packet_filter.set_rules(SSH, LOCAL)
    assert packet_filter.inbound(carry(IN4, UDP(53, 5000))) is Verdict.ACCEPT
    assert packet_filter.inbound(carry(IN4, syn(80))) is Verdict.NO_RULE
    assert packet_filter.inbound(carry(IN4, syn(22))) is Verdict.ACCEPT


def test_no_rule_counts_while_shields_are_up() -> None:
    packet_filter = made(EVERYTHING)
    assert packet_filter.inbound(carry(IN4, UDP(53, 5000))) is Verdict.ACCEPT
    packet_filter.outbound(carry(OUT4, UDP(5000, 53)))  # so a rule began this flow
    packet_filter.set_rules(EVERYTHING, LOCAL, shields_up=True)
    assert packet_filter.inbound(carry(IN4, UDP(53, 5000))) is Verdict.SHIELDS_UP
    assert packet_filter.inbound(carry(IN4, syn(80))) is Verdict.SHIELDS_UP
    packet_filter.outbound(carry(OUT4, UDP(5000, 53)))  # and now the container
    packet_filter.set_rules([], LOCAL, shields_up=True)
    assert packet_filter.inbound(carry(IN4, UDP(53, 5000))) is Verdict.ACCEPT
    packet_filter.set_rules([], LOCAL)
    assert packet_filter.inbound(carry(IN4, UDP(53, 5000))) is Verdict.ACCEPT
    assert packet_filter.inbound(carry(IN4, syn(80))) is Verdict.NO_RULE


def test_no_rule_counts_for_jailed_peers() -> None:
    """12 of the notes."""
    packet_filter = made(EVERYTHING, jailed=[ip_network("100.64.0.2/32"), ip_network("fd7a:115c:a1e0::2/128")])
    for comes, ping in ((IN4, ICMP(8, 0)), (IN6, ICMP(128, 0))):
        assert packet_filter.inbound(carry(comes, syn(80))) is Verdict.NO_RULE
        assert packet_filter.inbound(carry(comes, ping)) is Verdict.NO_RULE
        assert packet_filter.inbound(carry(comes, syn(80, ACK))) is Verdict.ACCEPT
    assert packet_filter.inbound(carry(IN4._replace(source=OTHER4), syn(80))) is Verdict.ACCEPT
    packet_filter.outbound(carry(OUT4, UDP(5000, 53)))
    assert packet_filter.inbound(carry(IN4, UDP(53, 5000))) is Verdict.ACCEPT


def test_a_capability_is_a_source() -> None:
    capable = Rule((), ("admin",), WEB[0].destinations, (6, 47))
    whole = Rule((), ("admin",), GRE[0].destinations, (47,))
    packet_filter = made([capable, whole], sources_with={"admin": parse_ranges("100.64.0.2")})
    assert packet_filter.inbound(carry(IN4, syn(80))) is Verdict.ACCEPT
    assert packet_filter.inbound(carry(IN4._replace(source=OTHER4), syn(80))) is Verdict.NO_RULE
    assert packet_filter.inbound(IN4._replace(protocol=47).emit()) is Verdict.ACCEPT
    assert packet_filter.inbound(carry(IN4, ICMP(8, 0))) is Verdict.ACCEPT
    assert packet_filter.inbound(carry(IN4._replace(destination=SUBNET4), ICMP(8, 0))) is Verdict.NO_RULE
    packet_filter.set_rules([capable, whole], LOCAL)
    assert packet_filter.inbound(carry(IN4, syn(80))) is Verdict.NO_RULE


def test_the_size_of_a_filter_can_be_asked() -> None:
    assert made([]).statistics().clauses == 0
    assert made([*WEB, *EVERYTHING, *WEB6]).statistics().clauses == 4


WITH = {"a": parse_ranges("100.64.0.3"), "b": parse_ranges("fd7a:115c:a1e0::3")}
JAILED = st.sampled_from([[], [], [ip_network("100.64.0.2/31")], [ip_network("::/0"), ip_network("100.64.0.3/32")]])


@given(st.lists(rules(), max_size=4), st.lists(st.tuples(st.booleans(), packets()), min_size=1, max_size=5), JAILED)
def test_any_packets_under_any_rules(
    all_rules: list[Rule], passing: list[tuple[bool, tuple[IP, Inner]]], jailed: list[Prefix]
) -> None:
    packet_filter, oracle = Filter(), Oracle(all_rules, LOCAL, WITH, jailed)
    packet_filter.set_rules(all_rules, LOCAL, WITH, jailed)
    for leaves, (ip, inner) in passing:
        data = emit(ip, inner)
        if leaves:
            assert packet_filter.outbound(data) is oracle.outbound(ip, inner)
            mirrored = ip._replace(source=ip.destination, destination=ip.source)
            answer = UDP(inner.destination_port, inner.source_port) if isinstance(inner, UDP) else inner
            assert packet_filter.inbound(emit(mirrored, answer)) is oracle.inbound(mirrored, answer)
        assert packet_filter.inbound(data) is oracle.inbound(ip, inner)

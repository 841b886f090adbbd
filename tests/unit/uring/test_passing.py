# SPDX-License-Identifier: BSD-3-Clause
"""What the pipeline lets pass, what it answers itself, and what it shows to the node."""

from ipaddress import ip_network

import pytest

from tests.unit.packets import frame, intact
from tests.unit.uring.pipelines import Net, Node
from ts4nsnet.filter import answers, tsmp
from ts4nsnet.packet import ICMP, SYN, TCP, UDP, IPv4, IPv6, carry, parse_ip
from ts4nsnet.uring import Drop, LocalTraffic

ALICE, BOB, NOBODY = (bytes([10, 0, 0, host]) for host in (1, 2, 99))
ALICE6, BOB6, NOBODY6 = (bytes.fromhex("fd").ljust(15, b"\0") + bytes([host]) for host in (1, 2, 99))
MTU = 1280


def ip(source: bytes, destination: bytes) -> IPv4 | IPv6:
    return IPv4(source, destination, 0, flags=2) if len(source) == 4 else IPv6(source, destination, 0)


def udp(source: bytes, destination: bytes, size: int = 10, port: int = 2) -> bytes:
    return carry(ip(source, destination), UDP(1, port, bytes(size)))


def syn(source: bytes, destination: bytes, mss: int = 1240) -> bytes:
    return carry(ip(source, destination), TCP(1, 22, 7, flags=SYN, options=b"\2\4" + mss.to_bytes(2, "big")))


def pair() -> tuple[Net, Node, Node]:
    """Two nodes with a session."""
    net = Net("10.0.0.1/32 fd00::1/128", "10.0.0.2/32 fd00::2/128", mtu=MTU)
    alice, bob = net.nodes
    alice.seal(bob, b"")
    net.deliver()
    net.forget_traffic()
    return net, alice, bob


# --- out --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packet", [udp(ALICE, NOBODY), syn(ALICE, NOBODY)], ids=["udp", "tcp"])
def test_what_has_no_way_is_refused_with_a_reason(packet: bytes) -> None:
    _, alice, _ = pair()
    alice.read(frame(packet))
    (answer,) = alice.packets()
    assert intact(answer)
    inside = parse_ip(answer)
    assert (inside.source, inside.destination) == (answers.SERVICE_IPV4, ALICE)
    error = ICMP.parse(inside.payload)
    assert (error.type, error.code) == (3, 13)
    assert packet.startswith(bytes(error.payload)[:28])
    assert alice.unreachable == [NOBODY]
    assert alice.dropped() == {Drop.NO_ROUTE: 1}


def test_what_has_no_way_is_refused_in_ipv6() -> None:
    _, alice, _ = pair()
    alice.read(frame(udp(ALICE6, NOBODY6)))
    (answer,) = alice.packets()
    assert intact(answer)
    assert parse_ip(answer).source == answers.SERVICE_IPV6
    assert bytes(parse_ip(answer).payload[:2]) == bytes([1, 1])


@pytest.mark.parametrize(
    ("source", "destination", "kind"), [(ALICE, BOB, (3, 4)), (ALICE6, BOB6, (2, 0))], ids=["ipv4", "ipv6"]
)
def test_what_is_too_big_is_answered_with_the_mtu(source: bytes, destination: bytes, kind: tuple[int, int]) -> None:
    _, alice, _ = pair()
    alice.read(frame(udp(source, destination, 1300)))
    (answer,) = alice.packets()
    assert intact(answer)
    error = ICMP.parse(parse_ip(answer).payload)
    assert (error.type, error.code) == kind
    assert int.from_bytes(error.rest, "big") == MTU
    assert not alice.out
    assert alice.dropped() == {Drop.TOO_BIG: 1}


def test_connection_is_not_offered_longer_segments_than_the_path_takes() -> None:
    net, alice, bob = pair()
    alice.read(frame(syn(ALICE, BOB, 65_480)), frame(syn(ALICE, BOB, 500)))
    net.deliver()
    assert bob.packets() == [syn(ALICE, BOB, MTU - 40), syn(ALICE, BOB, 500)]


def test_what_a_path_carries_is_what_its_peers_connections_are_offered_and_told() -> None:
    net, alice, bob = pair()
    alice.widen(bob, 8920)
    alice.read(frame(syn(ALICE, BOB, 65_480)), frame(udp(ALICE, BOB, 8920 - 28)), frame(udp(ALICE, BOB, 8920 - 27)))
    net.deliver()
    assert bob.packets() == [syn(ALICE, BOB, 8920 - 40), udp(ALICE, BOB, 8920 - 28)]
    (answer,) = alice.packets()
    assert int.from_bytes(ICMP.parse(parse_ip(answer).payload).rest, "big") == 8920
    assert alice.dropped() == {Drop.TOO_BIG: 1}


def test_multicast_does_not_leave_and_is_not_answered() -> None:
    _, alice, _ = pair()
    alice.read(frame(udp(ALICE, bytes([224, 0, 0, 251]))), frame(udp(ALICE6, bytes.fromhex("ff02").ljust(16, b"\0"))))
    assert alice.packets() == []
    assert alice.dropped() == {Drop.FILTERED_OUT: 2}


def test_what_goes_to_nobody_here_or_comes_from_no_address_of_ours_is_refused_at_once() -> None:
    _, alice, _ = pair()
    link_local, believed = udp(ALICE, bytes([169, 254, 1, 1])), udp(bytes([10, 0, 2, 100]), BOB)
    alice.filter.set_rules([], [ip_network("10.0.0.1")])
    alice.read(frame(link_local), frame(believed))
    assert [ICMP.parse(parse_ip(answer).payload)[:2] for answer in alice.packets()] == [(3, 13), (3, 13)]
    assert [parse_ip(answer).destination for answer in alice.packets()] == [ALICE, bytes([10, 0, 2, 100])]
    assert not alice.out
    assert alice.dropped() == {Drop.FILTERED_OUT: 2}


# --- in ---------------------------------------------------------------------------------------------------------


def test_what_no_rule_allows_does_not_reach_the_container_and_a_connection_is_told() -> None:
    net, alice, bob = pair()
    bob.filter.set_rules([], [ip_network("10.0.0.2")])
    alice.read(frame(udp(ALICE, BOB)), frame(syn(ALICE, BOB)))
    net.deliver()
    assert bob.packets() == []
    assert bob.dropped() == {Drop.FILTERED_IN: 2}
    (message,) = alice.messages
    received = tsmp.parse(message)
    assert (received.source, received.message) == (BOB, tsmp.Reject(6, tsmp.Reason.ACL, 1, 22))
    assert alice.packets() == []


def test_what_the_container_asked_for_comes_in() -> None:
    net, alice, bob = pair()
    bob.filter.set_rules([], [ip_network("10.0.0.2")])
    bob.read(frame(carry(ip(BOB, ALICE), UDP(2, 1, b"?"))))
    net.deliver()
    alice.read(frame(udp(ALICE, BOB)))
    net.deliver()
    assert bob.packets() == [udp(ALICE, BOB)]


# --- for the node -------------------------------------------------------------------------------------------------


def test_packets_to_the_nodes_own_addresses_are_shown_to_it() -> None:
    _, alice, _ = pair()
    alice.pipeline.judge.local = LocalTraffic(frozenset({answers.SERVICE_IPV4}))
    ping = carry(ip(ALICE, answers.SERVICE_IPV4), ICMP(8, 0, bytes(4), b"ping"))
    alice.read(frame(ping))
    assert alice.local == [ping]
    assert alice.packets() == []
    assert alice.dropped() == {}


def test_questions_to_anybody_outside_of_the_tailnet_are_shown_to_the_node() -> None:
    net, alice, bob = pair()
    alice.pipeline.judge.local = LocalTraffic(names=True)
    outside = [udp(ALICE, NOBODY, port=53), udp(ALICE6, NOBODY6, port=53)]
    over_tcp = carry(ip(ALICE, NOBODY), TCP(1, 53, 7, flags=SYN))
    alice.read(*map(frame, (*outside, over_tcp, udp(ALICE, BOB, port=53))))
    net.deliver()
    assert alice.local == [*outside, over_tcp]
    assert bob.packets() == [udp(ALICE, BOB, port=53)]


@pytest.mark.parametrize(
    "packet",
    [
        udp(ALICE, NOBODY, port=54),
        carry(ip(ALICE, NOBODY), ICMP(8, 53, bytes([0, 53, 0, 53]))),
        carry(IPv4(ALICE, NOBODY, 0, fragment_offset=80), UDP(1, 53)),
    ],
    ids=["another port", "no port", "a later fragment"],
)
def test_what_is_no_question_is_refused_as_ever(packet: bytes) -> None:
    _, alice, _ = pair()
    alice.pipeline.judge.local = LocalTraffic(names=True)
    alice.read(frame(packet))
    assert alice.local == []
    assert Drop.NO_ROUTE in alice.dropped() or Drop.FILTERED_OUT in alice.dropped()


def test_questions_that_would_go_to_the_exit_node_are_shown_to_the_node_and_may_go_on() -> None:
    net = Net("10.0.0.1/32", "10.0.0.2/32 0.0.0.0/0", mtu=MTU)
    alice, bob = net.nodes
    question, other = udp(ALICE, NOBODY, port=53), udp(ALICE, NOBODY, port=54)
    alice.pipeline.judge.local = LocalTraffic(names=True, exit_peers=frozenset({alice.peers[bob.endpoint]}))
    alice.read(frame(question), frame(other))
    assert alice.local == [question]
    alice.pipeline.judge.forward(question, alice.now)
    alice.read()
    net.deliver()
    assert bob.packets() == [other, question]


def test_what_may_go_on_and_has_no_way_is_refused() -> None:
    _, alice, _ = pair()
    alice.pipeline.judge.forward(udp(ALICE, NOBODY, port=53), alice.now)
    alice.read()
    assert alice.dropped() == {Drop.NO_ROUTE: 1}
    assert len(alice.packets()) == 1


def test_packets_of_the_node_for_the_container_are_written_as_frames() -> None:
    _, alice, _ = pair()
    alice.pipeline.write([udp(NOBODY, ALICE)])
    alice.read()
    assert alice.packets() == [udp(NOBODY, ALICE)]

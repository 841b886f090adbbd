# SPDX-License-Identifier: BSD-3-Clause
"""How long packets between two hosts may be: the mark, probes, and what becomes of both."""

import pytest

from tests.unit.magicsock.net import REGION, Host, Net, at
from ts4nsnet import derp
from ts4nsnet.keys import PrivateKey
from ts4nsnet.magicsock import PathChanged
from ts4nsnet.magicsock.disco import Boxes, Message, Ping, Pong
from ts4nsnet.magicsock.paths import HEARTBEAT_TIME, MAX_LOST_PROBES, SESSION_TIME
from ts4nsnet.tailnet import TAILNET_MTU

ETHERNET, JUMBO = 1420, 8920
LOST_TIME = MAX_LOST_PROBES * HEARTBEAT_TIME + 6  # seconds within which lost probes are noticed


def two(mtu: int = ETHERNET) -> tuple[Net, Host, Host]:
    """Two hosts whose kernels know of this MTU, and one has traffic for the other."""
    net = Net()
    alice, bob = net.host("alice"), net.host("bob")
    alice.mtu = bob.mtu = mtu
    net.introduce()
    net.run(2, traffic=(alice, bob))
    assert alice.is_direct(bob)
    return net, alice, bob


def mtus(host: Host) -> list[int]:
    """All that was told of paths."""
    return [event.mtu for event in host.events if isinstance(event, PathChanged)]


def mtu(host: Host, other: Host) -> int:
    """What was told last."""
    return [e.mtu for e in host.events if isinstance(e, PathChanged) and e.key == other.key][-1]


def longest(host: Host) -> int:
    """Of the datagrams that it has sent, bytes."""
    return max(len(datagram) for _, _, datagram in host.sent)


@pytest.mark.parametrize("carried", [1281, ETHERNET, JUMBO, 65456])
def test_two_of_ours_send_each_other_what_the_path_carries(carried: int) -> None:
    _, alice, bob = two(carried)
    assert mtu(alice, bob) == carried
    assert longest(alice) == carried + 32  # exactly as long as a message of such a packet
    assert mtu(bob, alice) == carried  # as alice has invited him


def test_the_answer_to_a_probe_is_short() -> None:
    net, alice, bob = two(JUMBO)
    before = len(bob.sent)
    net.run(30, traffic=(alice, bob))
    assert {len(datagram) for _, _, datagram in bob.sent[before:]} == {118}  # with the mark


def test_where_the_kernel_has_room_for_no_more_there_are_no_probes() -> None:
    _, alice, bob = two(TAILNET_MTU)
    assert (mtu(alice, bob), longest(alice) < 200) == (TAILNET_MTU, True)


def test_what_a_router_drops_is_not_sent() -> None:
    net, alice, bob = two()
    net.room = 1400
    alice.restart(alice.disco_key)
    net.introduce()
    net.run(30, traffic=(alice, bob))
    assert (mtu(alice, bob), alice.is_direct(bob)) == (TAILNET_MTU, True)


# --- who is not of ours -----------------------------------------------------------------------------------------------


def say(net: Net, host: Host, to: Host, message: Message) -> None:
    datagram = Boxes(host.disco_key, net.random.randbytes).seal(message, to.disco_key.public)
    to.conn.receive(datagram, host.endpoints[0], net.now)
    net.settle()


@pytest.mark.parametrize("is_marked", [False, True])
def test_only_who_has_shown_the_mark_gets_probes(is_marked: bool) -> None:
    net = Net()
    alice, bob = net.host("alice"), net.host("bob")
    alice.mtu = ETHERNET
    net.introduce(bob)
    alice.send(bob)
    asked = Boxes(bob.disco_key, bytes).open(alice.sent[0][2])
    assert isinstance(asked, Ping)
    assert asked.is_marked  # whoever it is
    say(net, bob, alice, Pong(asked.transaction, alice.endpoints[0], is_marked))
    assert (longest(alice) > TAILNET_MTU) == is_marked


def test_who_takes_no_longer_messages_any_more_gets_none() -> None:
    net, alice, bob = two()
    bob.conn.takes_long = False
    net.run(HEARTBEAT_TIME + 1, traffic=(alice, bob))
    assert (mtu(alice, bob), mtu(bob, alice)) == (TAILNET_MTU, ETHERNET)  # what bob sends is another matter
    alice.sent.clear()
    net.run(20, traffic=(alice, bob))
    assert longest(alice) < 200
    bob.conn.takes_long = True
    net.run(2 * HEARTBEAT_TIME + 1, traffic=(alice, bob))
    assert mtu(alice, bob) == ETHERNET


def test_who_takes_none_still_proves_the_path_to_the_other_in_full() -> None:
    net = Net()
    alice, bob = net.host("alice"), net.host("bob")
    alice.mtu = bob.mtu = ETHERNET
    alice.conn.takes_long = False
    net.introduce()
    net.run(5, traffic=(alice, bob))
    net.run(5, traffic=(bob, alice))
    assert (mtu(alice, bob), longest(alice)) == (ETHERNET, ETHERNET + 32)
    assert mtu(bob, alice) == TAILNET_MTU


@pytest.mark.parametrize("is_marked", [False, True])
def test_a_pong_has_the_mark_if_its_ping_had(is_marked: bool) -> None:
    net = Net()
    alice, bob = net.host("alice"), net.host("bob")
    net.introduce()
    say(net, bob, alice, Ping(b"from bob.. 1", bob.key, is_marked=is_marked))
    pongs = [Boxes(bob.disco_key, bytes).open(datagram) for _, _, datagram in alice.sent]
    assert Pong(b"from bob.. 1", bob.endpoints[0], is_marked) in pongs


def test_one_that_starts_anew_has_to_show_it_again() -> None:
    net, alice, bob = two()
    bob.mtu = ETHERNET
    bob.restart(PrivateKey(bytes([9]) * 32))
    net.cut = set(bob.endpoints)
    net.introduce()
    assert mtu(alice, bob) == TAILNET_MTU
    net.cut = set()
    net.run(10, traffic=(alice, bob))
    assert mtu(alice, bob) == ETHERNET


def test_what_was_proven_before_there_were_networks_behind_a_peer_is_proven_anew() -> None:
    net, alice, bob = two()
    for bob.is_gateway in (True, False):
        net.introduce(bob)
        assert mtu(alice, bob) == TAILNET_MTU
    net.run(HEARTBEAT_TIME + 1, traffic=(alice, bob))
    assert mtu(alice, bob) == ETHERNET


def test_of_networks_behind_a_peer_its_path_says_nothing() -> None:
    net = Net()
    alice, bob = net.host("alice"), net.host("bob")
    alice.mtu = bob.mtu = ETHERNET
    bob.is_gateway = True
    net.introduce()
    net.run(5, traffic=(alice, bob))
    assert (mtu(alice, bob), longest(alice) < 200, alice.is_direct(bob)) == (TAILNET_MTU, True, True)
    bob.is_gateway = False
    net.introduce(bob)
    net.run(5, traffic=(alice, bob))
    assert mtu(alice, bob) == ETHERNET
    bob.is_gateway = True
    net.introduce(bob)
    assert mtu(alice, bob) == TAILNET_MTU


# --- paths that change ------------------------------------------------------------------------------------------------


def test_a_path_that_becomes_narrower_without_a_word_is_noticed() -> None:
    net, alice, bob = two(JUMBO)
    net.room = 1500
    net.run(LOST_TIME, traffic=(alice, bob))
    assert (mtu(alice, bob), alice.is_direct(bob)) == (TAILNET_MTU, True)
    net.room = 1 << 16
    net.run(2 * HEARTBEAT_TIME, traffic=(alice, bob))
    assert mtu(alice, bob) == JUMBO


def test_one_lost_probe_changes_nothing() -> None:
    net, alice, bob = two(JUMBO)
    net.room = 1500
    net.run(HEARTBEAT_TIME, traffic=(alice, bob))
    net.room = 1 << 16
    net.run(LOST_TIME, traffic=(alice, bob))
    assert mtus(alice) == [TAILNET_MTU, TAILNET_MTU, JUMBO]  # by relay, direct, proven


@pytest.mark.parametrize(("known", "left"), [(ETHERNET, ETHERNET), (TAILNET_MTU, TAILNET_MTU), (900, TAILNET_MTU)])
def test_a_path_that_the_kernel_knows_to_be_narrower_is_used_as_such(known: int, left: int) -> None:
    net, alice, bob = two(JUMBO)
    alice.mtu = known
    net.run(HEARTBEAT_TIME + 1, traffic=(alice, bob))
    assert mtu(alice, bob) == left


def test_another_path_has_to_prove_it_anew() -> None:
    net, alice, bob = two(JUMBO)
    net.cut = set(bob.endpoints)
    bob.endpoints = (at("10.0.0.7"),)
    net.room = 1500
    net.introduce(bob)
    net.run(10, traffic=(alice, bob))
    assert (alice.path(bob), mtu(alice, bob)) == (at("10.0.0.7"), TAILNET_MTU)


def test_a_relay_goes_on_with_what_was_proven_last() -> None:
    net, alice, bob = two(JUMBO)
    net.cut = set(bob.endpoints)
    net.run(20, traffic=(alice, bob))
    assert (alice.path(bob), mtu(alice, bob)) == (derp.to_endpoint(REGION, bob.key), JUMBO)
    net.cut = set()
    net.run(20, traffic=(alice, bob))
    assert alice.is_direct(bob)
    assert mtus(alice)[2:] == [JUMBO, JUMBO, TAILNET_MTU, JUMBO]  # proven; by relay; direct; proven


def test_after_a_minute_without_traffic_it_takes_a_round_trip() -> None:
    net, alice, bob = two(JUMBO)
    net.run(2 * SESSION_TIME)
    assert not alice.is_direct(bob)
    net.room = 1500
    net.run(2, traffic=(alice, bob))
    assert (alice.is_direct(bob), mtus(alice)[2:]) == (True, [JUMBO, JUMBO, TAILNET_MTU])
    net.room = 1 << 16
    net.run(2 * HEARTBEAT_TIME, traffic=(alice, bob))
    assert mtu(alice, bob) == JUMBO


def test_in_another_network_nothing_is_proven() -> None:
    net, alice, bob = two(JUMBO)
    alice.endpoints = (at("198.51.100.9"),)
    alice.conn.set_own_endpoints(alice.endpoints, net.now)
    net.settle()
    assert mtu(alice, bob) == TAILNET_MTU

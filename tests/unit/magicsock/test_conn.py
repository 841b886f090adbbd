# SPDX-License-Identifier: BSD-3-Clause
"""The choice of paths between hosts on a simulated network; what hypothesis does to it is in test_machine.py."""

from dataclasses import replace

import pytest

from tests.unit.magicsock.net import LATENCY, PORT, REGION, RELAY_LATENCY, START, Host, Net, at
from ts4nsnet import derp
from ts4nsnet.endpoint import Endpoint
from ts4nsnet.keys import ZERO_KEY, PrivateKey, PublicKey
from ts4nsnet.magicsock import OwnEndpointsChanged, PathChanged, PeerPaths, Pinged
from ts4nsnet.magicsock.disco import Boxes, CallMeMaybe, Message, Ping, Pong
from ts4nsnet.magicsock.events import Drop
from ts4nsnet.magicsock.paths import MAX_CANDIDATES

NOWHERE = bytes(32)


def two(seed: int = 7) -> tuple[Net, Host, Host]:
    net = Net(seed)
    alice, bob = net.host("alice"), net.host("bob")
    net.introduce()
    return net, alice, bob


def connected() -> tuple[Net, Host, Host]:
    """Alice has traffic for Bob and a direct path to him."""
    net, alice, bob = two()
    alice.send(bob)
    net.run(0.5)
    assert alice.is_direct(bob)
    return net, alice, bob


def told(host: Host, kind: type[PathChanged] | type[Pinged] = PathChanged) -> tuple[object, ...]:
    """What the last event of this kind says."""
    event = [event for event in host.events if isinstance(event, kind)][-1]
    return event.key, event.endpoint, event.latency


# --- finding a path ---


def test_a_new_peer_is_behind_its_relay() -> None:
    net, alice, bob = two()
    net.run(100)
    assert alice.path(bob) == derp.to_endpoint(REGION, bob.key)
    assert alice.sent == []  # nobody has asked for more


def test_traffic_makes_the_path_direct_within_a_round_trip() -> None:
    net, alice, bob = two()
    alice.send(bob)
    net.run(2 * LATENCY + 0.001)
    assert told(alice) == (bob.key, at("192.0.2.2"), pytest.approx(2 * LATENCY, rel=1e-3))
    assert bob.path(alice) == alice.relay  # he has nothing to send
    bob.send(alice)
    net.run(2 * LATENCY + 0.001)
    assert bob.is_direct(alice)


def test_two_with_traffic_for_each_other_find_each_other_at_once() -> None:
    net, alice, bob = two()
    alice.listed = bob.listed = False
    net.introduce()
    bob.firewalled = True
    bob.send(alice)
    alice.send(bob)
    net.run(0.2)  # invitations by the relay, pings, answers
    assert (alice.is_direct(bob), bob.is_direct(alice)) == (True, True)


@pytest.mark.parametrize("firewalled", ["alice", "bob", "both"])
def test_an_invitation_opens_firewalls(firewalled: str) -> None:
    net, alice, bob = two()
    alice.firewalled, bob.firewalled = firewalled != "bob", firewalled != "alice"
    alice.send(bob)
    net.run(0.2)
    assert alice.is_direct(bob)


def test_a_peer_that_announces_no_endpoint_is_invited_all_the_same() -> None:
    net, alice, bob = two()
    bob.listed = False
    net.introduce()
    alice.send(bob)
    net.run(0.2)
    assert alice.is_direct(bob)


def test_without_endpoints_of_our_own_nobody_is_invited() -> None:
    net, alice, bob = two()
    alice.conn.set_own_endpoints((), net.now)
    alice.send(bob)
    assert alice.conn.statistics().invitations_sent == 0


def test_searching_pings_and_invitations_go_out_every_five_seconds_at_most() -> None:
    net, alice, bob = two()
    net.cut = set(bob.endpoints)
    for _ in range(80):
        alice.send(bob)
        net.run(0.25)
    assert alice.times(*bob.endpoints) == [0, 5, 10, 15]
    assert alice.times(bob.relay) == [0, 5, 10, 15]


def test_of_many_candidates_all_are_pinged_and_the_better_one_is_taken() -> None:
    net, alice = Net(), None
    alice, bob = net.host("alice"), net.host("bob", "203.0.113.2", "10.0.0.2", "203.0.113.3")
    net.introduce()
    alice.send(bob)
    net.run(1)
    assert alice.path(bob) == at("10.0.0.2")


def test_a_new_candidate_of_a_peer_with_traffic_is_pinged_at_once() -> None:
    net, alice, bob = two()
    bob.listed = False
    net.introduce()
    alice.conn.set_own_endpoints((), net.now)
    alice.send(bob)
    net.run(2.5)
    assert not alice.is_direct(bob)
    bob.listed = True
    net.introduce(bob)
    net.run(0.1)
    assert alice.is_direct(bob)


# --- keeping it ---


def test_a_path_with_traffic_is_kept_by_a_ping_every_three_seconds() -> None:
    net, alice, bob = connected()
    net.run(58, traffic=(alice, bob))
    first, answer, *rest = alice.times(*bob.endpoints)
    assert (first, answer < 0.1, rest) == (0, True, [3 * n for n in range(1, 20)])
    changes = [event for event in alice.events if isinstance(event, PathChanged)]
    assert [change.endpoint for change in changes] == [bob.relay, bob.endpoints[0]]


def test_without_traffic_pings_end_the_relay_takes_over_and_nothing_is_due() -> None:
    net, alice, bob = connected()
    net.run(44)
    assert alice.is_direct(bob)
    net.run(10)
    assert alice.path(bob) == bob.relay
    assert (alice.conn.next_timer(), bob.conn.next_timer()) == (None, None)
    assert max(alice.times(*bob.endpoints)) < 45
    alice.send(bob)
    net.run(0.1)
    assert alice.is_direct(bob)


def test_a_dead_path_gives_way_to_the_relay_and_comes_back() -> None:
    net, alice, bob = connected()
    net.cut = set(bob.endpoints)
    net.run(6.6, traffic=(alice, bob))
    assert alice.path(bob) == bob.relay
    net.run(30, traffic=(alice, bob))
    net.cut = set()
    net.run(5.2, traffic=(alice, bob))
    assert alice.is_direct(bob)


def test_one_lost_ping_does_no_harm() -> None:
    net, alice, bob = connected()
    net.run(1, traffic=(alice, bob))
    net.cut = set(bob.endpoints)
    net.run(3, traffic=(alice, bob))  # one heartbeat
    net.cut = set()
    changes = len(alice.events)
    net.run(20, traffic=(alice, bob))
    assert len(alice.events) == changes


def test_when_trust_ends_the_search_begins_at_once() -> None:
    net, alice, bob = connected()
    net.cut = set(bob.endpoints)
    net.run(10)
    assert alice.times(bob.relay) == [0, pytest.approx(6.52)]


def test_the_other_candidate_takes_over_when_trust_in_the_better_one_ends() -> None:
    net = Net()
    alice, bob = net.host("alice"), net.host("bob", "10.0.0.2", "203.0.113.2")
    net.introduce()
    alice.send(bob)
    net.run(0.1)
    assert alice.path(bob) == at("10.0.0.2")
    net.cut = {at("10.0.0.2")}
    bob.endpoints = (at("203.0.113.2"), at("10.0.0.2"))  # answers come from the first
    net.run(6.6)
    assert alice.path(bob) == at("203.0.113.2")


@pytest.mark.parametrize(("latency", "searched"), [(0.002, False), (0.010, True)])
def test_every_minute_something_better_than_a_slow_path_is_looked_for(latency: float, searched: bool) -> None:
    net, alice, bob = two()
    net.latency = latency
    alice.send(bob)
    net.run(0.5)
    better = at("10.0.0.2")
    bob.endpoints += (better,)
    net.introduce(bob)
    net.run(50, traffic=(alice, bob))
    assert alice.times(better) == []
    net.run(20, traffic=(alice, bob))
    assert (alice.path(bob) == better) == searched


# --- without a relay ---


def test_without_a_relay_a_peer_is_nowhere_until_it_answers() -> None:
    net, alice, bob = two()
    bob.home = 0
    net.introduce(bob)
    assert alice.path(bob) == NOWHERE
    alice.send(bob)
    net.run(0.1)
    assert alice.is_direct(bob)
    net.run(300)
    assert alice.is_direct(bob)  # there is no surer way
    net.cut = set(bob.endpoints)
    net.run(15, traffic=(alice, bob))
    assert alice.path(bob) == NOWHERE


def test_without_a_relay_a_ping_is_followed_by_one_back_so_that_answers_have_a_way() -> None:
    net, alice, bob = two()
    alice.home = bob.home = 0
    alice.listed = False
    net.introduce()
    alice.send(bob)
    net.run(0.1)
    assert bob.is_direct(alice)


def test_where_it_was_heard_is_the_way_to_a_peer_whose_home_is_unknown() -> None:
    net, alice, bob = two()
    alice.home = 0
    net.introduce(alice)
    elsewhere = derp.to_endpoint(9, alice.key)
    assert bob.conn.note_relayed(alice.key, elsewhere, net.now)
    assert not bob.conn.note_relayed(alice.key, elsewhere, net.now)
    assert not bob.conn.note_relayed(PrivateKey(bytes(31) + b"\1").public, elsewhere, net.now)
    net.settle()
    assert bob.path(alice) == elsewhere
    alice.home = REGION
    net.introduce(alice)
    assert bob.path(alice) == alice.relay


def test_a_ping_by_relay_tells_the_way_back() -> None:
    net, alice, bob = two()
    alice.home = 0
    net.introduce(alice)
    net.cut = set(alice.endpoints)
    alice.conn.ping(bob.key, net.now)
    net.settle()
    net.run(0.2)
    assert bob.path(alice) == alice.relay


def test_a_peer_that_knows_wireguard_alone_is_at_its_first_endpoint() -> None:
    net, alice, _ = two()
    key = PrivateKey(bytes(range(32))).public
    alice.conn.set_peer(PeerPaths(key, endpoints=(at("192.0.2.9"), at("192.0.2.8")), wireguard_only=True), net.now)
    alice.conn.note_sent(key, net.now)
    net.settle()
    assert alice.events[-1] == PathChanged(key, at("192.0.2.9"))
    path = alice.conn.path(key, net.now)
    assert path is not None
    assert path.is_direct
    alice.conn.set_peer(PeerPaths(key, wireguard_only=True), net.now)
    net.settle()
    assert alice.events[-1] == PathChanged(key, NOWHERE)
    assert alice.sent == []


def test_a_peer_without_a_disco_key_stays_behind_its_relay() -> None:
    net, alice, bob = two()
    alice.conn.set_peer(replace(bob.paths(), disco_key=ZERO_KEY), net.now)
    net.run(20, traffic=(alice, bob))
    alice.conn.ping(bob.key, net.now)
    net.run(6)
    assert alice.path(bob) == bob.relay
    assert alice.sent == []
    assert alice.events[-1] == Pinged(bob.key, bob.relay, None)


# --- overlays of this host ---


def test_no_path_leads_through_an_overlay() -> None:
    net, alice, bob = two()
    alice.overlays = set(bob.endpoints)
    net.run(20, traffic=(alice, bob))
    bob.send(alice)
    net.run(1)
    assert alice.path(bob) == bob.relay
    assert alice.times(*bob.endpoints) == []
    assert not bob.is_direct(alice)  # no answer: he cannot know where it would have come from
    assert set(alice.conn.statistics().dropped) == {Drop.OVERLAY}


def test_a_path_that_begins_to_lead_through_an_overlay_is_left_at_the_next_ping() -> None:
    net, alice, bob = connected()
    net.run(1)
    alice.overlays = set(bob.endpoints)
    net.run(3)
    assert alice.path(bob) == bob.relay


@pytest.mark.parametrize("address", ["100.100.1.2", "fd7a:115c:a1e0::7", "::", "224.0.0.1", "255.255.255.255"])
def test_some_addresses_are_nobodys(address: str) -> None:
    net, alice, bob = two()
    bob.endpoints = (at(address),)
    net.introduce(bob)
    alice.send(bob)
    assert [endpoint for _, endpoint, _ in alice.sent] == [bob.relay]


# --- pings by hand ---


def test_a_ping_takes_the_direct_path_alone_if_there_is_one() -> None:
    net, alice, bob = connected()
    before = len(alice.sent)
    alice.conn.ping(bob.key, net.now)
    net.settle()
    net.run(1)
    assert [endpoint for _, endpoint, _ in alice.sent[before:]] == [at("192.0.2.2")]
    assert told(alice, Pinged) == (bob.key, at("192.0.2.2"), pytest.approx(2 * LATENCY, rel=1e-3))


def test_a_ping_is_answered_by_relay_when_there_is_no_other_way() -> None:
    net, alice, bob = two()
    net.cut = set(bob.endpoints)
    alice.conn.ping(bob.key, net.now)
    net.settle()
    net.run(1)
    assert told(alice, Pinged) == (bob.key, bob.relay, pytest.approx(2 * RELAY_LATENCY, rel=1e-3))
    net.run(10)
    assert [type(event) for event in alice.events].count(Pinged) == 1


def test_the_answer_to_an_earlier_ping_is_none_to_this_one() -> None:
    net, alice, bob = two()
    alice.send(bob)
    net.run(0.015)
    alice.conn.ping(bob.key, net.now)
    net.settle()
    net.run(0.015)
    assert alice.is_direct(bob)
    assert Pinged not in map(type, alice.events)
    net.run(0.015)
    assert told(alice, Pinged) == (bob.key, bob.endpoints[0], pytest.approx(2 * LATENCY, rel=1e-3))


def test_a_ping_that_nobody_answers_says_so_after_five_seconds() -> None:
    net, alice, bob = two()
    net.cut, net.relay_works = set(bob.endpoints), False
    alice.conn.ping(bob.key, net.now)
    alice.conn.ping(alice.key, net.now)  # nobody that it knows
    net.settle()
    net.run(4.9)
    assert Pinged not in map(type, alice.events)
    net.run(0.2)
    assert alice.events[-1] == Pinged(bob.key, bob.relay, None)


# --- what changes ---


def test_a_peer_with_a_new_disco_key_is_found_anew() -> None:
    net, alice, bob = connected()
    bob.restart(PrivateKey(bytes(31) + b"\2"))
    net.introduce()
    assert alice.path(bob) == bob.relay
    alice.send(bob)
    net.run(0.1)
    assert alice.is_direct(bob)


def test_a_peer_with_a_new_disco_key_is_not_sought_where_the_old_one_was() -> None:
    net, alice, bob = two()
    say(net, bob, alice, CallMeMaybe((at("192.0.2.50"),)), bob.relay, relayed=True)
    bob.restart(PrivateKey(bytes(31) + b"\2"))
    net.introduce(bob)
    net.run(10, traffic=(alice, bob))
    assert alice.times(at("192.0.2.50")) == [0]


def test_a_removed_peer_whose_ping_is_lost_later_is_not_spoken_of() -> None:
    net, alice, bob = connected()
    bob.home = 0
    net.introduce(bob)
    net.cut = set(bob.endpoints)
    net.run(7, traffic=(alice, bob))
    assert alice.is_direct(bob)
    alice.conn.remove_peer(bob.key)
    changes = len(alice.events)
    net.run(20)
    assert len(alice.events) == changes


def test_what_was_due_for_a_removed_peer_is_not_done() -> None:
    net, alice, bob = connected()
    alice.conn.remove_peer(bob.key)
    alice.conn.handle_timer(net.now + 100)
    assert (alice.conn.datagrams_to_send(), alice.conn.next_event(), alice.conn.next_timer()) == ([], None, None)


def test_a_removed_peer_is_not_talked_to_any_more() -> None:
    net, alice, bob = connected()
    alice.send(bob)
    alice.conn.ping(bob.key, net.now)
    alice.conn.remove_peer(bob.key)
    alice.conn.remove_peer(bob.key)
    alice.conn.note_sent(bob.key, net.now)
    net.settle()
    before = len(alice.sent), len(alice.events)
    net.run(60)
    bob.send(alice)
    net.run(1)
    assert (len(alice.sent), len(alice.events)) == before
    assert alice.conn.path(bob.key, net.now) is None
    assert alice.conn.next_timer() is None
    assert alice.conn.statistics().dropped[Drop.UNKNOWN_SENDER] > 0


def test_an_endpoint_of_ours_that_is_gone_makes_all_paths_be_found_anew() -> None:
    net, alice, bob = connected()
    alice.endpoints = (at("198.51.100.1"),)
    alice.conn.set_own_endpoints(alice.endpoints, net.now)
    net.settle()
    assert alice.events[-2:] == [OwnEndpointsChanged(alice.endpoints), PathChanged(bob.key, bob.relay)]
    net.run(0.1)
    assert alice.is_direct(bob)
    net.run(7, traffic=(bob, alice))  # until he does not trust the old one any more
    assert bob.path(alice) == at("198.51.100.1")  # of the invitation


def test_one_more_endpoint_of_ours_is_announced_and_costs_no_path() -> None:
    net, alice, bob = connected()
    more = (*alice.endpoints, at("198.51.100.1"))
    alice.conn.set_own_endpoints(more, net.now)
    alice.conn.set_own_endpoints(more[::-1], net.now)
    net.settle()
    assert alice.events[-1] == OwnEndpointsChanged(more)
    assert alice.conn.own_endpoints == more[::-1]
    assert alice.is_direct(bob)


def test_one_more_endpoint_of_ours_is_tried_where_there_is_no_path() -> None:
    net, alice, bob = two()
    net.cut = set(bob.endpoints)
    alice.send(bob)
    net.run(0.1)
    alice.conn.set_own_endpoints((*alice.endpoints, at("198.51.100.1")), net.now)
    net.settle()
    assert alice.conn.statistics().invitations_sent == 2


def test_without_a_node_key_nothing_is_said_and_nothing_answered() -> None:
    net, alice, bob = connected()
    alice.conn.set_node_key(None)
    before = len(alice.sent)
    alice.conn.ping(bob.key, net.now)
    net.run(20, traffic=(alice, bob))
    bob.send(alice)
    net.run(1)
    assert len(alice.sent) == before
    assert alice.conn.statistics().dropped[Drop.NO_NODE_KEY] > 0


# --- what comes from outside ---


def say(net: Net, host: Host, to: Host, message: Message, source: Endpoint, *, relayed: bool = False) -> None:
    """Have `to` take a datagram that `host` sealed."""
    datagram = Boxes(host.disco_key, net.random.randbytes).seal(message, to.disco_key.public)
    to.conn.receive(datagram, source, net.now, host.key if relayed else None)
    net.settle()


def opened(host: Host, by: Host) -> list[tuple[Message, Endpoint]]:
    """What `host` has sent to `by`, and where."""
    boxes = Boxes(by.disco_key, bytes)
    return [(boxes.open(datagram), endpoint) for _, endpoint, datagram in host.sent]


@pytest.mark.parametrize(("relayed", "seen"), [(False, at("192.0.2.2")), (True, at("127.3.3.40", REGION))])
def test_a_ping_is_answered_the_way_it_came_with_where_it_came_from(relayed: bool, seen: Endpoint) -> None:
    net, alice, bob = two()
    source = bob.relay if relayed else at("192.0.2.2")
    say(net, bob, alice, Ping(bytes(12), bob.key), source, relayed=relayed)
    assert opened(alice, bob) == [(Pong(bytes(12), seen), source)]


def test_a_repeated_ping_is_answered_once_from_each_endpoint() -> None:
    net, alice, bob = two()
    for source in (bob.endpoints[0], bob.endpoints[0], at("192.0.2.77")):
        say(net, bob, alice, Ping(bytes(12), None), source)
    assert [endpoint for _, endpoint, _ in alice.sent] == [bob.endpoints[0], at("192.0.2.77")]
    assert alice.conn.statistics().dropped == {Drop.REPEATED: 1}


def test_who_searches_follows_a_ping_by_one_to_where_it_came_from_but_not_each_of_many() -> None:
    net, alice, bob = two()
    bob.listed = False
    net.introduce(bob)
    net.cut = set(alice.endpoints)
    alice.send(bob)
    for n in range(9):
        say(net, bob, alice, Ping(bytes([n] * 12), None), at("192.0.2.77"))
        net.run(1)
    messages = [type(message) for message, endpoint in opened(alice, bob) if endpoint == at("192.0.2.77")]
    assert messages[:3] == [Pong, Ping, Pong]
    assert 2 <= messages.count(Ping) <= 4  # the two searches at 5 and 6 s count, too


def test_an_endpoint_that_a_ping_came_from_is_a_candidate_for_forty_five_seconds() -> None:
    net, alice, bob = two()
    bob.listed = False
    net.introduce(bob)
    alice.conn.set_own_endpoints((), net.now)
    say(net, bob, alice, Ping(bytes(12), None), at("192.0.2.77"))
    net.run(44)
    alice.send(bob)
    assert alice.times(at("192.0.2.77"))[1:] == [44]
    net.run(10, traffic=(alice, bob))
    assert alice.times(at("192.0.2.77"))[1:] == [44]


def test_an_invitation_is_followed_by_pings_and_no_invitation_back() -> None:
    net, alice, bob = two()
    invitation = CallMeMaybe((at("192.0.2.50"), at("fe80::1"), at("192.0.2.50")))
    say(net, bob, alice, invitation, bob.relay, relayed=True)
    assert [endpoint for _, endpoint, _ in alice.sent] == [bob.endpoints[0], at("192.0.2.50")]
    assert all(isinstance(message, Ping) for message, _ in opened(alice, bob))


def test_the_last_invitation_counts() -> None:
    net, alice, bob = two()
    bob.listed = False
    net.introduce(bob)
    net.cut = set(alice.endpoints)
    for host in ("192.0.2.50", "192.0.2.51"):
        say(net, bob, alice, CallMeMaybe((at(host),)), bob.relay, relayed=True)
        net.run(2)
    assert alice.times(at("192.0.2.50")) == [0]
    net.run(10, traffic=(alice, bob))
    assert alice.times(at("192.0.2.50")) == [0]
    assert len(alice.times(at("192.0.2.51"))) > 1


def test_a_path_that_nobody_stands_for_any_more_is_kept_while_it_works() -> None:
    net, alice, bob = two()
    bob.listed = False
    net.introduce(bob)
    alice.send(bob)
    net.run(50, traffic=(alice, bob))  # so that his ping is forgotten
    say(net, bob, alice, CallMeMaybe((at("192.0.2.51"),)), bob.relay, relayed=True)
    changes = len(alice.events)
    net.run(50, traffic=(alice, bob))
    assert (len(alice.events), alice.is_direct(bob)) == (changes, True)
    net.cut = set(bob.endpoints)
    net.run(20, traffic=(alice, bob))
    assert alice.path(bob) == bob.relay
    assert net.now - START - alice.times(*bob.endpoints)[-1] > 5


@pytest.mark.parametrize("known", ["invited", "listed"])
def test_a_path_whose_endpoint_is_not_named_any_more_is_left_at_once_and_found_again_if_it_still_works(
    known: str,
) -> None:
    net, alice, bob = two()
    bob.listed = known == "listed"
    net.introduce(bob)

    def name(*endpoints: Endpoint) -> None:
        if known == "invited":
            say(net, bob, alice, CallMeMaybe(endpoints), bob.relay, relayed=True)
        else:
            alice.conn.set_peer(replace(bob.paths(), endpoints=endpoints), net.now)
            net.settle()

    name(*bob.endpoints)
    alice.send(bob)
    net.run(2)
    assert alice.is_direct(bob)
    name(at("192.0.2.51"))
    assert alice.path(bob) == bob.relay
    net.run(0.1)
    assert alice.is_direct(bob)  # it was pinged from there, so it stays a candidate


def test_a_path_that_the_server_forgets_and_the_peer_does_not_is_kept() -> None:
    net, alice, bob = connected()
    say(net, bob, alice, CallMeMaybe(bob.endpoints), bob.relay, relayed=True)
    bob.listed = False
    net.introduce(bob)
    assert alice.is_direct(bob)


def test_a_flood_of_invitations_is_no_flood_of_pings() -> None:
    net, alice, bob = two()
    for _ in range(50):
        say(net, bob, alice, CallMeMaybe((at("192.0.2.50"),)), bob.relay, relayed=True)
        net.run(0.01)
    assert len(alice.times(at("192.0.2.50"))) == 1


def test_a_flood_of_invitations_to_ever_new_places_is_bounded_and_an_honest_one_counts_a_second_later() -> None:
    net, alice, bob = two()
    for number in range(500):
        many = tuple(at("192.0.2.50", 1 + number * 10 + port) for port in range(10))
        say(net, bob, alice, CallMeMaybe(many), bob.relay, relayed=True)
        net.run(0.001)
    assert len(alice.sent) == MAX_CANDIDATES
    net.run(1)
    say(net, bob, alice, CallMeMaybe((at("192.0.2.51"),)), bob.relay, relayed=True)
    assert len(alice.times(at("192.0.2.51"))) == 1


def test_candidates_are_limited() -> None:
    net, alice, bob = two()
    many = tuple(at("192.0.2.50", port) for port in range(1, 3 * MAX_CANDIDATES))
    say(net, bob, alice, CallMeMaybe(many), bob.relay, relayed=True)
    assert len(alice.sent) == MAX_CANDIDATES
    bob.endpoints = many[::-1]
    net.introduce(bob)
    say(net, bob, alice, Ping(bytes(12), None), at("192.0.2.51"))
    assert alice.sent[-1][1] == at("192.0.2.51")  # answered all the same
    say(net, bob, alice, CallMeMaybe(()), bob.relay, relayed=True)
    net.run(6)
    net.introduce(bob)
    before = len(alice.sent)
    alice.send(bob)
    assert len(alice.sent) == before + MAX_CANDIDATES + 1


def test_what_is_not_for_us_is_dropped_and_counted() -> None:
    net, alice, bob = two()
    mallory = net.host("mallory")
    where = bob.endpoints[0]
    say(net, mallory, alice, Ping(bytes(12), bob.key), where)  # nobody we know
    say(net, bob, alice, CallMeMaybe((at("192.0.2.50"),)), where)  # an invitation has to come by a relay
    say(net, bob, alice, Pong(bytes(12), where), where)  # we have asked nothing
    say(net, bob, alice, Ping(bytes(12), None), at("100.64.0.1"))
    say(net, bob, alice, Ping(bytes(12), None), derp.to_endpoint(REGION, bob.key))  # from port 0
    alice.conn.receive(b"TS", where, net.now)
    datagram = Boxes(bob.disco_key, net.random.randbytes).seal(Ping(bytes(12), None), mallory.disco_key.public)
    alice.conn.receive(datagram, where, net.now)
    alice.conn.receive(datagram, bob.relay, net.now, mallory.key)  # the relay says it is from somebody else
    assert alice.conn.statistics().dropped == {
        Drop.UNKNOWN_SENDER: 2,
        Drop.UNEXPECTED: 4,
        Drop.UNREADABLE: 2,
    }
    assert alice.sent == []


def test_a_pong_counts_from_whom_and_by_what_it_was_asked() -> None:
    net, alice, bob = two()
    carol = net.host("carol")
    net.introduce()
    net.cut, net.relay_works = {*alice.endpoints}, False
    alice.send(bob)
    (ping, _), _ = opened(alice, bob)
    assert isinstance(ping, Ping)
    say(net, carol, alice, Pong(ping.transaction, at("192.0.2.1")), carol.endpoints[0])
    say(net, bob, alice, Pong(ping.transaction, at("192.0.2.1")), bob.relay, relayed=True)
    assert not alice.is_direct(bob)
    say(net, bob, alice, Pong(ping.transaction, at("192.0.2.1")), at("192.0.2.99"))
    assert alice.path(bob) == bob.endpoints[0]  # where we pinged, wherever the answer came from
    say(net, bob, alice, Pong(ping.transaction, at("192.0.2.1")), bob.endpoints[0])
    assert alice.conn.statistics().dropped == {Drop.UNEXPECTED: 3}
    assert alice.conn.statistics().pongs_received == 1


def test_a_pong_from_an_endpoint_that_is_no_candidate_any_more_is_no_path() -> None:
    net, alice, bob = two()
    alice.send(bob)
    bob.listed = False
    net.introduce(bob)
    net.cut = {*alice.endpoints}  # so that Bob's pings do not make it one again
    (ping, _), *_ = opened(alice, bob)
    assert isinstance(ping, Ping)
    say(net, bob, alice, Pong(ping.transaction, at("192.0.2.1")), at("192.0.2.2"))
    assert alice.path(bob) == bob.relay


def test_a_node_that_is_in_the_tailnet_twice_is_answered_and_found_as_both() -> None:
    net, alice, bob = two()
    twin = PrivateKey(bytes(31) + b"\3").public
    alice.conn.set_peer(replace(bob.paths(), key=twin, endpoints=()), net.now)
    say(net, bob, alice, Ping(bytes(12), None), at("192.0.2.2"))
    assert len(alice.sent) == 1
    alice.conn.note_sent(twin, net.now)
    net.settle()
    net.run(0.1)
    assert told(alice) == (twin, at("192.0.2.2"), pytest.approx(2 * LATENCY, rel=1e-3))
    alice.conn.remove_peer(twin)
    alice.send(bob)
    net.run(0.1)
    assert alice.is_direct(bob)


def test_a_key_that_nobody_can_have_is_not_talked_to() -> None:
    net, alice, _ = two()
    key = PrivateKey(bytes(range(32))).public
    low_order = PublicKey(b"\1" + bytes(31))
    alice.conn.set_peer(PeerPaths(key, low_order, REGION, (at("192.0.2.9"),)), net.now)
    alice.conn.note_sent(key, net.now)
    net.settle()
    assert alice.sent == []


def test_statistics_count_both_sides() -> None:
    net, alice, bob = connected()
    net.run(1)
    mine, his = alice.conn.statistics(), bob.conn.statistics()
    assert (mine.pings_sent, mine.pongs_received, mine.invitations_sent) == (1, 1, 1)
    assert (his.pings_received, his.pongs_sent, his.invitations_received) == (1, 1, 1)
    assert (mine.pings_received, mine.pongs_sent, mine.invitations_received) == (1, 1, 0)


def test_path_says_what_a_status_shows() -> None:
    net, alice, bob = connected()
    path = alice.conn.path(bob.key, net.now)
    assert path is not None
    assert (path.endpoint, path.is_direct, path.is_active) == (at("192.0.2.2", PORT), True, True)
    assert path.latency == pytest.approx(2 * LATENCY, rel=1e-3)
    net.run(100)
    path = alice.conn.path(bob.key, net.now)
    assert path is not None
    assert (path.endpoint, path.is_direct, path.latency, path.is_active) == (bob.relay, False, None, False)
    assert net.now > START

# SPDX-License-Identifier: BSD-3-Clause
"""Wiring: netmaps in, changes out."""

from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.control import NetMap, NetMapDelta, Node
from ts4nsnet.control.persistent import PersistentMap
from ts4nsnet.endpoint import ip_endpoint
from ts4nsnet.filter import Range, Rule
from ts4nsnet.keys import ZERO_KEY, PublicKey
from ts4nsnet.netns import Link
from ts4nsnet.node.wiring import (
    DEFAULT_PRIORITY,
    Admission,
    Changes,
    WiredPeer,
    Wiring,
    find_node,
    is_exit_node,
    wired_peer,
)
from ts4nsnet.tailnet import TAILNET_MTU

WALL = 1_800_000_000.0  # unix seconds
HOME, OTHER_HOME = 1, 2
SELF = Node(1, name="own.", addresses=(ip_address("100.64.0.1"), ip_address("fd7a:115c:a1e0::1")))
UNREACHABLE = {("0.0.0.0/0", True), ("::/0", True)}
TAILNET = {("100.64.0.0/10", False), ("fd7a:115c:a1e0::/48", False), ("0.0.0.0/0", False), ("::/0", False)}


def key(number: int) -> PublicKey:
    return PublicKey(number.to_bytes(32, "big"))


def peer(number: int, *routes: str) -> Node:
    """A node that is reachable through a relay and routes these subnets, too."""
    addresses = (ip_address("100.64.0.0") + number, ip_address("fd7a:115c:a1e0::") + number)
    allowed = (*map(ip_network, addresses), *map(ip_network, routes))
    return Node(number, name=f"n{number}.", key=key(number), addresses=addresses, allowed_ips=allowed, home_derp=HOME)


def netmap(*peers: Node, own: Node = SELF) -> NetMap:
    return NetMap(own, peers=PersistentMap[Node]().updated({node.id: node for node in peers}))


class Wired:
    """A wiring, and what those who follow its changes have."""

    def __init__(self, *peers: Node, wiring: Wiring | None = None) -> None:
        self.wiring = wiring or Wiring("tap0")
        self.peers: dict[PublicKey, WiredPeer] = {}
        self.link: Link | None = None
        self.netmap: NetMap | None = None
        self.become(netmap(*peers))

    def become(self, after: NetMap, wall: float = WALL) -> Changes:
        delta = NetMapDelta.between(self.netmap, after)
        self.netmap = after
        return self._follow(self.wiring.apply(after, delta, wall))

    def pass_time(self, wall: float) -> Changes:
        assert self.netmap is not None
        return self._follow(self.wiring.expire(self.netmap, wall))

    def routes(self) -> set[tuple[str, bool]]:
        assert self.link is not None
        return {(str(route.destination), route.unreachable) for route in self.link.routes}

    def _follow(self, changes: Changes) -> Changes:
        for gone in changes.removed:
            del self.peers[gone]
        for peer in changes.peers:
            self.peers[peer.config.public_key] = peer
        self.link = changes.link or self.link
        return changes


# --- peers --------------------------------------------------------------------------------------------------------


def test_peer_has_its_own_addresses_and_the_ways_to_it() -> None:
    endpoints = ((ip_address("192.0.2.1"), 41641), (ip_address("2001:db8::1"), 41641), (ip_address("192.0.2.1"), 41641))
    wired = Wired(replace(peer(7), disco_key=key(99), endpoints=endpoints))
    config, paths = wired.peers[key(7)]
    assert config.allowed_ips == {ip_network("100.64.0.7/32"), ip_network("fd7a:115c:a1e0::7/128")}
    assert config.endpoint is None  # that is for magicsock to say
    assert (paths.key, paths.disco_key, paths.home_region) == (key(7), key(99), HOME)
    assert paths.endpoints == tuple(ip_endpoint(*each) for each in endpoints[:2])


@pytest.mark.parametrize(
    ("reason", "node"),
    [
        ("there is no way to it", replace(peer(7), home_derp=0)),
        ("it has no key", replace(peer(7), key=ZERO_KEY)),
        ("the server calls its key expired", replace(peer(7), expired=True)),
        ("its key's time is over", replace(peer(7), key_expiry=WALL)),
    ],
)
def test_peer_is_not_wired_while(reason: str, node: Node) -> None:
    wired = Wired(node)
    assert wired.peers == {}, reason
    assert wired.become(netmap(peer(7))).peers == (wired_peer(peer(7)),)
    assert wired.become(netmap(node)).removed == (key(7),)


@pytest.mark.parametrize("way", [{"disco_key": key(99)}, {"wireguard_only": True}])
def test_peer_without_a_relay_is_wired_when_there_may_be_another_way(way: dict[str, object]) -> None:
    assert set(Wired(replace(peer(7), home_derp=0, **way)).peers) == {key(7)}  # type: ignore[arg-type]


def test_peers_come_and_go() -> None:
    wired = Wired(peer(7))
    assert wired.become(netmap(peer(7), peer(8))) == Changes(peers=(wired_peer(peer(8)),))
    assert wired.become(netmap(peer(8))) == Changes(removed=(key(7),))


def test_what_says_nothing_about_packets_changes_nothing() -> None:
    wired = Wired(peer(7))
    assert wired.become(netmap(replace(peer(7), online=True, last_seen=WALL, name="new."))) == Changes()


def test_peer_that_moves_to_another_home_has_another_way() -> None:
    wired = Wired(peer(7), peer(8))
    moved = replace(peer(7), home_derp=OTHER_HOME)
    assert wired.become(netmap(moved, peer(8))) == Changes(peers=(wired_peer(moved),))
    assert wired.peers[key(7)].paths.home_region == OTHER_HOME


def test_peer_with_a_new_key_is_another_peer() -> None:
    wired = Wired(peer(7))
    renewed = replace(peer(7), key=key(70))
    assert wired.become(netmap(renewed)) == Changes(removed=(key(7),), peers=(wired_peer(renewed),))


def test_key_that_comes_back_under_another_id_is_not_removed() -> None:
    wired = Wired(peer(7))
    again = replace(peer(8), key=key(7))
    assert wired.become(netmap(again)) == Changes(peers=(wired_peer(again),))


def test_peers_are_removed_when_their_keys_time_is_over() -> None:
    wired = Wired(replace(peer(7), key_expiry=WALL + 60), peer(8))
    assert wired.pass_time(WALL + 59) == Changes()
    assert wired.pass_time(WALL + 60) == Changes(removed=(key(7),))
    assert wired.pass_time(WALL + 61) == Changes()
    renewed = replace(peer(7), key=key(70), key_expiry=WALL + 600)
    assert wired.become(netmap(renewed, peer(8)), WALL + 62).peers == (wired_peer(renewed),)


def test_servers_clock_decides_when_time_is_over() -> None:
    wired = Wired(replace(peer(7), key_expiry=WALL + 600))
    assert wired.netmap is not None
    wired.netmap = replace(wired.netmap, clock_skew=900.0)
    assert wired.pass_time(WALL) == Changes(removed=(key(7),))


def test_peer_that_is_gone_by_the_time_we_look_is_removed_all_the_same() -> None:
    wired = Wired(peer(7), peer(8))
    wired.netmap = netmap(peer(8))
    assert wired.pass_time(WALL) == Changes(removed=(key(7),))


# --- the link -----------------------------------------------------------------------------------------------------


def test_link_has_our_addresses_the_tailnets_routes_and_no_way_for_the_rest() -> None:
    wired = Wired()
    assert wired.link is not None
    assert wired.link.addresses == ("100.64.0.1", "fd7a:115c:a1e0::1")
    assert wired.routes() == TAILNET | UNREACHABLE
    assert {route.mtu for route in wired.link.routes if not route.unreachable} == {TAILNET_MTU}


def test_who_can_be_reached_with_longer_packets_has_routes_that_say_so() -> None:
    wired = Wired(peer(7), peer(8), peer(9, "10.1.0.0/16"))
    assert wired.link is not None
    assert wired.wiring.widened(wired.link) == wired.link
    wired.wiring.widen(key(7), 8920)
    wired.wiring.widen(key(9), 8920)  # of what lies behind it that says nothing, and it is not told so by paths
    more = wired.wiring.widened(wired.link)
    assert more.routes[: len(wired.link.routes)] == wired.link.routes
    assert {(route.destination, route.mtu, route.source) for route in more.routes[len(wired.link.routes) :]} == {
        ("100.64.0.7/32", 8920, "100.64.0.1"),
        ("fd7a:115c:a1e0::7/128", 8920, "fd7a:115c:a1e0::1"),
    }
    wired.wiring.widen(key(7), TAILNET_MTU)
    assert wired.wiring.widened(wired.link) == wired.link


def test_who_is_gone_has_no_routes() -> None:
    wired = Wired(peer(7))
    wired.wiring.widen(key(7), 8920)
    wired.become(netmap())
    wired.become(netmap(peer(7)))
    assert wired.link is not None
    assert wired.wiring.widened(wired.link) == wired.link


def test_a_peer_with_networks_behind_it_is_a_gateway() -> None:
    assert not wired_peer(peer(7)).paths.is_gateway
    assert wired_peer(peer(7, "10.1.0.0/16")).paths.is_gateway
    assert wired_peer(peer(7, "0.0.0.0/0"), is_exit=True).paths.is_gateway
    assert not wired_peer(peer(7, "0.0.0.0/0")).paths.is_gateway  # an offer that we have not taken


def test_link_changes_with_our_addresses() -> None:
    wired = Wired(peer(7))
    moved = replace(SELF, addresses=(ip_address("100.64.9.9"),))
    changes = wired.become(netmap(peer(7), own=moved))
    assert changes.peers == ()
    assert changes.link is not None
    assert changes.link.addresses == ("100.64.9.9",)


def test_subnets_of_peers_are_routes_and_allowed() -> None:
    wired = Wired(peer(7))
    changes = wired.become(netmap(peer(7, "10.1.0.0/16", "fd01::/64")))
    assert changes.link is not None
    assert wired.routes() == TAILNET | UNREACHABLE | {("10.1.0.0/16", False), ("fd01::/64", False)}
    assert ip_network("10.1.0.0/16") in wired.peers[key(7)].config.allowed_ips
    assert wired.become(netmap(peer(7))).link is not None
    assert wired.routes() == TAILNET | UNREACHABLE


def test_subnet_that_several_peers_route_stays_until_the_last_is_gone() -> None:
    wired = Wired(peer(7, "10.1.0.0/16"), peer(8, "10.1.0.0/16"))
    assert wired.become(netmap(peer(8, "10.1.0.0/16"))).link is None
    assert wired.become(netmap()).link is not None
    assert wired.routes() == TAILNET | UNREACHABLE


def test_subnet_of_a_peer_whose_key_expires_is_no_route_any_more() -> None:
    wired = Wired(replace(peer(7, "10.1.0.0/16"), key_expiry=WALL + 60))
    assert wired.pass_time(WALL + 60).link is not None
    assert wired.routes() == TAILNET | UNREACHABLE


def test_prefixes_within_the_tailnet_need_no_route_of_their_own() -> None:
    wired = Wired(peer(7, "fd7a:115c:a1e0:b1a:0:1:a00:0/112", "100.100.0.0/16"))
    assert wired.routes() == TAILNET | UNREACHABLE


def test_before_the_netmap_nothing_is_reachable() -> None:
    link = Wiring("tap0", IPv4Address("10.0.2.100")).first_link()
    assert link.addresses == ("10.0.2.100",)
    assert {(str(route.destination), route.unreachable) for route in link.routes} == UNREACHABLE


def test_what_container_tools_believe_to_be_the_address_stays_and_is_no_source() -> None:
    wired = Wired(wiring=Wiring("tap0", IPv4Address("10.0.2.100")))
    assert wired.link is not None
    assert wired.link.addresses == ("100.64.0.1", "fd7a:115c:a1e0::1", "10.0.2.100")
    sources = {(route.version, route.source) for route in wired.link.routes if not route.unreachable}
    assert sources == {(4, "100.64.0.1"), (6, "fd7a:115c:a1e0::1")}


def test_default_route_lets_a_container_tools_go_first() -> None:
    wired = Wired()
    assert wired.link is not None
    ranks = [route.priority for route in wired.link.routes if route.destination == "0.0.0.0/0"]
    assert ranks == [DEFAULT_PRIORITY, 2**32 - 1]


@pytest.mark.parametrize(("asked", "mtus"), [(None, (1280, 1280)), (65520, (1280, 1280)), (1000, (1000, 1280))])
def test_mtu_that_is_asked_for_caps_every_routes(asked: int | None, mtus: tuple[int, int]) -> None:
    wired = Wired(wiring=Wiring("tap0", max_mtu=asked))
    assert wired.link is not None
    assert {(route.version, route.mtu) for route in wired.link.routes if not route.unreachable} == {
        (4, mtus[0]),
        (6, mtus[1]),
    }


@pytest.mark.parametrize(
    "named", ["n7", "N7.tail.ts.net", "n7.tail.ts.net.", "100.64.0.7", "fd7a:115c:a1e0::7", "nStable"]
)
def test_exit_node_that_is_asked_for_gets_everything_else(named: str) -> None:
    gate = replace(peer(7, "0.0.0.0/0", "::/0"), name="n7.tail.ts.net.", stable_id="nStable")
    wired = Wired(gate, peer(8, "0.0.0.0/0"), wiring=Wiring("tap0", exit_node=named))
    assert {prefix.prefixlen for prefix in wired.peers[key(7)].config.allowed_ips} == {0, 32, 128}
    assert {prefix.prefixlen for prefix in wired.peers[key(8)].config.allowed_ips} == {32, 128}
    assert wired.routes() == TAILNET | UNREACHABLE
    assert find_node(netmap(peer(8), gate), named) is gate
    assert is_exit_node(gate)
    assert not is_exit_node(peer(9, "10.0.0.0/8"))
    assert find_node(netmap(peer(8), gate), "nobody") is None


def test_exit_node_is_not_used_unasked() -> None:
    wired = Wired(peer(7, "0.0.0.0/0", "::/0"))
    assert wired.routes() == TAILNET | UNREACHABLE
    assert {prefix.prefixlen for prefix in wired.peers[key(7)].config.allowed_ips} == {32, 128}


# --- the filter ---------------------------------------------------------------------------------------------------


def test_filter_is_told_what_is_local_who_is_jailed_and_who_has_a_capability() -> None:
    rules = (Rule(source_capabilities=("cap/backup",)),)
    jailed, capable = replace(peer(7), jailed=True), replace(peer(8), capabilities={"cap/backup": ()})
    admission = Admission.of(replace(netmap(jailed, capable, peer(9)), packet_filter=rules))
    assert admission.rules == rules
    assert list(admission.local) == [ip_network("100.64.0.1/32"), ip_network("fd7a:115c:a1e0::1/128")]
    assert list(admission.jailed) == [ip_network("100.64.0.7/32"), ip_network("fd7a:115c:a1e0::7/128")]
    own = [ip_network("100.64.0.8/32"), ip_network("fd7a:115c:a1e0::8/128")]
    assert {name: list(ranges) for name, ranges in admission.sources_with.items()} == {
        "cap/backup": [*map(Range.of, own)]
    }


# --- all of it ----------------------------------------------------------------------------------------------------


def test_change_of_one_peer_of_ten_thousand_touches_one() -> None:
    peers = [peer(number) for number in range(2, 10_002)]
    wired = Wired(*peers)
    assert len(wired.peers) == 10_000
    before, after = peers[77], replace(peers[77], home_derp=OTHER_HOME)
    # a netmap in which there is nobody to look at
    changes = wired.wiring.apply(netmap(), NetMapDelta(changed=((before, after),)), WALL)
    assert changes == Changes(peers=(wired_peer(after),))


NODES = st.builds(
    lambda number, renewed, home, routes, expiry: replace(
        peer(number, *routes), key=key(number + 100 * renewed), home_derp=home, key_expiry=expiry
    ),
    number=st.integers(2, 5),
    renewed=st.integers(0, 2),
    home=st.integers(0, 2),
    routes=st.lists(st.sampled_from(["10.1.0.0/16", "10.2.0.0/16", "0.0.0.0/0", "fd01::/64"]), unique=True),
    expiry=st.sampled_from([None, WALL + 2, WALL + 4]),
)
NETMAPS = st.lists(NODES, unique_by=lambda node: node.id).map(lambda nodes: netmap(*nodes))


@given(st.lists(NETMAPS, max_size=6))
def test_changes_add_up_to_what_the_last_netmap_says(netmaps: list[NetMap]) -> None:
    wired, wall = Wired(), WALL
    for wall, each in enumerate(netmaps, int(WALL)):
        wired.become(each, wall)
        wired.pass_time(wall)
    fresh = Wired()
    fresh.become(netmaps[-1] if netmaps else netmap(), wall)
    assert wired.peers == fresh.peers
    assert wired.link == fresh.link


def test_our_own_key_among_the_peers_is_passed_by() -> None:
    wired = Wired()
    own = replace(SELF, key=key(7))
    wired.become(netmap(peer(7), peer(8), own=own))
    assert set(wired.peers) == {key(8)}


def test_a_key_that_two_nodes_have_had_stays_with_the_one_that_is_left() -> None:
    wired = Wired(peer(2))
    again = replace(peer(3), key=key(2))
    wired.become(netmap(peer(2), again))
    changes = wired.become(netmap(again))
    assert changes.removed == ()
    assert set(wired.peers) == {key(2)}
    assert wired.become(netmap()).removed == (key(2),)

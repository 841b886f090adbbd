# SPDX-License-Identifier: BSD-3-Clause
"""Wiring: netmaps in, changes out."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet import derp
from ts4nsnet.control import NetMap, NetMapDelta, Node
from ts4nsnet.control.persistent import PersistentMap
from ts4nsnet.keys import ZERO_KEY, PublicKey
from ts4nsnet.netns import Link
from ts4nsnet.node.wiring import TAILNET_MTU, Changes, Wiring, peer_config
from ts4nsnet.wireguard import PeerConfig

WALL = 1_800_000_000.0  # unix seconds
HOME, OTHER_HOME = 1, 2
SELF = Node(1, name="own.", addresses=(ip_address("100.64.0.1"), ip_address("fd7a:115c:a1e0::1")))
UNREACHABLE = {("0.0.0.0/0", True), ("::/0", True)}
TAILNET = {("100.64.0.0/10", False), ("fd7a:115c:a1e0::/48", False)}


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

    def __init__(self, *peers: Node) -> None:
        self.wiring = Wiring("tap0")
        self.peers: dict[PublicKey, PeerConfig] = {}
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
        for config in changes.peers:
            self.peers[config.public_key] = config
        self.link = changes.link or self.link
        return changes


# --- peers --------------------------------------------------------------------------------------------------------


def test_peer_has_its_own_addresses_and_is_behind_the_relay_of_its_home() -> None:
    wired = Wired(peer(7))
    config = wired.peers[key(7)]
    assert config.allowed_ips == {ip_network("100.64.0.7/32"), ip_network("fd7a:115c:a1e0::7/128")}
    assert config.endpoint == derp.to_endpoint(HOME, key(7))


def test_peer_without_a_home_has_no_endpoint_yet() -> None:
    nowhere = replace(peer(7), home_derp=0, disco_key=key(99))
    wired = Wired(nowhere)
    assert wired.peers[key(7)].endpoint is None
    assert wired.become(netmap(peer(7))).peers == (peer_config(peer(7)),)


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
    assert wired.become(netmap(peer(7))).peers == (peer_config(peer(7)),)
    assert wired.become(netmap(node)).removed == (key(7),)


@pytest.mark.parametrize("way", [{"disco_key": key(99)}, {"wireguard_only": True}])
def test_peer_without_a_relay_is_wired_when_there_may_be_another_way(way: dict[str, object]) -> None:
    assert set(Wired(replace(peer(7), home_derp=0, **way)).peers) == {key(7)}  # type: ignore[arg-type]


def test_peers_come_and_go() -> None:
    wired = Wired(peer(7))
    assert wired.become(netmap(peer(7), peer(8))) == Changes(peers=(peer_config(peer(8)),))
    assert wired.become(netmap(peer(8))) == Changes(removed=(key(7),))


def test_what_says_nothing_about_packets_changes_nothing() -> None:
    wired = Wired(peer(7))
    assert wired.become(netmap(replace(peer(7), online=True, last_seen=WALL, name="new."))) == Changes()


def test_peer_that_moves_to_another_home_has_another_endpoint() -> None:
    wired = Wired(peer(7), peer(8))
    moved = replace(peer(7), home_derp=OTHER_HOME)
    assert wired.become(netmap(moved, peer(8))) == Changes(peers=(peer_config(moved),))
    assert wired.peers[key(7)].endpoint == derp.to_endpoint(OTHER_HOME, key(7))


def test_peer_with_a_new_key_is_another_peer() -> None:
    wired = Wired(peer(7))
    renewed = replace(peer(7), key=key(70))
    assert wired.become(netmap(renewed)) == Changes(removed=(key(7),), peers=(peer_config(renewed),))


def test_key_that_comes_back_under_another_id_is_not_removed() -> None:
    wired = Wired(peer(7))
    again = replace(peer(8), key=key(7))
    assert wired.become(netmap(again)) == Changes(peers=(peer_config(again),))


def test_peers_are_removed_when_their_keys_time_is_over() -> None:
    wired = Wired(replace(peer(7), key_expiry=WALL + 60), peer(8))
    assert wired.pass_time(WALL + 59) == Changes()
    assert wired.pass_time(WALL + 60) == Changes(removed=(key(7),))
    assert wired.pass_time(WALL + 61) == Changes()
    renewed = replace(peer(7), key=key(70), key_expiry=WALL + 600)
    assert wired.become(netmap(renewed, peer(8)), WALL + 62).peers == (peer_config(renewed),)


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
    assert ip_network("10.1.0.0/16") in wired.peers[key(7)].allowed_ips
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


def test_exit_node_is_not_used_unasked() -> None:
    wired = Wired(peer(7, "0.0.0.0/0", "::/0"))
    assert wired.routes() == TAILNET | UNREACHABLE
    assert {prefix.prefixlen for prefix in wired.peers[key(7)].allowed_ips} == {32, 128}


# --- all of it ----------------------------------------------------------------------------------------------------


def test_change_of_one_peer_of_ten_thousand_touches_one() -> None:
    peers = [peer(number) for number in range(2, 10_002)]
    wired = Wired(*peers)
    assert len(wired.peers) == 10_000
    before, after = peers[77], replace(peers[77], home_derp=OTHER_HOME)
    # a netmap in which there is nobody to look at
    changes = wired.wiring.apply(netmap(), NetMapDelta(changed=((before, after),)), WALL)
    assert changes == Changes(peers=(peer_config(after),))


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

# SPDX-License-Identifier: BSD-3-Clause
"""The netmap and its changes: each form of delta, and their order."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.unit.control.netmaps import ALLOW_ALL, ALLOW_WEB, DISCO, ONE, SELF, TWO, WALL, apply, first, text
from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.netmap import LEGACY_RULES, UNSIGNED_PEER, NetMap, NetMapDelta
from ts4nsnet.control.node import Node
from ts4nsnet.control.wire import read_map_response
from ts4nsnet.dns import Config


def names(netmap: NetMap) -> set[str]:
    return {node.host_name for node in netmap.peers.values()}


def test_the_first_message_must_say_who_we_are() -> None:
    with pytest.raises(Malformed, match=r"Node: got nothing, want the node itself in the first message"):
        NetMap.first(read_map_response(b'{"Peers":[{"ID":1}]}'), WALL)


def test_before_anything_is_said_nothing_is_let_in_and_no_name_is_known() -> None:
    netmap = first()
    assert netmap.packet_filter == ()
    assert netmap.packet_filter_discarded == ""
    assert netmap.dns == Config()
    assert len(netmap.peers) == 0
    assert netmap.clock_skew == 0


def test_the_suffix_of_names_is_our_name_without_its_first_label() -> None:
    assert first().magic_dns_suffix == "tail.example"


def test_all_peers_replace_those_there_were_and_nothing_else_about_peers_counts() -> None:
    netmap = first(Peers=[ONE, TWO])
    three = {"ID": 3, "Name": "three."}
    netmap, delta = apply(netmap, Peers=[TWO, three], PeersRemoved=[2], OnlineChange={"3": True}, PeersChanged=[ONE])
    assert names(netmap) == {"two", "three"}
    assert [node.id for node in delta.added] == [3]
    assert [node.id for node in delta.removed] == [1]
    assert delta.changed == ()
    assert netmap.peers[3].online is None


def test_no_peers_in_a_list_of_all_says_nothing() -> None:
    netmap, delta = apply(first(Peers=[ONE]), Peers=[], PeersChanged=[TWO])
    assert names(netmap) == {"one", "two"}
    assert delta == NetMapDelta(added=(netmap.peers[2],))


def test_peers_come_change_and_go() -> None:
    netmap, delta = apply(first(Peers=[ONE]), PeersChanged=[TWO])
    assert [node.host_name for node in delta.added] == ["two"]
    netmap, delta = apply(netmap, PeersChanged=[ONE | {"Name": "uno.tail.example."}])
    assert [(before.host_name, after.host_name) for before, after in delta.changed] == [("one", "uno")]
    netmap, delta = apply(netmap, PeersRemoved=[1, 77])
    assert [node.host_name for node in delta.removed] == ["uno"]
    assert names(netmap) == {"two"}


def test_a_changed_peer_is_replaced_whole() -> None:
    netmap, _ = apply(first(Peers=[ONE | {"HomeDERP": 900, "Online": True}]), PeersChanged=[ONE])
    assert netmap.peers[1] == Node(
        1,
        name="one.tail.example.",
        addresses=(ip_address("100.64.0.1"),),
        allowed_ips=(ip_network("100.64.0.1/32"),),
    )


def test_the_order_within_a_message() -> None:
    # removed, then changed; then seen, online and the patch, each of the changed node
    netmap, delta = apply(
        first(Peers=[ONE]),
        PeersRemoved=[1],
        PeersChanged=[ONE | {"LastSeen": text(5), "Online": False}],
        PeerSeenChange={"1": False},
        OnlineChange={"1": True},
        PeersChangedPatch=[{"NodeID": 1, "DERPRegion": 3}, {"NodeID": 1, "DERPRegion": 4, "Online": False}],
    )
    peer = netmap.peers[1]
    assert (peer.last_seen, peer.online, peer.home_derp) == (None, False, 4)
    assert len(delta.changed) == 1


def test_seen_is_now_by_our_clock() -> None:
    netmap, _ = apply(first(Peers=[ONE]), PeerSeenChange={"1": True})
    assert netmap.peers[1].last_seen == WALL


def test_ids_nobody_knows_are_passed_by() -> None:
    before = first(Peers=[ONE])
    netmap, delta = apply(
        before,
        PeersRemoved=[5, 0, -1],
        PeerSeenChange={"5": True},
        OnlineChange={"5": True},
        PeersChangedPatch=[{"NodeID": 5, "DERPRegion": 3}],
    )
    assert netmap == before
    assert not delta


def test_what_was_removed_in_a_message_is_not_patched() -> None:
    netmap, delta = apply(first(Peers=[ONE]), PeersRemoved=[1], OnlineChange={"1": True})
    assert len(netmap.peers) == 0
    assert [node.online for node in delta.removed] == [None]


@pytest.mark.parametrize(
    ("patch", "dropped"),
    [
        ({"Online": False, "LastSeen": text(100)}, True),
        ({"Online": False, "LastSeen": text(99)}, True),
        ({"Online": False, "LastSeen": text(101)}, False),
        ({"Online": True, "LastSeen": text(99)}, False),
        ({"Online": False}, False),
        ({"LastSeen": text(99)}, False),
    ],
)
def test_a_disco_key_of_a_peer_that_was_seen_since_is_dropped_with_its_patch(
    patch: dict[str, Any], dropped: bool
) -> None:
    before = first(Peers=[ONE | {"LastSeen": text(100)}])
    netmap, delta = apply(before, PeersChangedPatch=[{"NodeID": 1, "DiscoKey": DISCO, "DERPRegion": 3} | patch])
    assert (not delta) is dropped
    assert netmap.peers[1].disco_key.is_zero is dropped


def test_without_a_time_to_compare_with_a_disco_key_is_taken() -> None:
    stale = {"NodeID": 1, "DiscoKey": DISCO, "Online": False, "LastSeen": text(1)}
    netmap, _ = apply(first(Peers=[ONE]), PeersChangedPatch=[stale])
    assert not netmap.peers[1].disco_key.is_zero
    netmap, _ = apply(first(Peers=[ONE | {"LastSeen": text(100)}]), PeersChangedPatch=[stale | {"DiscoKey": None}])
    assert netmap.peers[1].last_seen == 1.0


def test_what_is_equal_is_no_change_and_stays_the_same_object() -> None:
    everything: dict[str, Any] = {
        "Node": SELF,
        "DERPMap": {"Regions": {"900": {"Nodes": [{"Name": "a"}]}}},
        "DNSConfig": {"Proxied": True, "Routes": {"a": []}},
        "PacketFilters": {"base": [ALLOW_ALL]},
        "UserProfiles": [{"ID": 1, "LoginName": "x"}],
        "Domain": "example.com",
        "Health": ["a"],
        "DisplayMessages": {"b": {"Title": "c"}},
    }
    before = first(Peers=[ONE, TWO], **everything)
    after, delta = apply(before, PeersChanged=[ONE, TWO], **everything)
    assert not delta
    assert after == before
    assert after.peers is before.peers
    assert after.packet_filter is before.packet_filter
    assert after.dns is before.dns
    assert after.derp_map is before.derp_map
    assert after.self_node is before.self_node
    assert after.user_profiles is before.user_profiles
    assert not NetMapDelta.between(before, first(Peers=[TWO, ONE], **everything))


def test_two_copies_of_every_message_are_harmless() -> None:
    netmap, _ = apply(first(Peers=[ONE]), PeersRemoved=[1], PeersChanged=[TWO])
    again, delta = apply(netmap, PeersRemoved=[1], PeersChanged=[TWO])
    assert again == netmap
    assert not delta


def test_a_keep_alive_changes_nothing_but_the_clock() -> None:
    before = first(Peers=[ONE])
    netmap, delta = apply(before, KeepAlive=True, PeersRemoved=[1], ControlTime=text(WALL + 100))
    assert names(netmap) == {"one"}
    assert netmap.clock_skew == 100
    assert not delta


def test_a_message_with_only_the_time_changes_nothing() -> None:
    before = first(Peers=[ONE], ControlTime=text(WALL))
    assert apply(before, ControlTime=text(WALL + 1)) == (before, NetMapDelta())


def test_each_part_is_told_apart() -> None:
    netmap = first()
    parts: dict[str, dict[str, Any]] = {
        "self_node": {"Node": SELF | {"Name": "x."}},
        "packet_filter": {"PacketFilter": [ALLOW_ALL]},
        "dns": {"DNSConfig": {"Proxied": True}},
        "derp_map": {"DERPMap": {"Regions": {"1": {}}}},
        "user_profiles": {"UserProfiles": [{"ID": 1}]},
        "messages": {"Health": ["x"]},
        "domain": {"Domain": "example.com"},
    }
    for part, members in parts.items():
        netmap, delta = apply(netmap, **members)
        assert [name for name in parts if getattr(delta, name)] == [part]
        assert delta


def test_users_are_added_and_never_removed() -> None:
    netmap = first(UserProfiles=[{"ID": 1, "LoginName": "a"}])
    netmap, _ = apply(netmap, UserProfiles=[{"ID": 2, "LoginName": "b"}])
    netmap, _ = apply(netmap, UserProfiles=[])
    assert {user.login_name for user in netmap.user_profiles.values()} == {"a", "b"}


def test_an_empty_domain_is_no_domain() -> None:
    netmap, delta = apply(first(Domain="example.com"), Domain="")
    assert netmap.domain == "example.com"
    assert not delta


def test_dns_is_replaced_whole() -> None:
    netmap, _ = apply(first(DNSConfig={"Proxied": True, "Domains": ["a"]}), DNSConfig={"Domains": ["b"]})
    assert netmap.dns == Config(search_domains=("b",))


def test_the_relay_map_is_replaced_in_parts() -> None:
    netmap = first(DERPMap={"Regions": {"1": {}, "2": None}, "HomeParams": {"RegionScore": {"1": 0.5}}})
    netmap, _ = apply(netmap, DERPMap={"HomeParams": {}})
    netmap, delta = apply(netmap, DERPMap={"Regions": {"3": {}}})
    assert list(netmap.derp_map.regions) == [3]
    assert netmap.derp_map.region_scores == {1: 0.5}
    assert delta.derp_map
    netmap, _ = apply(netmap, DERPMap={"HomeParams": {"RegionScore": {}}})
    assert netmap.derp_map.region_scores == {}
    assert list(netmap.derp_map.regions) == [3]


def test_health_is_replaced_and_cleared() -> None:
    netmap = first(Health=["a"])
    netmap, delta = apply(netmap, Health=[])
    assert netmap.health == ()
    assert delta.messages


def test_display_messages_are_set_removed_and_cleared() -> None:
    netmap = first(DisplayMessages={"a": {"Title": "A"}, "b": {"Title": "B"}})
    netmap, _ = apply(netmap, DisplayMessages={"a": None, "c": {"Title": "C"}, "nobody": None})
    assert {key: message.title for key, message in netmap.display_messages.items()} == {"b": "B", "c": "C"}
    netmap, delta = apply(netmap, DisplayMessages={"d": {"Title": "D"}, "*": None})
    assert {key: message.title for key, message in netmap.display_messages.items()} == {"d": "D"}
    assert delta.messages


# what is in the message; the sources of all rules then
FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"PacketFilter": []}, []),
    ({"PacketFilter": [{"SrcIPs": ["10.0.0.1"]}]}, ["10.0.0.1"]),
    ({"PacketFilters": {}}, ["1.1.1.1", "2.2.2.2"]),
    ({"PacketFilters": {"x": None}}, ["1.1.1.1"]),
    ({"PacketFilters": {"x": []}}, ["1.1.1.1"]),
    ({"PacketFilters": {"base": None}}, ["2.2.2.2"]),
    ({"PacketFilters": {"a": [{"SrcIPs": ["3.3.3.3"]}]}}, ["3.3.3.3", "1.1.1.1", "2.2.2.2"]),
    ({"PacketFilters": {"*": None}}, []),
    ({"PacketFilters": {"y": [{"SrcIPs": ["3.3.3.3"]}], "*": None}}, ["3.3.3.3"]),
    ({"PacketFilters": {"*": [{"SrcIPs": ["3.3.3.3"]}]}}, ["1.1.1.1", "2.2.2.2"]),
    ({"PacketFilter": [{"SrcIPs": ["3.3.3.3"]}], "PacketFilters": {"*": None}}, []),
    ({"PacketFilter": [{"SrcIPs": ["3.3.3.3"]}], "PacketFilters": {"x": None}}, ["3.3.3.3"]),
    ({"PacketFilter": None, "PacketFilters": None}, ["1.1.1.1", "2.2.2.2"]),
]


@pytest.mark.parametrize(("members", "sources"), FILTERS)
def test_named_filters_are_set_removed_and_cleared(members: dict[str, Any], sources: list[str]) -> None:
    netmap = first(PacketFilter=[{"SrcIPs": ["1.1.1.1"]}], PacketFilters={"x": [{"SrcIPs": ["2.2.2.2"]}]})
    if "PacketFilter" in members and members["PacketFilter"] is not None and "PacketFilters" not in members:
        sources = [*sources, "2.2.2.2"]
    netmap, _ = apply(netmap, **members)
    assert [str(ip_address(rule.sources[0].first)) for rule in netmap.packet_filter] == sources


def test_a_legacy_rule_lets_nothing_in_until_its_set_is_replaced() -> None:
    netmap = first(PacketFilters={"base": [ALLOW_ALL]})
    netmap, delta = apply(netmap, PacketFilters={"old": [{"SrcIPs": ["10.0.0.0"], "SrcBits": [8]}]})
    assert (netmap.packet_filter, netmap.packet_filter_discarded) == ((), LEGACY_RULES)
    assert delta.packet_filter
    netmap, _ = apply(netmap, PacketFilters={"new": [ALLOW_ALL]})
    assert netmap.packet_filter == ()
    netmap, delta = apply(netmap, PacketFilters={"old": None})
    assert len(netmap.packet_filter) == 2
    assert netmap.packet_filter_discarded == ""
    assert delta.packet_filter


UNSIGNED = {"ID": 7, "Addresses": ["100.64.0.7/32"], "AllowedIPs": ["0.0.0.0/0"], "UnsignedPeerAPIOnly": True}


@pytest.mark.parametrize(
    ("rule", "discarded"),
    [
        (ALLOW_ALL, True),
        (ALLOW_WEB, True),
        (ALLOW_WEB | {"SrcIPs": ["100.64.0.0/10"]}, True),
        (ALLOW_WEB | {"SrcIPs": ["100.64.0.6", "::/0"]}, False),
        ({"SrcIPs": ["*"], "CapGrant": [{"Dsts": ["100.64.0.9/32"], "Caps": ["x"]}]}, False),
    ],
)
def test_a_rule_for_a_peer_the_lock_does_not_cover_lets_nothing_in(rule: dict[str, Any], discarded: bool) -> None:
    netmap = first(PacketFilter=[rule], Peers=[ONE, UNSIGNED])
    assert netmap.packet_filter_discarded == (UNSIGNED_PEER if discarded else "")
    assert len(netmap.packet_filter) == (0 if discarded else 1)


def test_the_filter_holds_again_when_that_peer_is_gone_or_signed() -> None:
    netmap = first(PacketFilter=[ALLOW_ALL], Peers=[ONE])
    for change in ({"PeersRemoved": [7]}, {"PeersChanged": [UNSIGNED | {"UnsignedPeerAPIOnly": False}]}):
        netmap, delta = apply(netmap, PeersChanged=[UNSIGNED])
        assert delta.packet_filter
        assert netmap.packet_filter == ()
        netmap, delta = apply(netmap, OnlineChange={"1": True, "7": True})
        assert not delta.packet_filter
        netmap, delta = apply(netmap, **change)
        assert delta.packet_filter
        assert len(netmap.packet_filter) == 1


@pytest.mark.parametrize(("ahead", "skew"), [(0, 0), (60, 0), (-60, 0), (61, 61), (-61, -61), (-1e9, -1e9)])
def test_a_clock_is_off_by_more_than_a_minute_or_not_at_all(ahead: float, skew: float) -> None:
    netmap, _ = apply(first(), ControlTime=text(WALL + ahead))
    assert netmap.clock_skew == skew
    assert apply(netmap)[0].clock_skew == skew
    assert apply(netmap, ControlTime=text(WALL))[0].clock_skew == 0


def test_a_key_expires_by_the_servers_clock() -> None:
    netmap = first(Peers=[ONE | {"KeyExpiry": text(WALL + 1000)}, TWO], ControlTime=text(WALL + 600))
    one, two = netmap.peers[1], netmap.peers[2]
    assert not netmap.is_expired(one, WALL + 399)
    assert netmap.is_expired(one, WALL + 400)
    assert not netmap.is_expired(two, WALL + 1e9)
    assert netmap.next_expiry(WALL) == WALL + 400
    assert netmap.next_expiry(WALL + 400) is None


def test_a_key_that_the_server_calls_expired_is() -> None:
    netmap = first(Peers=[ONE | {"KeyExpiry": text(WALL + 1000), "Expired": True}])
    assert netmap.is_expired(netmap.peers[1], WALL)
    assert netmap.next_expiry(WALL) is None


def test_our_own_key_expires_too() -> None:
    netmap = first(Node=SELF | {"KeyExpiry": text(WALL + 5)}, Peers=[ONE | {"KeyExpiry": text(WALL + 9)}])
    assert netmap.next_expiry(WALL) == WALL + 5
    assert netmap.next_expiry(WALL + 5) == WALL + 9
    assert netmap.is_expired(netmap.self_node, WALL + 5)


def test_a_clock_of_long_ago_calls_nothing_expired() -> None:
    netmap = first(Peers=[ONE | {"KeyExpiry": text(1000)}])
    assert not netmap.is_expired(netmap.peers[1], 2000)
    assert netmap.next_expiry(10) is None


def test_a_new_poll_starts_from_nothing_and_is_compared_with_what_was_before() -> None:
    before = first(Peers=[ONE, TWO], Domain="a", Health=["x"], PacketFilter=[ALLOW_ALL])
    after = first(Peers=[TWO | {"Online": True}, {"ID": 3}], Domain="a", PacketFilter=[ALLOW_ALL])
    assert after.health == ()
    delta = NetMapDelta.between(before, after)
    assert delta == NetMapDelta(
        added=(after.peers[3],),
        changed=((before.peers[2], after.peers[2]),),
        removed=(before.peers[1],),
        messages=True,
    )

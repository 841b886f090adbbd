# SPDX-License-Identifier: BSD-3-Clause
"""Recorded streams of a headscale, message by message: what each changes, and what the netmap then is.

What happened while they were recorded: tests/vectors/headscale/README.md.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from ts4nsnet.control.netmap import NetMap, NetMapDelta
from ts4nsnet.control.node import Node
from ts4nsnet.control.wire import read_map_response
from ts4nsnet.filter import Destination, Range

FOLDER = Path(__file__).parents[2] / "vectors" / "headscale"
ALL_PORTS = {(0, 65535)}


@dataclass(frozen=True)
class Step:
    """One message applied."""

    number: int  # its line, from 1
    netmap: NetMap
    delta: NetMapDelta

    def names(self) -> set[str]:
        return {node.host_name for node in self.netmap.peers.values()}

    def said(self) -> str:
        """The delta in a line."""
        words = [f"+{node.host_name}" for node in self.delta.added]
        words += [f"{after.host_name}:{','.join(different(before, after))}" for before, after in self.delta.changed]
        words += [f"-{node.host_name}" for node in self.delta.removed]
        parts = ("self_node", "packet_filter", "dns", "derp_map", "user_profiles", "messages", "domain")
        words += [part for part in parts if getattr(self.delta, part)]
        return " ".join(words)


def different(before: Node, after: Node) -> list[str]:
    """The names of the attributes that are not equal."""
    return [name for name in Node.__dataclass_fields__ if getattr(before, name) != getattr(after, name)]


def replay(number: int) -> Iterator[Step]:
    netmap: NetMap | None = None
    for line, text in enumerate((FOLDER / f"mapstream-{number}.jsonl").read_text().splitlines(), 1):
        response = read_map_response(json.dumps(json.loads(text)["response"]).encode())
        wall = response.control_time or 0.0
        if netmap is None:
            netmap = NetMap.first(response, wall)
            yield Step(line, netmap, NetMapDelta.between(None, netmap))
        else:
            before, (netmap, delta) = netmap, netmap.apply(response, wall)
            assert delta == NetMapDelta.between(before, netmap)
            yield Step(line, netmap, delta)


def steps(number: int) -> dict[int, Step]:
    return {step.number: step for step in replay(number)}


EVERYTHING = "self_node packet_filter dns derp_map user_profiles messages domain"
ARRIVING = "disco_key,last_seen,online"

CHANGES = [
    # what has no entry is a message that comes to nothing
    (
        1,
        30,
        {
            1: EVERYTHING,
            4: "self_node",  # its own endpoints and relay
            6: "+web",
            7: f"web:{ARRIVING}",
            10: "web:hostinfo",
            11: "web:endpoints,home_derp",
            14: "packet_filter",  # its subnet may be reached
            15: "packet_filter",  # and no more
            17: "packet_filter",  # the policy
            18: "+web-1",
            19: f"web-1:{ARRIVING}",
            22: "web-1:endpoints,home_derp,hostinfo",
            24: "-web",
            25: "self_node",  # its default routes are seen with the next lite update only
            26: "self_node",  # renamed
            27: "self_node",  # expired
            28: "-web-1",
        },
    ),
    (
        2,
        17,
        {
            1: "+tailscaled-b " + EVERYTHING,
            4: "self_node",
            5: "self_node",
            8: "tailscaled-b:allowed_ips,primary_routes packet_filter",
            9: "tailscaled-b:allowed_ips,primary_routes packet_filter",
            10: "tailscaled-b:allowed_ips",  # an exit node now
            11: "packet_filter",
            12: "+web-1",
            13: f"web-1:{ARRIVING}",
            16: "web-1:endpoints,home_derp,hostinfo",
        },
    ),
    (
        3,
        9,
        {
            1: "+tailscaled-b +web " + EVERYTHING,
            4: "self_node",
            6: "-web",
            8: "renamed:name",
            9: "renamed:key_expiry,machine_authorized,expired",
        },
    ),
]


@pytest.mark.parametrize(("stream", "lines", "changes"), CHANGES)
def test_each_message_changes_what_happened_and_nothing_else(stream: int, lines: int, changes: dict[int, str]) -> None:
    said = {step.number: step.said() for step in replay(stream)}
    assert {number: text for number, text in said.items() if text} == changes
    assert len(said) == lines


def test_the_first_message_says_everything() -> None:
    netmap = steps(1)[1].netmap
    assert netmap.self_node.host_name == "tailscaled-b"
    assert netmap.self_node.addresses == (ip_address("100.64.0.1"), ip_address("fd7a:115c:a1e0::1"))
    assert netmap.self_node.machine_authorized
    assert netmap.self_node.capabilities["default-auto-update"] == ("false",)
    assert netmap.self_node.capabilities["https://tailscale.com/cap/ssh"] == ()
    assert len(netmap.peers) == 0
    assert netmap.magic_dns_suffix == "lab.example"
    assert netmap.domain == "10.55.0.1"
    assert [user.login_name for user in netmap.user_profiles.values()] == ["lab"]
    (region,) = netmap.derp_map.regions.values()
    assert region.region_id == 999
    (relay,) = region.nodes
    assert (relay.host_name, relay.ipv4, relay.derp_port, relay.stun_port) == ("10.55.0.1", "10.55.0.1", 443, 3478)
    assert netmap.clock_skew == 0


def test_names_are_configured_with_65_reverse_zones() -> None:
    dns = steps(1)[1].netmap.dns
    assert dns.magic_dns
    assert dns.search_domains == ("lab.example",)
    assert len(dns.routes) == 65
    assert dns.routes["64.100.in-addr.arpa"] == ()
    assert dns.routes["0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"] == ()


def test_a_peer_arrives_offline_and_becomes_reachable_by_and_by() -> None:
    seen = steps(1)
    arrived = seen[6].netmap.peers[2]
    assert (arrived.online, arrived.is_reachable, arrived.last_seen is None) == (False, False, False)
    ready = seen[11].netmap.peers[2]
    assert (ready.online, ready.is_reachable, ready.last_seen) == (True, True, None)
    assert ready.endpoints == ((ip_address("10.55.0.11"), 41227),)
    assert ready.home_derp == 999
    assert (ready.hostinfo.peer_api_v4, ready.hostinfo.peer_api_dns) == (1, True)
    assert seen[6].netmap.peers[2] == arrived  # what came later changed nothing of it


def test_a_subnet_is_approved_given_up_and_followed_by_default_routes() -> None:
    def routes(number: int) -> set[str]:
        peer = seen[number].netmap.peers[1]
        own = {ip_network(address) for address in peer.addresses}
        return {str(prefix) for prefix in peer.allowed_ips if prefix not in own}

    seen = steps(2)
    assert [routes(number) for number in (7, 8, 9, 10)] == [set(), {"192.0.2.0/24"}, set(), {"0.0.0.0/0", "::/0"}]
    assert seen[8].netmap.peers[1].primary_routes == (ip_network("192.0.2.0/24"),)
    (rule,) = seen[8].netmap.packet_filter
    assert Range.of(ip_network("192.0.2.0/24")) in rule.sources


def ports(step: Step) -> dict[tuple[int, ...], set[tuple[int, int]]]:
    """By protocols, what the packet filter opens."""
    return {
        rule.protocols: {(each.first_port, each.last_port) for each in rule.destinations}
        for rule in step.netmap.packet_filter
    }


def test_the_policy_changes_from_everything_to_two_ports_and_ping() -> None:
    seen = steps(1)
    assert ports(seen[16]) == {(6, 17, 1, 58): ALL_PORTS}
    assert ports(seen[17]) == {(6,): {(80, 80), (443, 443)}, (1,): ALL_PORTS}
    everywhere = [Destination(Range(4, 0, 2**32 - 1), 443, 443), Destination(Range(6, 0, 2**128 - 1), 443, 443)]
    assert set(everywhere) <= set(seen[17].netmap.packet_filter[0].destinations)


def test_a_name_that_is_taken_gets_a_number_and_the_first_one_is_gone_at_once() -> None:
    first, second = steps(1), steps(3)
    assert first[18].names() == {"web", "web-1"}
    assert first[24].names() == {"web-1"}
    assert second[1].netmap.self_node.host_name == "web-1"
    assert second[1].netmap.self_node.hostinfo.host_name == "web"
    assert second[6].names() == {"tailscaled-b"}


def test_a_node_sees_itself_renamed_and_expired_and_in_the_end_alone() -> None:
    seen = steps(1)
    assert seen[26].netmap.self_node.name == "renamed.lab.example."
    assert not seen[26].netmap.self_node.expired
    end = seen[30].netmap
    assert end.self_node.expired
    assert end.is_expired(end.self_node, wall=end.self_node.created or 0.0)
    assert not end.self_node.machine_authorized
    assert len(end.peers) == 0
    assert {str(prefix) for prefix in end.self_node.allowed_ips} > {"0.0.0.0/0", "::/0"}


def test_others_see_it_renamed_and_expired() -> None:
    seen = steps(3)
    peer = seen[9].netmap.peers[1]
    assert peer.name == "renamed.lab.example."
    assert peer.expired
    assert peer.key_expiry is not None
    assert seen[8].netmap.next_expiry(peer.key_expiry - 1) is None
    before = seen[8].netmap.peers[1]
    assert not seen[8].netmap.is_expired(before, peer.key_expiry + 1)

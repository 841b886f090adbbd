# SPDX-License-Identifier: BSD-3-Clause
"""Any sequence of messages, against a naive model: dictionaries of JSON, changed in place."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.netmaps import ALLOW_ALL, ALLOW_WEB, DISCO, WALL, apply, first, text
from ts4nsnet.control.netmap import NetMap, NetMapDelta

IDS = st.integers(1, 6)
TIMES = st.sampled_from([text(at) for at in (1, 100, WALL)])
DISCO_KEYS = st.sampled_from([DISCO, "discokey:" + "f0" * 32])
ROUTES = st.lists(st.sampled_from(["192.0.2.0/24", "0.0.0.0/0", "100.100.1.1/32"]), unique=True)
NODES = st.fixed_dictionaries(
    {"ID": IDS},
    optional={
        "Name": st.sampled_from(["a.x.", "b.x."]),
        "AllowedIPs": ROUTES,
        "DiscoKey": DISCO_KEYS,
        "HomeDERP": st.integers(0, 3),
        "LastSeen": TIMES,
        "Online": st.booleans(),
        "KeyExpiry": TIMES,
    },
)
PATCHES = st.fixed_dictionaries(
    {"NodeID": IDS},
    optional={
        "DERPRegion": st.integers(0, 3),
        "DiscoKey": DISCO_KEYS,
        "Online": st.booleans(),
        "LastSeen": TIMES,
        "KeyExpiry": TIMES | st.just("0001-01-01T00:00:00Z"),
        "Endpoints": st.lists(st.sampled_from(["192.0.2.1:1", "[::1]:2"])),
        "CapMap": st.dictionaries(st.sampled_from("ab"), st.lists(st.integers())),
    },
)
RULES = st.lists(st.sampled_from([ALLOW_ALL, ALLOW_WEB]), max_size=2)
BY_ID = st.dictionaries(st.integers(0, 7).map(str), st.booleans(), max_size=3)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "Node": NODES,
        "Peers": st.lists(NODES, max_size=4),
        "PeersChanged": st.lists(NODES, max_size=3),
        "PeersRemoved": st.lists(IDS, max_size=3),
        "PeerSeenChange": BY_ID,
        "OnlineChange": BY_ID,
        "PeersChangedPatch": st.lists(PATCHES, max_size=3),
        "PacketFilter": RULES,
        "PacketFilters": st.dictionaries(st.sampled_from(["*", "base", "x"]), st.none() | RULES),
        "DERPMap": st.fixed_dictionaries(
            {}, optional={"Regions": st.dictionaries(st.sampled_from("123"), st.just({}))}
        ),
        "DNSConfig": st.fixed_dictionaries({}, optional={"Domains": st.lists(st.sampled_from("ab"))}),
        "UserProfiles": st.lists(st.fixed_dictionaries({"ID": IDS, "LoginName": st.sampled_from("ab")})),
        "Health": st.lists(st.sampled_from("ab")),
        "DisplayMessages": st.dictionaries(
            st.sampled_from("*abc"), st.none() | st.fixed_dictionaries({"Title": st.sampled_from("xy")})
        ),
        "Domain": st.sampled_from(["", "a", "b"]),
    },
)


class Naive:
    """The netmap as a program would keep it that does not care what it costs."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.peers: dict[int, dict[str, Any]] = {}
        self.filters: dict[str, Any] = {}
        self.users: dict[int, Any] = {}
        self.messages: dict[str, Any] = {}

    def apply(self, message: dict[str, Any]) -> None:
        if message.get("Peers"):
            self.peers = {node["ID"]: dict(node) for node in message["Peers"]}
        else:
            self.apply_peer_changes(message)
        for user in message.get("UserProfiles", []):
            self.users[user["ID"]] = user
        if "PacketFilter" in message:
            self.filters["base"] = message["PacketFilter"]
        self.patch(self.filters, message.get("PacketFilters", {}))
        self.patch(self.messages, message.get("DisplayMessages", {}))
        for name in ("Node", "DNSConfig", "Health"):
            if name in message:
                self.state[name] = message[name]
        if message.get("Domain"):
            self.state["Domain"] = message["Domain"]
        if "Regions" in message.get("DERPMap", {}):
            self.state["DERPMap"] = message["DERPMap"]

    def apply_peer_changes(self, message: dict[str, Any]) -> None:
        before = {number: dict(node) for number, node in self.peers.items()}
        for number in message.get("PeersRemoved", []):
            self.peers.pop(number, None)
        for node in message.get("PeersChanged", []):
            self.peers[node["ID"]] = dict(node)
        for key, seen in message.get("PeerSeenChange", {}).items():
            if int(key) in self.peers:
                self.peers[int(key)]["LastSeen"] = text(WALL) if seen else None
        for key, online in message.get("OnlineChange", {}).items():
            if int(key) in self.peers:
                self.peers[int(key)]["Online"] = online
        for patch in message.get("PeersChangedPatch", []):
            number = patch["NodeID"]
            if number in self.peers and not self.stale(patch, before.get(number, {})):
                values = {key: value for key, value in patch.items() if key not in {"NodeID", "DERPRegion"}}
                self.peers[number].update(values)
                self.peers[number]["HomeDERP"] = patch.get("DERPRegion") or self.peers[number].get("HomeDERP")

    @staticmethod
    def stale(patch: dict[str, Any], node: dict[str, Any]) -> bool:
        if "DiscoKey" not in patch or patch.get("Online") is not False or not patch.get("LastSeen"):
            return False
        return node.get("LastSeen") is not None and patch["LastSeen"] <= node["LastSeen"]

    @staticmethod
    def patch(named: dict[str, Any], changes: dict[str, Any]) -> None:
        if "*" in changes and changes["*"] is None:
            named.clear()
        for name, value in changes.items():
            if name != "*" and value is not None:
                named[name] = value
            elif name != "*":
                named.pop(name, None)

    def netmap(self) -> NetMap:
        """All of it as one first message."""
        return first(
            **self.state,
            Peers=list(self.peers.values()),
            PacketFilters=self.filters,
            UserProfiles=list(self.users.values()),
            DisplayMessages=self.messages,
        )


@given(st.lists(MESSAGES, max_size=6))
def test_any_messages_lead_to_what_a_naive_model_says(messages: list[dict[str, Any]]) -> None:
    netmap, naive = first(), Naive()
    versions = [(netmap, dict(netmap.peers))]
    for message in messages:
        naive.apply(message)
        netmap, delta = apply(netmap, **message)
        versions.append((netmap, dict(netmap.peers)))
        assert netmap == naive.netmap()
        before = versions[-2][0]
        assert delta == NetMapDelta.between(before, netmap)
        # rules under other names may come to the same
        assert bool(delta) is (replace(before, filters=netmap.filters) != netmap)
    for version, peers in versions:
        assert dict(version.peers) == peers

# SPDX-License-Identifier: BSD-3-Clause
"""Wiring: what a netmap means for WireGuard, the relays and the container's link.

Control fills the netmap, the other parts have never heard of it; this is the only place that knows both sides. It is a
function from netmaps to changes, and does work for what changed only, as the netmap's delta says:

    NetMap, delta ──► Wiring.apply ──► peers to set, peers to remove, the link (addresses and routes)

A peer is wired while packets can go to it and come from it: it is not expired, and has a disco key, a relay or is
WireGuard alone. It gets its own addresses and the subnets it routes; a default route is an exit node's offer and not
accepted here. Its endpoint is the relay of its home region; a better path is for others to find.

Source: notes control.md 5.7, 9.1; tailscale, net/routemanager.
"""

from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from ts4nsnet import derp
from ts4nsnet.control import NetMap, NetMapDelta
from ts4nsnet.control import Node as NetMapNode
from ts4nsnet.keys import PublicKey
from ts4nsnet.netns import Link, Route
from ts4nsnet.netns.model import MAX_PRIORITY
from ts4nsnet.wireguard import PeerConfig

Prefix = IPv4Network | IPv6Network

TAILNET_V4 = IPv4Network("100.64.0.0/10")  # the range of all tailnets' addresses; control notes, 10.6
TAILNET_V6 = IPv6Network("fd7a:115c:a1e0::/48")
# what every path of a tailnet carries, bytes of inner packet; tailscale, net/tstun
TAILNET_MTU = 1280
# ours: packets; a receive window of some MB in packets of that size, which the kernel may hand over at once
TXQUEUELEN = 4000


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be done so that the other parts fit the netmap; removals come first.

    Attributes:
        removed: peers that are no more.
        peers: peers to add, or to change to this.
        link: what the container's link shall be like; None: as it is.
    """

    removed: tuple[PublicKey, ...] = ()
    peers: tuple[PeerConfig, ...] = ()
    link: Link | None = None


class Wiring:
    """Remembers what is wired, so that a netmap can be compared with it.

    Args:
        interface: the name of the container's link.
    """

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._peers: dict[int, PeerConfig] = {}  # by NodeID
        self._keys: Counter[PublicKey] = Counter()  # by how many nodes; more than one only while a server changes them
        self._subnets: Counter[Prefix] = Counter()  # accepted ones, and by how many peers
        self._link: Link | None = None

    def apply(self, netmap: NetMap, delta: NetMapDelta, wall: float) -> Changes:
        """What `netmap`, which differs from the one before by `delta`, asks for.

        Args:
            wall: unix seconds; keys expire by it.
        """
        before, after = {}, {}
        for node in delta.removed:
            before[node.id] = self._peers.get(node.id)
        for node in (*delta.added, *(new for _, new in delta.changed)):
            before[node.id] = self._peers.get(node.id)
            usable = node.is_reachable and not node.key.is_zero and node.key != netmap.self_node.key
            if usable and not netmap.is_expired(node, wall):
                after[node.id] = peer_config(node)
        return self._changes(before, after, netmap)

    def expire(self, netmap: NetMap, wall: float) -> Changes:
        """What the passing of time asks for: peers whose keys have expired by `wall` are removed."""
        before = {number: self._peers.get(number) for number in self._peers if self._is_gone(number, netmap, wall)}
        return self._changes(before, {}, netmap)

    def _is_gone(self, number: int, netmap: NetMap, wall: float) -> bool:
        node = netmap.peers.get(number)
        return node is None or netmap.is_expired(node, wall)

    def _changes(self, before: dict[int, PeerConfig | None], after: dict[int, PeerConfig], netmap: NetMap) -> Changes:
        for number, old in before.items():
            if old is not None:
                self._subnets.subtract(_subnets(old))
                self._keys[old.public_key] -= 1
                del self._peers[number]
        for number, new in after.items():
            self._subnets.update(_subnets(new))
            self._keys[new.public_key] += 1
            self._peers[number] = new
        self._subnets += Counter()  # drops those that nobody has
        gone = {old.public_key for old in before.values() if old is not None and not self._keys[old.public_key]}
        for key in gone:
            del self._keys[key]
        peers = [config for number, config in after.items() if config != before[number]]
        link = self._wanted_link(netmap)
        if link == self._link:
            return Changes(tuple(gone), tuple(peers))
        self._link = link
        return Changes(tuple(gone), tuple(peers), link)

    def _wanted_link(self, netmap: NetMap) -> Link:
        accepted = [TAILNET_V4, TAILNET_V6, *sorted(self._subnets, key=str)]
        routes = [Route(str(prefix), mtu=TAILNET_MTU) for prefix in accepted]
        # nothing may leak, or hang, whatever becomes of the link
        routes += [Route(prefix, priority=MAX_PRIORITY, unreachable=True) for prefix in ("0.0.0.0/0", "::/0")]
        addresses = tuple(str(address) for address in netmap.self_node.addresses)
        return Link(self._interface, addresses, tuple(routes), txqueuelen=TXQUEUELEN)


def peer_config(node: NetMapNode) -> PeerConfig:
    """The WireGuard peer that a node of the netmap is."""
    own = {ip_network(address) for address in node.addresses}
    allowed = {prefix for prefix in node.allowed_ips if prefix.prefixlen > 0} | own
    endpoint = derp.to_endpoint(node.home_derp, node.key) if node.home_derp else None
    return PeerConfig(node.key, frozenset(allowed), endpoint=endpoint)


def _subnets(config: PeerConfig) -> list[Prefix]:
    """What a peer routes beyond the tailnet's own addresses."""
    return [
        prefix
        for prefix in config.allowed_ips
        if not (prefix.subnet_of(TAILNET_V4) if isinstance(prefix, IPv4Network) else prefix.subnet_of(TAILNET_V6))
    ]

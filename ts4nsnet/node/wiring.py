# SPDX-License-Identifier: BSD-3-Clause
"""Wiring: what a netmap means for WireGuard, the relays and the container's link.

Control fills the netmap, the other parts have never heard of it; this is the only place that knows both sides. It is a
function from netmaps to changes, and does work for what changed only, as the netmap's delta says:

    NetMap, delta ──► Wiring.apply ──► peers to set, peers to remove, the link (addresses and routes)

A peer is wired while packets can go to it and come from it: it is not expired, and has a disco key, a relay or is
WireGuard alone. It gets its own addresses and the subnets it routes; a default route is an exit node's offer, accepted
of the one that was asked for. Which of its endpoints packets go to is for magicsock to find.

The container's link has more than the tailnet's addresses and routes:

* the address that container tools believe it to have (10.0.2.100, or --cidr's): published ports dial it;
* a route for each peer whose path carries longer packets than a tailnet's; not for what lies behind a peer, of which
  its path says nothing;
* a default route through the TUN, of low rank: what has no way is refused by us, at once and with a reason;
* below that, from before the TUN is used until after it is gone: nothing is reachable, so nothing leaks or hangs.

Source: notes control.md 5.7, 9.1, container-tools.md 1; tailscale, net/routemanager.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import NamedTuple, Self

from ts4nsnet.control import NetMap, NetMapDelta
from ts4nsnet.control import Node as NetMapNode
from ts4nsnet.endpoint import ip_endpoint
from ts4nsnet.filter import Range, Rule
from ts4nsnet.keys import PublicKey
from ts4nsnet.magicsock import PeerPaths
from ts4nsnet.netns import Link, Route
from ts4nsnet.netns.model import MAX_PRIORITY, MIN_IPV6_MTU, MIN_MTU
from ts4nsnet.tailnet import TAILNET_MTU, TAILNET_V4, TAILNET_V6
from ts4nsnet.wireguard import PeerConfig

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

EVERYTHING = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
# ours: packets; a receive window of some MB in packets of that size, which the kernel may hand over at once
TXQUEUELEN = 4000
# ours: a metric behind that of a default route that a container tool adds (rootlesskit: 0)
DEFAULT_PRIORITY = 1000


class WiredPeer(NamedTuple):
    """A peer as WireGuard knows it, and the ways to it."""

    config: PeerConfig
    paths: PeerPaths


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be done so that the other parts fit the netmap; removals come first.

    Attributes:
        removed: peers that are no more.
        peers: peers to add, or to change to this.
        link: what the container's link shall be like; None: as it is.
    """

    removed: tuple[PublicKey, ...] = ()
    peers: tuple[WiredPeer, ...] = ()
    link: Link | None = None


class Admission(NamedTuple):
    """What a netmap means for the packet filter: the arguments of `Filter.set_rules`."""

    rules: Sequence[Rule]
    local: Sequence[Prefix]
    sources_with: Mapping[str, Sequence[Range]]
    jailed: Sequence[Prefix]

    @classmethod
    def of(cls, netmap: NetMap) -> Self:
        """Read a netmap; asks each peer once, so do it when filter, peers or our own node have changed."""
        named = {name for rule in netmap.packet_filter for name in rule.source_capabilities}
        sources: dict[str, list[Range]] = {name: [] for name in named}
        jailed: list[Prefix] = []
        for node in netmap.peers.values():
            own = [ip_network(address) for address in node.addresses] if node.jailed or named else []
            if node.jailed:
                jailed += own
            for name in named.intersection(node.capabilities):
                sources[name] += map(Range.of, own)
        local = [ip_network(address) for address in netmap.self_node.addresses]
        return cls(netmap.packet_filter, local, sources, jailed)


class Wiring:
    """Remembers what is wired, so that a netmap can be compared with it.

    Args:
        interface: the name of the container's link.
        address: what container tools believe the container's to be, beside those of the tailnet; None for nothing.
        max_mtu: bytes, that no route's MTU exceeds; None: as the paths allow.
        exit_node: name, address or stable id of the peer that takes what is not the tailnet's; empty for none.
    """

    def __init__(
        self, interface: str, address: IPv4Address | None = None, max_mtu: int | None = None, exit_node: str = ""
    ) -> None:
        self._interface = interface
        self._own = () if address is None else (address,)
        self._least_mtus = {4: max(MIN_MTU, _least(max_mtu)), 6: max(MIN_IPV6_MTU, _least(max_mtu))}
        self._mtus: dict[PublicKey, int] = {}  # of paths that carry more
        self._sources: tuple[Address, ...] = ()
        self._exit_node = exit_node
        self._peers: dict[int, WiredPeer] = {}  # by NodeID
        self._keys: Counter[PublicKey] = Counter()  # by how many nodes; more than one only while a server changes them
        self._subnets: Counter[Prefix] = Counter()  # accepted ones, and by how many peers
        self._link: Link | None = None

    def first_link(self) -> Link:
        """The link before there is a netmap: nothing is reachable."""
        return Link(self._interface, self._own, _NO_WAY, txqueuelen=TXQUEUELEN)

    def apply(self, netmap: NetMap, delta: NetMapDelta, wall: float) -> Changes:
        """What `netmap`, which differs from the one before by `delta`, asks for.

        Args:
            wall: unix seconds; keys expire by it.
        """
        before: dict[int, WiredPeer | None] = {}
        after: dict[int, WiredPeer] = {}
        for node in delta.removed:
            before[node.id] = self._peers.get(node.id)
        for node in (*delta.added, *(new for _, new in delta.changed)):
            before[node.id] = self._peers.get(node.id)
            usable = node.is_reachable and not node.key.is_zero and node.key != netmap.self_node.key
            if usable and not netmap.is_expired(node, wall):
                after[node.id] = wired_peer(node, is_exit=is_named(node, self._exit_node))
        return self._changes(before, after, netmap)

    def widen(self, key: PublicKey, mtu: int) -> None:
        """The path to a peer carries packets of so many bytes."""
        if mtu > TAILNET_MTU:
            self._mtus[key] = mtu
        else:
            self._mtus.pop(key, None)

    def widened(self, link: Link) -> Link:
        """A link that was asked for, with the routes of paths that carry more."""
        routes: dict[str | IPv4Network | IPv6Network, Route] = {}
        for peer in self._peers.values():
            mtu = 0 if peer.paths.is_gateway else self._mtus.get(peer.config.public_key, 0)
            routes |= {str(prefix): self._route(prefix, mtu) for prefix in peer.config.allowed_ips if mtu}
        for route in link.routes:
            routes.pop(route.destination, None)
        return replace(link, routes=(*link.routes, *(routes[each] for each in sorted(routes, key=str))))

    def expire(self, netmap: NetMap, wall: float) -> Changes:
        """What the passing of time asks for: peers whose keys have expired by `wall` are removed."""
        before = {number: self._peers.get(number) for number in self._peers if self._is_gone(number, netmap, wall)}
        return self._changes(before, {}, netmap)

    def _is_gone(self, number: int, netmap: NetMap, wall: float) -> bool:
        node = netmap.peers.get(number)
        return node is None or netmap.is_expired(node, wall)

    def _changes(self, before: dict[int, WiredPeer | None], after: dict[int, WiredPeer], netmap: NetMap) -> Changes:
        for number, old in before.items():
            if old is not None:
                self._subnets.subtract(_subnets(old.config))
                self._keys[old.config.public_key] -= 1
                del self._peers[number]
        for number, new in after.items():
            self._subnets.update(_subnets(new.config))
            self._keys[new.config.public_key] += 1
            self._peers[number] = new
        self._subnets += Counter()  # drops those that nobody has
        olds = {old.config.public_key for old in before.values() if old is not None}
        gone = {key for key in olds if not self._keys[key]}
        for key in gone:
            del self._keys[key]
            self._mtus.pop(key, None)
        peers = [peer for number, peer in after.items() if peer != before[number]]
        link = self._wanted_link(netmap)
        if link == self._link:
            return Changes(tuple(gone), tuple(peers))
        self._link = link
        return Changes(tuple(gone), tuple(peers), link)

    def _wanted_link(self, netmap: NetMap) -> Link:
        own = self._sources = netmap.self_node.addresses
        accepted = [TAILNET_V4, TAILNET_V6, *sorted(self._subnets, key=str)]
        routes = [self._route(prefix) for prefix in accepted]
        routes += [self._route(prefix, priority=DEFAULT_PRIORITY) for prefix in EVERYTHING]
        return Link(self._interface, (*own, *self._own), (*routes, *_NO_WAY), txqueuelen=TXQUEUELEN)

    def _route(self, prefix: Prefix, mtu: int = 0, *, priority: int | None = None) -> Route:
        # without a source the kernel could choose the address that only container tools know
        source = next((address for address in self._sources if address.version == prefix.version), None)
        return Route(prefix, mtu=mtu or self._least_mtus[prefix.version], priority=priority, source=source)


# nothing may leak, or hang, whatever becomes of the link
_NO_WAY = tuple(Route(prefix, priority=MAX_PRIORITY, unreachable=True) for prefix in EVERYTHING)


def wired_peer(node: NetMapNode, *, is_exit: bool = False) -> WiredPeer:
    """What a node of the netmap is to WireGuard and magicsock."""
    own = {ip_network(address) for address in node.addresses}
    allowed = {prefix for prefix in node.allowed_ips if prefix.prefixlen > 0 or is_exit} | own
    endpoints = tuple(dict.fromkeys(ip_endpoint(*endpoint) for endpoint in node.endpoints))
    is_gateway = allowed != own
    paths = PeerPaths(node.key, node.disco_key, node.home_derp, endpoints, node.wireguard_only, is_gateway)
    return WiredPeer(PeerConfig(node.key, frozenset(allowed)), paths)


def is_named(node: NetMapNode, text: str) -> bool:
    """Whether `text` names a node: by its name with or without the tailnet's suffix, an address or its stable id."""
    name = text.lower().removesuffix(".")
    own = node.name.lower().removesuffix(".")
    return bool(name) and (
        name in (own, own.partition(".")[0], node.stable_id.lower()) or name in map(str, node.addresses)
    )


def find_node(netmap: NetMap, text: str) -> NetMapNode | None:
    """The peer that `text` names; see `is_named`."""
    return next((node for node in netmap.peers.values() if is_named(node, text)), None)


def is_exit_node(node: NetMapNode) -> bool:
    """Whether a node offers to take what is not the tailnet's, of either family."""
    return any(prefix in EVERYTHING for prefix in node.allowed_ips)


def _least(max_mtu: int | None) -> int:
    return TAILNET_MTU if max_mtu is None else min(TAILNET_MTU, max_mtu)


def _subnets(config: PeerConfig) -> list[Prefix]:
    """What a peer routes beyond the tailnet's own addresses; the default route is the link's in any case."""
    return [
        prefix
        for prefix in config.allowed_ips
        if prefix.prefixlen > 0
        and not (prefix.subnet_of(TAILNET_V4) if isinstance(prefix, IPv4Network) else prefix.subnet_of(TAILNET_V6))
    ]

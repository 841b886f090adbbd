# SPDX-License-Identifier: BSD-3-Clause
"""Addresses: which of this host's are told to peers, and which of a peer's are worth a ping.

A peer may reach us at every address of this host, together with the port of our socket, but for those of *overlays*:
interfaces that are tunnels to another private network, as the host's own Tailscale or WireGuard. A path through one
would be a tunnel in a tunnel: it works, is slow, every packet becomes two, and nobody sees why. An overlay is

    by its name    tailscale…, wg…, zt… (ZeroTier), wt0 (NetBird)
    by its kind    WireGuard, whatever its name
    by its address in a tailnet's ranges, when it is a tunnel; a provider may use 100.64.0.0/10 on its own lines

Of the others: link-local IPv4 and unique local IPv6 addresses when there are no better ones, loopback when there is
nothing else at all; at most two IPv6 addresses of a subnet. IPv6 link-local addresses mean nothing elsewhere.

Source: tailscale, net/netmon and wgengine/magicsock; our notes on paths, section 2.1; ours: carrier, kind, limit.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from ts4nsnet.endpoint import Endpoint, ip_endpoint, to_ip, zone_of
from ts4nsnet.tailnet import is_tailnet

IPAddress = IPv4Address | IPv6Address

PRIVATE_V4 = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))  # RFC 1918
PRIVATE_V6 = IPv6Network("fc00::/7")  # RFC 4193
BROADCAST = IPv4Address("255.255.255.255")
OVERLAY_NAMES = ("tailscale", "wg", "zt")
OVERLAY_NAME = "wt0"
WIREGUARD_KIND = "wireguard"
MAX_IPV6_PER_SUBNET = 2
# ours: of a host with many bridges; the reference's peers begin to forget endpoints beyond 100
MAX_OWN_ENDPOINTS = 32


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of this host.

    Attributes:
        kind: as the kernel names the driver of a virtual one; empty for others.
        is_up: usable: set up, and with a carrier.
        is_tunnel: without a link layer.
        mtu: bytes of IP packet; 0: unknown.
    """

    index: int
    name: str
    kind: str = ""
    is_up: bool = True
    is_loopback: bool = False
    is_tunnel: bool = False
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    mtu: int = 0

    @property
    def is_overlay(self) -> bool:
        """Whether it leads into another private network."""
        if self.name.startswith(OVERLAY_NAMES) or self.name == OVERLAY_NAME or self.kind == WIREGUARD_KIND:
            return True
        return self.is_tunnel and any(is_tailnet(address.ip) for address in self.addresses)


def own_endpoints(interfaces: Sequence[Interface], port: int, *, ipv6: bool) -> tuple[Endpoint, ...]:
    """Where peers may reach a socket at `port` of all these interfaces, the best known kinds first, none twice."""
    usable = [interface for interface in interfaces if interface.is_up and not interface.is_overlay]
    lines = [address for i in usable if not i.is_loopback for address in _announceable(i, ipv6=ipv6)]
    loops = [address.ip for i in usable if i.is_loopback for address in i.addresses if ipv6 or address.version == 4]
    choices = [address for address in lines if not _is_second_rate(address)], lines, loops
    best: list[IPAddress] = next(filter(None, choices), [])
    return tuple(dict.fromkeys(ip_endpoint(address, port) for address in best))[:MAX_OWN_ENDPOINTS]


def _announceable(interface: Interface, *, ipv6: bool) -> Iterator[IPAddress]:
    per_subnet: Counter[IPv6Network] = Counter()
    for address in interface.addresses:
        if is_tailnet(address.ip):
            continue
        if isinstance(address, IPv6Interface):
            per_subnet[address.network] += 1
            if not ipv6 or address.is_link_local or per_subnet[address.network] > MAX_IPV6_PER_SUBNET:
                continue
        yield address.ip


def _is_second_rate(address: IPAddress) -> bool:
    return address.is_link_local if isinstance(address, IPv4Address) else address in PRIVATE_V6


def is_private(address: IPAddress) -> bool:
    """Whether many networks use this address."""
    if isinstance(address, IPv4Address):
        return any(address in network for network in PRIVATE_V4)
    return address in PRIVATE_V6


def is_candidate(endpoint: Endpoint) -> bool:
    """Whether a peer can be at this endpoint: a host's address that has a meaning here, and a port."""
    address, port = to_ip(endpoint)
    if not port or address.is_unspecified or address.is_multicast or address == BROADCAST or is_tailnet(address):
        return False
    return isinstance(address, IPv4Address) or not address.is_link_local or zone_of(endpoint) != 0


def candidates(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Those of `endpoints` where a peer can be, none twice."""
    return tuple(filter(is_candidate, dict.fromkeys(endpoints)))

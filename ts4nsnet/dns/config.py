# SPDX-License-Identifier: BSD-3-Clause
"""What the coordination server says about DNS, as values.

Names are kept as they are compared: in lower case, with no dot around them (`normal_name`); the root is the empty name.
Which zones, hosts and routes follow from it is for whoever answers queries to derive.

Source: tailcfg.DNSConfig, dnstype.Resolver of tailscale; notes control.md 7.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Resolver:
    """A server to ask.

    Attributes:
        address: as sent: an address (port 53), `address:port`, `https://…` (DNS over HTTPS), `http://address:port/…`
            (the same within the tunnel), or what a newer server may send: whoever does not know a form passes it by.
        bootstrap: addresses of the host that `address` names.
        use_with_exit_node: is asked also while all traffic goes to an exit node.
    """

    address: str
    bootstrap: tuple[str, ...] = ()
    use_with_exit_node: bool = False


@dataclass(frozen=True, slots=True)
class ExtraRecord:
    """One more name of the tailnet, and its address."""

    name: str
    address: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Config:
    """The tailnet's DNS configuration; the default is that of a session that was told nothing.

    Attributes:
        resolvers: for all names that no route is for; none: those of the host.
        routes: by suffix; read only. No resolvers: names below it are answered from the tailnet's names alone.
        fallback_resolvers: instead of the host's, where these cannot be had.
        search_domains: in the order to try them.
        magic_dns: the tailnet's own names are to be answered.
        cert_domains: names that the server helps to get certificates for.
        extra_records: in the order sent.
        exit_node_filtered: what an exit node does not resolve for others: names, and suffixes that start with a dot.
    """

    resolvers: tuple[Resolver, ...] = ()
    routes: Mapping[str, tuple[Resolver, ...]] = field(default_factory=lambda: MappingProxyType({}))
    fallback_resolvers: tuple[Resolver, ...] = ()
    search_domains: tuple[str, ...] = ()
    magic_dns: bool = False
    cert_domains: tuple[str, ...] = ()
    extra_records: tuple[ExtraRecord, ...] = ()
    exit_node_filtered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "routes", MappingProxyType(dict(self.routes)))


def normal_name(name: str) -> str:
    """A DNS name as it is compared: ASCII letters in lower case (RFC 4343), without its final dot."""
    # str.lower would also change letters beyond ASCII, and DNS does not
    return name.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass").removesuffix(".")

# SPDX-License-Identifier: BSD-3-Clause
"""A server that can be asked: an address and a port.

The coordination server writes a resolver as `address`, `address:port` or an URL. Only the first two are servers to us;
whoever finds no other way takes the next route, as the reference does with forms that it does not know.

Never a server is one of MagicDNS's own addresses: to ask it would be to ask ourselves, or another tailnet.

Source: tailscale, net/dns/resolver (forwarder.go), types/dnstype; notes dns-filter.md A6.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from ts4nsnet.dns.config import Resolver
from ts4nsnet.tailnet import SERVICE_V4, SERVICE_V6

Address = IPv4Address | IPv6Address

DNS_PORT: Final = 53
# where every node answers by itself
SERVICE_ADDRESSES: tuple[Address, ...] = (SERVICE_V4, SERVICE_V6)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server to ask over UDP.

    Attributes:
        address: an IPv6 one may have a zone.
        port: of UDP.
        tailnet: named by the coordination server, so that the way to it may lead through the tailnet; False: it is a
            resolver of the host, which is the one to reach it.
    """

    address: Address
    port: int = DNS_PORT
    tailnet: bool = False


def usable(resolvers: Iterable[Resolver]) -> tuple[Upstream, ...]:
    """Those of the coordination server's resolvers that we can ask, each once."""
    found = (_parse(resolver.address) for resolver in resolvers)
    return tuple(dict.fromkeys(upstream for upstream in found if upstream is not None))


def _parse(text: str) -> Upstream | None:
    host, port = text, str(DNS_PORT)
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]:")
        if not bracket:
            return None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not (port.isascii() and port.isdecimal() and 0 < len(port) <= 5 and 0 < int(port) < 1 << 16):
        return None
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return None if address in SERVICE_ADDRESSES else Upstream(address, int(port), tailnet=True)

# SPDX-License-Identifier: BSD-3-Clause
"""What all tailnets have in common: the ranges of their nodes' addresses, where a node's own services answer, and how
long a packet may be that every path carries.

Source: tailscale, net/tsaddr, net/tstun; notes control.md 10.6, dns-filter.md A1.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

TAILNET_V4 = IPv4Network("100.64.0.0/10")
TAILNET_V6 = IPv6Network("fd7a:115c:a1e0::/48")
SERVICE_V4 = IPv4Address("100.100.100.100")
SERVICE_V6 = IPv6Address("fd7a:115c:a1e0::53")
TAILNET_MTU = 1280  # bytes of inner packet


def is_tailnet(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is in the ranges of tailnets' nodes."""
    return address in TAILNET_V4 if isinstance(address, IPv4Address) else address in TAILNET_V6

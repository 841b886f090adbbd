# SPDX-License-Identifier: BSD-3-Clause
"""What of the container's traffic the node answers itself: names, and whatever goes to its service addresses.

A container's resolv.conf may name servers that are right on its host and mean nothing here; some resolvers ask all of
them and believe the first "no such name". So whatever goes to port 53 and neither to the tailnet nor to a subnet of
it is shown to the node. What it asks others by the container's way is among that: it knows its own, and lets it go on.
"""

from dataclasses import dataclass

from ts4nsnet.packet import IPV6_HEADER_BYTES, Buffer, Inner, Protocol

DNS_PORT = 53


@dataclass(frozen=True, slots=True)
class LocalTraffic:
    """Which packets of the container's are for the node.

    Attributes:
        addresses: the node's own services, 4 or 16 bytes each.
        names: whether it answers what is sent to port 53 of others.
        exit_peers: numbers of the peers that take what is not the tailnet's.
    """

    addresses: frozenset[bytes] = frozenset()
    names: bool = False
    exit_peers: frozenset[int] = frozenset()

    def has(self, inner: Inner, packet: Buffer, peer: int | None) -> bool:
        """Whether `packet`, whose destination is of `peer`, is for the node."""
        if inner.destination in self.addresses:
            return True
        if not self.names or (peer is not None and peer not in self.exit_peers):
            return False
        return _destination_port(packet) == DNS_PORT


def _destination_port(packet: Buffer) -> int:
    """Of a TCP or UDP packet that begins with its header; 0 for others."""
    if packet[0] >> 4 == 4:
        start, protocol = (packet[0] & 0x0F) * 4, packet[9]
        if packet[6] & 0x1F or packet[7]:  # a later fragment
            return 0
    else:
        start, protocol = IPV6_HEADER_BYTES, packet[6]
    if protocol not in (Protocol.TCP, Protocol.UDP) or len(packet) < start + 4:
        return 0
    return packet[start + 2] << 8 | packet[start + 3]

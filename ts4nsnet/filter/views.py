# SPDX-License-Identifier: BSD-3-Clause
"""What the filter must see of a packet: protocol, where its header is, source, destination.

`look` checks every length once; whoever has its answer may read the whole header of that protocol without asking
again. Two numbers stand for no protocol:

    UNKNOWN    no packet, or one whose header cannot be read and that therefore might hide something
    FRAGMENT   a later piece of a packet; it has no header, and without the first piece, which has, it is nothing

Fragments are how a filter is deceived: a first piece too short for its header, and a second that fills it in (RFC
1858). So the first must hold the whole header, and no other may begin in the first 80 bytes.

Of IPv6's extension headers only a fragment header right behind the first one is understood. Any other is taken for the
protocol itself, which a rule would have to name; hop-by-hop options have the number that stands for UNKNOWN.

Source: RFC 791, 8200, 1858; notes dns-filter.md B1. Stricter than tailscale: a header length that IPv4 does not know,
and a transport header that reaches into the padding, are UNKNOWN.
"""

import struct

from ts4nsnet.packet import IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Buffer, Protocol

UNKNOWN = 0
FRAGMENT = 255
IGMP, TSMP, SCTP = 2, 99, 132

MIN_FRAGMENT_OFFSET = 10  # in units of 8 bytes

# protocol, where its header begins, source, destination. A plain tuple: one is made for every packet
View = tuple[int, int, bytes, bytes]

NO_PACKET: View = (UNKNOWN, 0, b"", b"")

_IPV4 = struct.Struct("!BxH2xHxB2x4s4s")
_IPV6 = struct.Struct("!4xHBx16s16s")
_FRAGMENT_HEADER_BYTES = 8

# how much of a protocol's header must be there
_NEEDED = {Protocol.ICMP: 4, IGMP: 8, Protocol.TCP: 20, Protocol.UDP: 8, Protocol.ICMPV6: 4, TSMP: 7, SCTP: 12}
_NEEDED_BYTES = bytes(_NEEDED.get(protocol, 0) for protocol in range(256))


def look(packet: Buffer) -> View:
    """See what a packet is; what is behind its own length is padding. Addresses are empty if it is none at all."""
    size = len(packet)
    if size < IPV4_HEADER_BYTES:
        return NO_PACKET
    first, total, fragment, protocol, source, destination = _IPV4.unpack_from(packet)
    if first >> 4 != 4:
        return _look6(packet) if first >> 4 == 6 and size >= IPV6_HEADER_BYTES else NO_PACKET
    start = (first & 0x0F) * 4
    if not IPV4_HEADER_BYTES <= start <= total <= size:
        return UNKNOWN, 0, source, destination
    if fragment & 0x3FFF:
        protocol = _protocol_of_fragment(protocol, fragment & 0x1FFF)
    elif protocol == FRAGMENT:
        protocol = UNKNOWN
    if total - start < _NEEDED_BYTES[protocol]:
        protocol = UNKNOWN
    return protocol, start, source, destination


def _look6(packet: Buffer) -> View:
    payload, protocol, source, destination = _IPV6.unpack_from(packet)
    start, end = IPV6_HEADER_BYTES, IPV6_HEADER_BYTES + payload
    if end > len(packet):
        return UNKNOWN, 0, source, destination
    if protocol == FRAGMENT:
        protocol = UNKNOWN
    elif protocol == Protocol.FRAGMENT:
        if payload < _FRAGMENT_HEADER_BYTES:
            return UNKNOWN, 0, source, destination
        protocol = _protocol_of_fragment(packet[start], (packet[start + 2] << 8 | packet[start + 3]) >> 3)
        start += _FRAGMENT_HEADER_BYTES
    if end - start < _NEEDED_BYTES[protocol]:
        protocol = UNKNOWN
    return protocol, start, source, destination


def _protocol_of_fragment(protocol: int, offset: int) -> int:
    """What a piece at `offset`, in units of 8 bytes, counts as."""
    if offset:
        return FRAGMENT if offset >= MIN_FRAGMENT_OFFSET else UNKNOWN
    return UNKNOWN if protocol in (TSMP, FRAGMENT) else protocol

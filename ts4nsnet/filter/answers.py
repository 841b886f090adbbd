# SPDX-License-Identifier: BSD-3-Clause
"""What the container is told: that a packet may not go on, that it is too big, that a service is there.

A packet without a way must fail at once, or its sender waits for minutes. Linux gives up a TCP connection, and fails a
UDP socket, for a few codes only, and believes none that comes from the packet's own source; so these come from the
tailnet's service address:

    no way     ICMPv4 3/13, ICMPv6 1/1 (administratively prohibited)        EHOSTUNREACH, EACCES
    too big    ICMPv4 3/4, ICMPv6 2/0, with the path's MTU                  the kernel cuts TCP finer, fragments UDP

Nothing is answered that must not be (RFC 1122 3.2.2, RFC 4443 2.4): ICMP errors, later fragments, what goes to many,
what does not come from one. An answer quotes as much of the packet as is usual: 576 bytes in all, 1280 for IPv6.

An IPv4 packet that is too big is answered whether it may be fragmented or not, since nothing here fragments; its sender
learns from either.

Source: RFC 792, 1122, 1191, 1812 4.3.2, 4443.
"""

from ts4nsnet.packet import ICMP, ICMP_HEADER_BYTES, IP, Buffer, IPv4, IPv6, Malformed, Protocol, carry, parse_ip
from ts4nsnet.tailnet import SERVICE_V4, SERVICE_V6

SERVICE_IPV4, SERVICE_IPV6 = SERVICE_V4.packed, SERVICE_V6.packed

_UNREACHABLE4, _UNREACHABLE6, _TOO_BIG6 = 3, 1, 2  # types
_PROHIBITED4, _PROHIBITED6, _TOO_BIG4 = 13, 1, 4  # codes
_ECHO = {4: (8, 0), 16: (128, 129)}  # request and reply, by length of address

# of an answer, header included
_MAX_IPV4_BYTES = 576  # RFC 1812 4.3.2.3
_MAX_IPV6_BYTES = 1280  # RFC 4443 2.4 (c)

_ICMPV4_ERRORS = frozenset({3, 4, 5, 11, 12})
_ICMPV6_INFORMATIONAL = 128  # the first type that is no error
_ICMPV6_REDIRECT = 137

# first bytes of addresses
_LOOPBACK_NETWORK, _FIRST_MULTICAST, _IPV6_MULTICAST = 127, 224, 255
_BROADCAST = b"\xff" * 4


def refusal(packet: Buffer) -> bytes | None:
    """The answer to a packet that may not go on, or None if there may be no answer."""
    ip = _answerable(packet)
    if isinstance(ip, IPv4):
        return _error4(ip, packet, ICMP(_UNREACHABLE4, _PROHIBITED4))
    return _error6(ip, packet, ICMP(_UNREACHABLE6, _PROHIBITED6)) if ip else None


def too_big(packet: Buffer, mtu: int) -> bytes | None:
    """The answer to a packet longer than the path's `mtu` (at most 65535), or None if there may be no answer."""
    ip = _answerable(packet)
    if isinstance(ip, IPv4):
        return _error4(ip, packet, ICMP(_UNREACHABLE4, _TOO_BIG4, mtu.to_bytes(4, "big")))
    return _error6(ip, packet, ICMP(_TOO_BIG6, 0, mtu.to_bytes(4, "big"))) if ip else None


def echo_reply(packet: Buffer) -> bytes | None:
    """The answer to a ping, or None if `packet` is none, or a fragment of one. Its destination is taken for ours."""
    try:
        ip = parse_ip(packet)
        request, reply = _ECHO[len(ip.source)]
        if ip.protocol != _icmp_of(ip) or ip.is_fragment:
            return None
        ping = ICMP.parse(ip.payload)
    except Malformed:
        return None
    if (ping.type, ping.code) != (request, 0):
        return None
    header = IPv4 if isinstance(ip, IPv4) else IPv6
    return carry(header(ip.destination, ip.source, 0), ping._replace(type=reply))


def _error4(ip: IPv4, packet: Buffer, message: ICMP) -> bytes:
    return carry(IPv4(SERVICE_IPV4, ip.source, 0), message._replace(payload=_quote(ip, packet, _MAX_IPV4_BYTES)))


def _error6(ip: IPv6, packet: Buffer, message: ICMP) -> bytes:
    return carry(IPv6(SERVICE_IPV6, ip.source, 0), message._replace(payload=_quote(ip, packet, _MAX_IPV6_BYTES)))


def _quote(ip: IP, packet: Buffer, limit: int) -> bytes:
    """The beginning of the packet, without padding, that fits into an answer of `limit` bytes."""
    own = (20 if isinstance(ip, IPv4) else 40) + ICMP_HEADER_BYTES
    return bytes(packet[: min(ip.header_len + len(ip.payload), limit - own)])


def _answerable(packet: Buffer) -> IP | None:
    """The packet, if its sender may be told about an error."""
    try:
        ip = parse_ip(packet)
    except Malformed:
        return None
    if ip.fragment_offset or not (_is_one_host(ip.source) and _may_be_one_host(ip.destination)):
        return None
    return None if ip.protocol == _icmp_of(ip) and _is_error(ip) else ip


def _is_error(ip: IP) -> bool:
    """Whether an ICMP message is an error, or so short that it cannot be told."""
    kind = ip.payload[0] if ip.payload else None
    if kind is None:
        return True
    if isinstance(ip, IPv4):
        return kind in _ICMPV4_ERRORS
    return kind < _ICMPV6_INFORMATIONAL or kind == _ICMPV6_REDIRECT


def _icmp_of(ip: IP) -> Protocol:
    return Protocol.ICMP if isinstance(ip, IPv4) else Protocol.ICMPV6


def _is_one_host(source: bytes) -> bool:
    """Whether an answer to this address reaches who sent from it."""
    if len(source) == 4:
        return 0 < source[0] < _FIRST_MULTICAST and source[0] != _LOOPBACK_NETWORK
    return source[0] != _IPV6_MULTICAST and int.from_bytes(source, "big") > 1  # neither :: nor ::1


def _may_be_one_host(destination: bytes) -> bool:
    """Whether an address is not one for many, as far as it can be seen from it."""
    if len(destination) == 4:
        return destination[0] >> 4 != _FIRST_MULTICAST >> 4 and destination != _BROADCAST
    return destination[0] != _IPV6_MULTICAST

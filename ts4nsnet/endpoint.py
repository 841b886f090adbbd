# SPDX-License-Identifier: BSD-3-Clause
"""Endpoints: 32 opaque bytes that say where a peer is, here for addresses of UDP.

WireGuard, the engine and the choice of paths see them instead of addresses; a relay makes its own (`derp.endpoint`),
which differ in that their port is zero.

     0                              16      18      20          24               32
    ┌───────────────────────────────┬───────┬───────┬───────────┬────────────────┐
    │ IPv6 or IPv4-mapped address   │ port  │ zero  │ zone      │ zero           │   big-endian
    └───────────────────────────────┴───────┴───────┴───────────┴────────────────┘

The first 18 bytes are also how disco writes an address.

Source: ours; ipv6(7) for zones.
"""

import errno
import socket
import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

Endpoint = bytes
# numeric, as sockets take and give it
Address = tuple[str, int] | tuple[str, int, int, int]

_LAYOUT = struct.Struct("!16sH2xI8x")
_IPV4_MAPPED = bytes(10) + b"\xff\xff"


@lru_cache(maxsize=4096)
def to_endpoint(address: Address) -> Endpoint:
    """The 32 bytes for a numeric socket address of either family; raises OSError for a text that is none."""
    host, port = address[:2]
    if ":" in host:
        zone = address[3] if len(address) == 4 else 0
        return _LAYOUT.pack(socket.inet_pton(socket.AF_INET6, host.partition("%")[0]), port, zone)
    return _LAYOUT.pack(_IPV4_MAPPED + socket.inet_pton(socket.AF_INET, host), port, 0)


@lru_cache(maxsize=4096)
def from_endpoint(endpoint: Endpoint, family: int) -> Address:
    """The socket address in `endpoint`, for a socket of `family`; raises OSError for IPv6 on an IPv4 socket."""
    host, port, zone = _LAYOUT.unpack(endpoint)
    if family == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, host), port, 0, zone
    if not host.startswith(_IPV4_MAPPED):
        raise OSError(errno.EAFNOSUPPORT, "an IPv6 endpoint, but IPv6 is off on this host")
    return socket.inet_ntop(socket.AF_INET, host[12:]), port


def ip_endpoint(address: IPv4Address | IPv6Address, port: int) -> Endpoint:
    """The endpoint of an address without a zone, and a port."""
    packed = address.packed if isinstance(address, IPv6Address) else _IPV4_MAPPED + address.packed
    return _LAYOUT.pack(packed, port, 0)


def to_ip(endpoint: Endpoint) -> tuple[IPv4Address | IPv6Address, int]:
    """The address, without its zone, and the port in `endpoint`."""
    host, port, _ = _LAYOUT.unpack(endpoint)
    return (IPv4Address(host[12:]) if host.startswith(_IPV4_MAPPED) else IPv6Address(host)), port


def zone_of(endpoint: Endpoint) -> int:
    """The index of the interface that a link-local address belongs to; 0: none is named."""
    zone: int = _LAYOUT.unpack(endpoint)[2]
    return zone


def to_text(endpoint: Endpoint) -> str:
    """As people read it: `192.0.2.1:41641`, `[2001:db8::1]:41641`."""
    address, port = to_ip(endpoint)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"

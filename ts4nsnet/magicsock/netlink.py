# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's messages about interfaces, addresses and routes: just what paths need of rtnetlink.

    ┌────────┬──────┬───────┬──────────┬──────┬─────────────────────┬──────────────────────────────┐
    │ length │ type │ flags │ sequence │ port │ fixed part by type  │ attributes: length, type, …  │   native order
    └────────┴──────┴───────┴──────────┴──────┴─────────────────────┴──────────────────────────────┘

A dump is answered by many messages and a DONE, a question for one route by one message, which may be an error.
Messages and attributes start at multiples of four bytes.

Source: rtnetlink(7), include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h.
"""

import errno
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from ts4nsnet.endpoint import Endpoint, to_ip, zone_of
from ts4nsnet.magicsock.endpoints import Interface

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
GROUPS = 0x1 | 0x10 | 0x100  # changes of links, of IPv4 and of IPv6 addresses

_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_INT = struct.Struct("=i")

_REQUEST, _DUMP = 0x1, 0x300
_NESTED_MASK = 0x3FFF
_LINK_NAME, _LINK_MTU, _LINK_INFO, _INFO_KIND = 3, 4, 18, 1
_ADDRESS_ADDRESS, _ADDRESS_LOCAL, _ADDRESS_FLAGS = 1, 2, 8
_ROUTE_DESTINATION, _ROUTE_INTERFACE, _ROUTE_METRICS, _METRIC_MTU = 1, 4, 8, 2
_UP, _LOOPBACK, _RUNNING = 0x1, 0x8, 0x40
_TUNNEL_TYPE = 0xFFFE  # ARPHRD_NONE
_UNUSABLE = 0x08 | 0x20 | 0x40  # in double use, deprecated, tentative


class Kind(IntEnum):
    """Message types."""

    ERROR = 2
    DONE = 3
    NEW_LINK = 16
    GET_LINK = 18
    NEW_ADDRESS = 20
    GET_ADDRESS = 22
    NEW_ROUTE = 24
    GET_ROUTE = 26


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its type, and what follows the header."""

    kind: int
    sequence: int
    body: bytes


def dump(kind: Kind, sequence: int) -> bytes:
    """The request for all links or addresses."""
    body = _LINK.pack(AF_UNSPEC, 0, 0, 0, 0) if kind is Kind.GET_LINK else _ADDRESS.pack(AF_UNSPEC, 0, 0, 0, 0)
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | _DUMP, sequence, 0) + body


def route_request(endpoint: Endpoint, sequence: int) -> bytes:
    """The question how a datagram would leave to an endpoint of UDP."""
    address, _ = to_ip(endpoint)
    family = AF_INET if address.version == 4 else AF_INET6
    body = _ROUTE.pack(family, address.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
    body += _attribute(_ROUTE_DESTINATION, address.packed)
    if zone := zone_of(endpoint):
        body += _attribute(_ROUTE_INTERFACE, _INT.pack(zone))
    return _HEADER.pack(_HEADER.size + len(body), Kind.GET_ROUTE, _REQUEST, sequence, 0) + body


def parse(data: bytes) -> Iterator[Message]:
    """The messages of one datagram of the kernel's; what is cut off is left out."""
    while len(data) >= _HEADER.size:
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield Message(kind, sequence, data[_HEADER.size : length])
        data = data[_aligned(length) :]


def error(message: Message) -> int:
    """The errno that an ERROR is about; 0 is an acknowledgement. Of other messages: 0."""
    if message.kind != Kind.ERROR:
        return 0
    return -_INT.unpack_from(message.body)[0] if len(message.body) >= _INT.size else errno.EBADMSG


def outgoing_interface(message: Message) -> int:
    """The index of the interface that a NEW_ROUTE leads out by; 0: none is named."""
    return _number(_attributes(message.body[_ROUTE.size :]).get(_ROUTE_INTERFACE, b""))


def route_mtu(message: Message) -> int:
    """The MTU that a NEW_ROUTE has beside its interface's, as of a path that was found to be narrower; 0: none."""
    metrics = _attributes(message.body[_ROUTE.size :]).get(_ROUTE_METRICS, b"")
    return _number(_attributes(metrics).get(_METRIC_MTU, b""))


def interfaces(messages: Iterable[Message]) -> tuple[Interface, ...]:
    """What dumps of links and addresses say, in the order of the links."""
    links: list[Interface] = []
    addresses: dict[int, list[IPv4Interface | IPv6Interface]] = {}
    for message in messages:
        if message.kind == Kind.NEW_LINK and len(message.body) >= _LINK.size:
            links.append(_link(message.body))
        elif message.kind == Kind.NEW_ADDRESS and len(message.body) >= _ADDRESS.size:
            index, address = _address(message.body)
            addresses.setdefault(index, []).extend(address)
    return tuple(replace(link, addresses=tuple(addresses.get(link.index, ()))) for link in links)


def _link(body: bytes) -> Interface:
    _, kind, index, flags, _ = _LINK.unpack_from(body)
    attributes = _attributes(body[_LINK.size :])
    info = _attributes(attributes.get(_LINK_INFO, b""))
    return Interface(
        index,
        _text(attributes.get(_LINK_NAME, b"")),
        _text(info.get(_INFO_KIND, b"")),
        is_up=bool(flags & _UP and flags & _RUNNING),
        is_loopback=bool(flags & _LOOPBACK),
        is_tunnel=kind == _TUNNEL_TYPE,
        mtu=_number(attributes.get(_LINK_MTU, b"")),
    )


def _address(body: bytes) -> tuple[int, list[IPv4Interface | IPv6Interface]]:
    """The interface's index, and its address if it can be used."""
    _, prefix_bits, flags, _, index = _ADDRESS.unpack_from(body)
    attributes = _attributes(body[_ADDRESS.size :])
    more_flags = attributes.get(_ADDRESS_FLAGS, b"")
    if len(more_flags) == _INT.size:
        flags |= _INT.unpack(more_flags)[0]
    # of a point-to-point link, the address is the other end's
    packed = attributes.get(_ADDRESS_LOCAL) or attributes.get(_ADDRESS_ADDRESS, b"")
    if flags & _UNUSABLE:
        return index, []
    match len(packed):
        case 4 if prefix_bits <= 32:
            return index, [IPv4Interface((IPv4Address(packed), prefix_bits))]
        case 16 if prefix_bits <= 128:
            return index, [IPv6Interface((IPv6Address(packed), prefix_bits))]
    return index, []


def _attributes(data: bytes) -> dict[int, bytes]:
    attributes = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            break
        attributes[kind & _NESTED_MASK] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value).ljust(_aligned(len(value)) + 4, b"\0")


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _number(value: bytes) -> int:
    return int(_INT.unpack(value)[0]) if len(value) == _INT.size else 0


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")

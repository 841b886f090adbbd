# SPDX-License-Identifier: BSD-3-Clause
"""The kernel's messages, made here by hand; the kernel itself is asked in test_adapter.py and tests/system."""

import errno
import struct
from ipaddress import ip_address, ip_interface

import pytest

from tests.unit.magicsock.net import at
from ts4nsnet.endpoint import to_endpoint
from ts4nsnet.magicsock.endpoints import Interface
from ts4nsnet.magicsock.netlink import (
    Kind,
    Message,
    dump,
    error,
    interfaces,
    outgoing_interface,
    parse,
    route_mtu,
    route_request,
)


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes, sequence: int = 7) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body + bytes(-len(body) % 4)


def link(index: int, name: bytes, *more: bytes, kind: int = 1, flags: int = 0x41) -> bytes:
    fixed = struct.pack("=BxHiII", 0, kind, index, flags, 0)
    return message(Kind.NEW_LINK, fixed + attribute(3, name + b"\0") + b"".join(more))


def address(index: int, text: str, bits: int, *more: bytes, kind: int = 1, flags: int = 0) -> bytes:
    packed = ip_address(text).packed
    fixed = struct.pack("=BBBBI", 2 if len(packed) == 4 else 10, bits, flags, 0, index)
    return message(Kind.NEW_ADDRESS, fixed + attribute(kind, packed) + b"".join(more))


def read(*messages: bytes) -> tuple[Interface, ...]:
    return interfaces(parse(b"".join(messages)))


def test_links_have_a_name_a_kind_and_flags() -> None:
    info = attribute(18 | 0x8000, attribute(1, b"wireguard\0") + attribute(2, b"more"))
    assert read(
        link(1, b"lo", flags=0x49),
        link(2, b"eth0"),
        link(3, b"eth1", flags=0x1),
        link(4, b"eth2", flags=0x40),
        link(5, b"office", info, kind=0xFFFE),
    ) == (
        Interface(1, "lo", is_loopback=True),
        Interface(2, "eth0"),
        Interface(3, "eth1", is_up=False),  # no carrier
        Interface(4, "eth2", is_up=False),
        Interface(5, "office", "wireguard", is_tunnel=True),
    )


def test_addresses_belong_to_links_and_some_are_not_to_be_used() -> None:
    (eth,) = read(
        link(2, b"eth0"),
        address(2, "192.0.2.2", 24),
        address(2, "198.51.100.9", 32, attribute(2, ip_address("198.51.100.2").packed)),  # point to point
        address(2, "2001:db8::1", 64),
        address(2, "2001:db8::2", 64, flags=0x40),  # tentative
        address(2, "2001:db8::3", 64, attribute(8, struct.pack("=I", 0x20))),  # deprecated
        address(2, "2001:db8::4", 64, attribute(8, struct.pack("=I", 0x300))),
        address(9, "192.0.2.9", 24),  # of a link that is gone
    )
    texts = ["192.0.2.2/24", "198.51.100.2/32", "2001:db8::1/64", "2001:db8::4/64"]
    assert eth.addresses == tuple(map(ip_interface, texts))


@pytest.mark.parametrize(
    "odd",
    [
        message(Kind.NEW_ADDRESS, struct.pack("=BBBBI", 2, 24, 0, 0, 2)),
        message(Kind.NEW_ADDRESS, struct.pack("=BBBBI", 2, 24, 0, 0, 2) + attribute(1, b"12345")),
        message(Kind.NEW_ADDRESS, struct.pack("=BBBBI", 2, 24, 0, 0, 2) + struct.pack("=HH", 99, 1)),
        message(Kind.NEW_ADDRESS, struct.pack("=BBBBI", 2, 24, 0, 0, 2) + struct.pack("=HH", 3, 1)),
        address(2, "192.0.2.2", 33),
        address(2, "2001:db8::1", 129),
        message(Kind.NEW_ADDRESS, b"1234"),
        message(Kind.NEW_LINK, b"1234"),
        message(99, b"1234"),
        struct.pack("=IHHII", 15, Kind.NEW_LINK, 0, 7, 0),
        struct.pack("=IHHII", 999, Kind.NEW_LINK, 0, 7, 0),
        b"123",
    ],
)
def test_what_is_odd_is_passed_over(odd: bytes) -> None:
    assert read(link(2, b"eth0"), odd) == (Interface(2, "eth0"),)


def test_a_route_is_asked_for_by_destination_and_for_a_zone_by_interface() -> None:
    four, six, zoned = at("192.0.2.1"), at("2001:db8::1"), to_endpoint(("fe80::1", 7, 0, 3))
    heads = [struct.pack("=BBBBBBBBI", family, bits, 0, 0, 0, 0, 0, 0, 0) for family, bits in ((2, 32), (10, 128))]
    bodies = [
        heads[0] + attribute(1, ip_address("192.0.2.1").packed),
        heads[1] + attribute(1, ip_address("2001:db8::1").packed),
        heads[1] + attribute(1, ip_address("fe80::1").packed) + attribute(4, struct.pack("=i", 3)),
    ]
    requests = [route_request(endpoint, 9) for endpoint in (four, six, zoned)]
    assert requests == [struct.pack("=IHHII", 16 + len(body), 26, 1, 9, 0) + body for body in bodies]


def test_dumps_are_asked_for_of_all_families() -> None:
    assert dump(Kind.GET_LINK, 3) == struct.pack("=IHHII", 32, 18, 0x301, 3, 0) + bytes(16)
    assert dump(Kind.GET_ADDRESS, 4) == struct.pack("=IHHII", 24, 22, 0x301, 4, 0) + bytes(8)


def test_a_route_names_the_interface_it_leads_out_by() -> None:
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 0, 0, 0, 1, 0)
    assert outgoing_interface(Message(24, 1, body + attribute(4, struct.pack("=i", 5)))) == 5
    assert outgoing_interface(Message(24, 1, body)) == 0
    assert outgoing_interface(Message(24, 1, b"")) == 0


def test_a_route_and_an_interface_have_an_mtu_or_say_nothing_of_it() -> None:
    body = struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 0, 0, 0, 1, 0)
    metrics = attribute(8 | 0x8000, attribute(1, bytes(4)) + attribute(2, struct.pack("=i", 1400)))
    assert route_mtu(Message(24, 1, body + metrics)) == 1400
    assert route_mtu(Message(24, 1, body + attribute(8, attribute(2, b"123")))) == 0
    assert route_mtu(Message(24, 1, body)) == 0
    assert read(link(1, b"lo", attribute(4, struct.pack("=i", 65536)))) == (Interface(1, "lo", mtu=65536),)


def test_an_error_is_one_of_the_kernels_numbers() -> None:
    assert error(Message(2, 1, struct.pack("=i", -errno.ENETUNREACH) + bytes(16))) == errno.ENETUNREACH
    assert error(Message(2, 1, struct.pack("=i", 0))) == 0
    assert error(Message(2, 1, b"")) == errno.EBADMSG
    assert error(Message(24, 1, struct.pack("=i", -1))) == 0

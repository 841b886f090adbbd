# SPDX-License-Identifier: BSD-3-Clause
"""Endpoints of UDP addresses: their bytes, and the forms in which addresses come and go."""

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.endpoint import Address, from_endpoint, ip_endpoint, to_endpoint, to_ip, to_text, zone_of


@given(st.ip_addresses(v=6), st.integers(0, 65535), st.integers(0, 2**32 - 1))
def test_an_ipv6_address_comes_back_from_its_endpoint(address: IPv6Address, port: int, zone: int) -> None:
    endpoint = to_endpoint((str(address), port, 0, zone))
    host, *rest = from_endpoint(endpoint, socket.AF_INET6)
    assert (len(endpoint), IPv6Address(host), rest) == (32, address, [port, 0, zone])


@given(st.ip_addresses(v=4), st.integers(0, 65535))
def test_an_ipv4_address_comes_back_from_its_endpoint(address: IPv4Address, port: int) -> None:
    endpoint = to_endpoint((str(address), port))
    assert from_endpoint(endpoint, socket.AF_INET) == (str(address), port)
    host, *rest = from_endpoint(endpoint, socket.AF_INET6)
    assert (IPv6Address(host).ipv4_mapped, rest) == (address, [port, 0, 0])


def test_endpoints_have_the_documented_layout() -> None:
    where = to_endpoint(("192.0.2.1", 0x1234))
    assert where == bytes(10) + b"\xff\xff\xc0\x00\x02\x01" + b"\x12\x34" + bytes(14)
    assert where == to_endpoint(("::ffff:192.0.2.1", 0x1234, 0, 0))
    zoned = to_endpoint(("fe80::1%eth0", 0x1234, 0, 7))
    assert zoned == bytes.fromhex("fe80") + bytes(13) + b"\1" + b"\x12\x34" + bytes(2) + b"\0\0\0\7" + bytes(8)
    assert to_endpoint(("fe80::1", 0x1234))[20:24] == bytes(4)


@pytest.mark.parametrize("address", [("example.com", 1), ("1.2.3", 1), ("fd00::g", 1), ("", 1)])
def test_a_text_that_is_no_address_is_refused(address: Address) -> None:
    with pytest.raises(OSError, match="illegal"):
        to_endpoint(address)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_comes_back_as_the_value_it_was(address: IPv4Address | IPv6Address, port: int) -> None:
    endpoint = ip_endpoint(address, port)
    assert endpoint == to_endpoint((str(address), port))
    assert to_ip(endpoint) == (unmapped(address), port)


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4 address that was written as an IPv6 one is that IPv4 address."""
    return getattr(address, "ipv4_mapped", None) or address


def test_a_zone_is_in_the_endpoint_alone() -> None:
    zoned = to_endpoint(("fe80::1", 7, 0, 3))
    assert (zone_of(zoned), zone_of(to_endpoint(("fe80::1", 7)))) == (3, 0)
    assert to_ip(zoned) == (IPv6Address("fe80::1"), 7)


@pytest.mark.parametrize(
    ("address", "port", "text"),
    [("192.0.2.1", 41641, "192.0.2.1:41641"), ("2001:db8::1", 1, "[2001:db8::1]:1")],
)
def test_people_read_address_and_port(address: str, port: int, text: str) -> None:
    assert to_text(ip_endpoint(ip_address(address), port)) == text


def test_an_ipv4_socket_has_no_way_to_an_ipv6_endpoint() -> None:
    with pytest.raises(OSError, match="IPv6 is off"):
        from_endpoint(to_endpoint(("2001:db8::1", 1)), socket.AF_INET)

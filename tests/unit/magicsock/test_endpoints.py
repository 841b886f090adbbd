# SPDX-License-Identifier: BSD-3-Clause
"""Which of this host's addresses are announced, which interfaces are overlays, where a peer can be."""

from ipaddress import ip_address, ip_interface

import pytest

from tests.unit.magicsock.net import PORT, at
from ts4nsnet.endpoint import to_endpoint
from ts4nsnet.magicsock.endpoints import (
    MAX_OWN_ENDPOINTS,
    Interface,
    candidates,
    is_candidate,
    is_private,
    own_endpoints,
)
from ts4nsnet.tailnet import is_tailnet


def interface(name: str, *addresses: str, kind: str = "", up: bool = True, tunnel: bool = False) -> Interface:
    return Interface(1, name, kind, up, name == "lo", tunnel, tuple(map(ip_interface, addresses)))


LO = interface("lo", "127.0.0.1/8", "::1/128")
ETH = interface("eth0", "192.0.2.2/24", "2001:db8::2/64", "fd00::2/64", "fe80::2/64")
WG = interface("wg0", "10.9.0.1/24", "2001:db8:9::1/64")

ANNOUNCED = [
    ("ordinary addresses", [LO, ETH], ["192.0.2.2", "2001:db8::2"]),
    ("others in need", [LO, interface("eth0", "169.254.7.7/16", "fd00::2/64")], ["169.254.7.7", "fd00::2"]),
    ("loopback in greater need", [LO, interface("eth0", "fe80::2/64")], ["127.0.0.1", "::1"]),
    ("nothing", [], []),
    ("not what is down", [ETH, interface("eth1", "192.0.2.3/24", up=False)], ["192.0.2.2", "2001:db8::2"]),
    ("no overlay", [ETH, WG, interface("tailscale0", "100.64.0.1/32", tunnel=True)], ["192.0.2.2", "2001:db8::2"]),
    ("no overlay, also in need", [LO, WG], ["127.0.0.1", "::1"]),
    ("no tailnet address", [interface("eth0", "100.64.3.4/24", "fd7a:115c:a1e0::1/64", "10.0.0.1/8")], ["10.0.0.1"]),
    ("bridges", [ETH, interface("docker0", "172.17.0.1/16")], ["192.0.2.2", "2001:db8::2", "172.17.0.1"]),
    (
        "two IPv6 addresses of a subnet",
        [interface("eth0", *(f"2001:db8::{n}/64" for n in (1, 2, 3)), "2001:db8:1::1/64")],
        ["2001:db8::1", "2001:db8::2", "2001:db8:1::1"],
    ),
    ("none twice", [ETH, interface("eth1", "192.0.2.2/24")], ["192.0.2.2", "2001:db8::2"]),
]  # fmt: skip


@pytest.mark.parametrize(("interfaces", "addresses"), [row[1:] for row in ANNOUNCED], ids=[row[0] for row in ANNOUNCED])
def test_announced_is(interfaces: list[Interface], addresses: list[str]) -> None:
    assert own_endpoints(interfaces, PORT, ipv6=True) == tuple(map(at, addresses))


@pytest.mark.parametrize(("interfaces", "addresses"), [([LO, ETH], ["192.0.2.2"]), ([LO], ["127.0.0.1"])])
def test_a_socket_without_ipv6_is_not_announced_with_it(interfaces: list[Interface], addresses: list[str]) -> None:
    assert own_endpoints(interfaces, PORT, ipv6=False) == tuple(map(at, addresses))


def test_a_host_with_many_addresses_announces_some() -> None:
    many = [interface("eth0", *(f"10.{n}.0.1/24" for n in range(2 * MAX_OWN_ENDPOINTS)))]
    assert own_endpoints(many, PORT, ipv6=True) == tuple(at(f"10.{n}.0.1") for n in range(MAX_OWN_ENDPOINTS))


@pytest.mark.parametrize(
    ("one", "is_overlay"),
    [
        (ETH, False),
        (WG, True),
        (interface("wt0", "10.1.1.1/24"), True),
        (interface("ztabcdef", "10.1.1.1/24"), True),
        (interface("tailscale0"), True),
        (interface("office", "10.1.1.1/24", kind="wireguard", tunnel=True), True),
        (interface("foo", "100.64.0.1/32", tunnel=True), True),
        (interface("foo", "fd7a:115c:a1e0::1/128", tunnel=True), True),
        (interface("tun0", "10.1.1.1/24", tunnel=True), False),  # a provider, a company: who knows
        (interface("wwan0", "100.64.0.1/30"), False),  # a provider's own use of the range
        (interface("wlan0", "192.0.2.1/24"), False),
        (interface("wt01", "192.0.2.1/24"), False),
    ],
    ids=lambda value: value.name if isinstance(value, Interface) else str(value),
)
def test_an_overlay_is_known_by_name_kind_or_address(one: Interface, is_overlay: bool) -> None:
    assert one.is_overlay == is_overlay


@pytest.mark.parametrize(
    ("host", "is_there"),
    [
        ("192.0.2.1", True),
        ("10.0.0.1", True),
        ("127.0.0.1", True),
        ("169.254.0.1", True),
        ("100.63.255.255", True),
        ("100.64.0.0", False),
        ("100.127.255.255", False),
        ("100.128.0.0", True),
        ("2001:db8::1", True),
        ("fd00::1", True),
        ("fd7a:115c:a1e0::1", False),
        ("fe80::1", False),
        ("::", False),
        ("ff02::1", False),
    ],
)
def test_where_a_peer_can_be(host: str, is_there: bool) -> None:
    assert is_candidate(at(host)) == is_there
    assert not is_candidate(at(host, 0))


def test_a_link_local_address_needs_a_zone() -> None:
    assert is_candidate(to_endpoint(("fe80::1", PORT, 0, 2)))


def test_candidates_are_named_once() -> None:
    assert candidates([at("192.0.2.1"), at("::"), at("192.0.2.1")]) == (at("192.0.2.1"),)


@pytest.mark.parametrize(
    ("host", "private"),
    [
        ("10.1.2.3", True),
        ("172.31.0.1", True),
        ("172.32.0.1", False),
        ("192.168.9.9", True),
        ("192.0.2.1", False),
        ("fd00::1", True),
        ("2001:db8::1", False),
        ("fe80::1", False),
    ],
)
def test_private_addresses(host: str, private: bool) -> None:
    assert is_private(ip_address(host)) == private
    assert not is_tailnet(ip_address(host))

# SPDX-License-Identifier: BSD-3-Clause
"""Addresses and names that nodes get."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.lab import addresses
from ts4nsnet.lab.addresses import IPV4_RANGE, IPV6_RANGE, free_label, ipv6_of, label_of, next_address
from ts4nsnet.lab.errors import Refused


@pytest.mark.parametrize(
    ("last", "found"),
    [
        (None, "100.64.0.1"),
        ("100.64.0.1", "100.64.0.2"),
        ("100.64.0.82", "100.64.0.84"),  # fd7a:115c:a1e0::53 is MagicDNS
        ("100.100.99.255", "100.100.101.0"),
        ("100.115.91.255", "100.115.94.0"),
        ("100.127.255.254", "100.64.0.1"),
    ],
)
def test_next_address(last: str | None, found: str) -> None:
    assert str(next_address(IPv4Address(last) if last else None, ())) == found


def test_used_addresses_are_passed_over() -> None:
    used = {IPv4Address("100.64.0.2"), IPv4Address("100.64.0.3")}
    assert str(next_address(IPv4Address("100.64.0.1"), used)) == "100.64.0.4"


def test_addresses_may_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "IPV4_RANGE", IPv4Network("100.64.0.0/30"))
    one, two = IPv4Address("100.64.0.1"), IPv4Address("100.64.0.2")
    assert next_address(two, {two}) == one
    with pytest.raises(Refused, match="no address is free"):
        next_address(two, {one, two})


def test_both_families_have_one_offset() -> None:
    assert ipv6_of(IPv4Address("100.64.1.2")) == IPv6Address("fd7a:115c:a1e0::102")
    assert ipv6_of(IPv4Address("100.127.255.254")) in IPV6_RANGE


@given(st.integers(int(IPV4_RANGE.network_address) + 1, int(IPV4_RANGE.broadcast_address) - 1))
def test_address_is_always_one_of_the_range(last: int) -> None:
    address = next_address(IPv4Address(last), ())
    assert address in IPV4_RANGE
    assert ipv6_of(address) != IPv6Address("fd7a:115c:a1e0::53")


@pytest.mark.parametrize(
    ("hostname", "label"),
    [
        ("alice", "alice"),
        ("Alice", "alice"),
        ("My Host_ü!", "my-host"),
        ("host.example.com", "host-example-com"),
        ("macbook.local", "macbook"),
        ("", "node"),
        ("üöä", "node"),
        ("-a--b-", "a-b"),
        ("x" * 70, "x" * 63),
        ("x" * 62 + "-y", "x" * 62),
    ],
)
def test_label_of_a_host_name(hostname: str, label: str) -> None:
    assert label_of(hostname) == label


@given(st.text())
def test_label_is_always_one(hostname: str) -> None:
    label = label_of(hostname)
    assert 1 <= len(label) <= 63
    assert label.replace("-", "a").isalnum()
    assert label.isascii()
    assert not label.startswith("-")
    assert not label.endswith("-")


def test_second_of_a_name() -> None:
    assert free_label("x", ()) == "x"
    assert free_label("x", {"x"}) == "x-1"
    assert free_label("x", {"x", "x-1"}) == "x-2"
    assert free_label("x" * 63, {"x" * 63}) == "x" * 61 + "-1"

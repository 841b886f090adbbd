# SPDX-License-Identifier: BSD-3-Clause
"""Which of the coordination server's resolvers are servers that we can ask."""

from ipaddress import ip_address

import pytest

from ts4nsnet.dns import Resolver, Upstream
from ts4nsnet.dns.upstream import usable


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.53", "192.0.2.53", 53),
        ("192.0.2.53:5353", "192.0.2.53", 5353),
        ("2001:db8::53", "2001:db8::53", 53),
        ("[2001:db8::53]:65535", "2001:db8::53", 65535),
    ],
)
def test_an_address_with_or_without_a_port_is_a_server(text: str, address: str, port: int) -> None:
    assert usable([Resolver(text)]) == (Upstream(ip_address(address), port, tailnet=True),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dns.example",
        "https://dns.google/dns-query",
        "http://100.64.0.9:1080/dns-query",
        "tls://1.1.1.1",
        "192.0.2.53:0",
        "192.0.2.53:65536",
        "192.0.2.53:",
        "192.0.2.53:+53",
        "192.0.2.53:٣",
        "192.0.2.53:000000053",
        "[2001:db8::53]",
        "[2001:db8::53]53",
        "100.100.100.100",
        "100.100.100.100:53",
        "fd7a:115c:a1e0::53",
    ],
)
def test_other_forms_and_ourselves_are_none(text: str) -> None:
    assert usable([Resolver(text)]) == ()


def test_each_is_asked_once_in_their_order() -> None:
    found = usable([Resolver("192.0.2.2"), Resolver("192.0.2.1"), Resolver("192.0.2.2:53")])
    assert [str(upstream.address) for upstream in found] == ["192.0.2.2", "192.0.2.1"]

# SPDX-License-Identifier: BSD-3-Clause
"""Cryptokey routing: the longest prefix wins, prefixes move, and a linear scan as oracle."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.wireguard.routing import AllowedIPs, Prefix


def networks(*texts: str) -> list[Prefix]:
    return [ip_network(text) for text in texts]


def lookup(routes: AllowedIPs, address: str) -> int | None:
    return routes.lookup(ip_address(address).packed)


def test_the_longest_prefix_wins_in_both_families() -> None:
    routes = AllowedIPs()
    routes.set(1, networks("0.0.0.0/0", "::/0"))
    routes.set(2, networks("10.0.0.0/8", "fd00::/8"))
    routes.set(3, networks("10.1.0.0/16", "fd7a:115c:a1e0::/48"))
    routes.set(4, networks("10.1.2.3/32", "fd7a:115c:a1e0::1/128"))
    cases = {
        "192.0.2.1": 1,
        "10.255.255.255": 2,
        "10.1.0.0": 3,
        "10.1.255.255": 3,
        "10.1.2.3": 4,
        "10.1.2.4": 3,
        "2001:db8::1": 1,
        "fdff::": 2,
        "fd7a:115c:a1e0:ffff::": 3,
        "fd7a:115c:a1e0::1": 4,
    }
    assert {address: lookup(routes, address) for address in cases} == cases


def test_what_is_not_there_belongs_to_nobody() -> None:
    routes = AllowedIPs()
    assert lookup(routes, "10.0.0.1") is None
    routes.set(0, networks("10.0.0.0/24"))
    assert lookup(routes, "10.0.0.1") == 0  # a peer like any other
    assert lookup(routes, "10.0.1.1") is None
    assert lookup(routes, "::ffff:10.0.0.1") is None


def test_setting_replaces_all_that_a_peer_had() -> None:
    routes = AllowedIPs()
    routes.set(1, networks("10.0.0.1/32", "10.0.1.0/24"))
    routes.set(1, networks("10.0.0.1/32", "fd00::/64"))
    assert routes.prefixes(1) == frozenset(networks("10.0.0.1/32", "fd00::/64"))
    assert lookup(routes, "10.0.1.1") is None
    assert lookup(routes, "fd00::1") == 1
    routes.set(1, ())
    assert lookup(routes, "10.0.0.1") is None
    assert routes.prefixes(1) == frozenset()


def test_a_prefix_moves_to_who_got_it_last() -> None:
    routes = AllowedIPs()
    routes.set(1, networks("10.0.0.0/24", "10.0.1.0/24"))
    routes.set(2, networks("10.0.0.0/24"))
    assert lookup(routes, "10.0.0.1") == 2
    assert routes.prefixes(1) == frozenset(networks("10.0.1.0/24"))
    routes.set(1, ())  # takes nothing from the new owner
    assert lookup(routes, "10.0.0.1") == 2
    assert lookup(routes, "10.0.1.1") is None


def test_a_longer_prefix_taken_away_uncovers_the_shorter_one() -> None:
    routes = AllowedIPs()
    routes.set(1, networks("10.0.0.0/8"))
    routes.set(2, networks("10.0.0.1/32"))
    assert lookup(routes, "10.0.0.1") == 2
    routes.set(2, ())
    assert lookup(routes, "10.0.0.1") == 1


def test_a_peer_nobody_knows_has_nothing() -> None:
    routes = AllowedIPs()
    assert routes.prefixes(7) == frozenset()
    routes.set(7, ())


class Scan:
    """The oracle: a list of prefixes that is read from end to end."""

    def __init__(self) -> None:
        self.owners: dict[Prefix, int] = {}

    def set(self, peer: int, prefixes: set[Prefix]) -> None:
        self.owners = {prefix: owner for prefix, owner in self.owners.items() if owner != peer}
        self.owners.update(dict.fromkeys(prefixes, peer))

    def lookup(self, address: IPv4Address | IPv6Address) -> int | None:
        found = [prefix for prefix in self.owners if prefix.version == address.version and address in prefix]
        return self.owners[max(found, key=lambda prefix: prefix.prefixlen)] if found else None


def v4(value: int, length: int) -> IPv4Network:
    return IPv4Network((value * 0x01010101, length), strict=False)


def v6(value: int, length: int) -> IPv6Network:
    return IPv6Network((value << 124 | value << 60 | value, length), strict=False)


# few distinct bits, so that prefixes contain each other often
VALUES = st.integers(0, 7)
V4 = st.builds(v4, VALUES, st.integers(0, 32))
V6 = st.builds(v6, VALUES, st.integers(0, 128))
STEPS = st.lists(st.tuples(st.integers(0, 4), st.sets(V4 | V6, max_size=5)), max_size=20)


@given(STEPS, st.lists(VALUES, max_size=4))
def test_routes_agree_with_a_linear_scan(steps: list[tuple[int, set[Prefix]]], values: list[int]) -> None:
    routes, scan = AllowedIPs(), Scan()
    for peer, prefixes in steps:
        routes.set(peer, prefixes)
        scan.set(peer, prefixes)
    for owner in range(5):
        assert routes.prefixes(owner) == {prefix for prefix, peer in scan.owners.items() if peer == owner}
    addresses: list[IPv4Address | IPv6Address] = [prefix[-1] for prefix in scan.owners]
    addresses += [prefix.network_address for prefix in scan.owners]
    for value in values:
        addresses += [v4(value, 32)[0], v6(value, 128)[0]]
    for address in addresses:
        assert routes.lookup(address.packed) == scan.lookup(address)

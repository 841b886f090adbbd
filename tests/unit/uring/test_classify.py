# SPDX-License-Identifier: BSD-3-Clause
"""The flat routing table, as pieces and as compiled look-ups, beside `AllowedIPs`."""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.wireguard import AllowedIPs

classify = pytest.importorskip("ts4nsnet.uring.classify", reason="the engine is not compiled")

# few bits differ, so that prefixes lie inside one another
V4 = st.builds(
    lambda value, length: IPv4Network((value << 28 | value, length), strict=False),
    st.integers(0, 15),
    st.sampled_from([0, 1, 2, 4, 31, 32]),
)
V6 = st.builds(
    lambda value, length: IPv6Network((value << 124 | value << 62, length), strict=False),
    st.integers(0, 15),
    st.sampled_from([0, 1, 3, 4, 62, 64, 66, 128]),
)


@given(st.dictionaries(st.integers(0, 5), st.lists(V4 | V6, max_size=6), max_size=6), st.randoms(use_true_random=False))
def test_every_address_belongs_to_whom_allowed_ips_says(prefixes: dict[int, list[IPv4Network]], random: Random) -> None:
    routes, table = AllowedIPs(), classify.Routes()
    for peer, each in prefixes.items():
        routes.set(peer, each)
    table.load(*classify.flat(routes))
    addresses = [random.randbytes(size) for size in (4, 16)]
    for prefix in (prefix for each in prefixes.values() for prefix in each):
        for edge in (prefix.network_address, prefix.broadcast_address):
            for step in (-1, 0, 1):
                value = (int(edge) + step) % (1 << prefix.max_prefixlen)
                addresses.append(value.to_bytes(prefix.max_prefixlen // 8, "big"))
    for address in addresses * 2:
        assert table.lookup(address) == routes.lookup(address)


def test_pieces_begin_where_the_owner_changes() -> None:
    routes = AllowedIPs()
    routes.set(1, [ip_network("10.0.0.0/8"), ip_network("11.0.0.0/8")])
    routes.set(2, [ip_network("10.1.0.0/16"), ip_network("255.0.0.0/8")])
    assert [(str(ip_address(start)), peer) for start, peer in routes.intervals(4)] == [
        ("0.0.0.0", None),  # noqa: S104  an address, not a place to listen at
        ("10.0.0.0", 1),
        ("10.1.0.0", 2),
        ("10.2.0.0", 1),
        ("12.0.0.0", None),
        ("255.0.0.0", 2),
    ]
    assert routes.intervals(6) == [(0, None)]


def test_other_bytes_are_refused() -> None:
    table = classify.Routes()
    good4, good6 = classify.flat(AllowedIPs())
    for v4, v6 in [(b"", good6), (good4, b""), (good4[1:], good6), (good4, good6 + b"?"), (b"\1" + good4[1:], good6)]:
        with pytest.raises(ValueError, match="routes: got"):
            table.load(v4, v6)
    with pytest.raises(ValueError, match="got 5 bytes, want 4 or 16"):
        table.lookup(bytes(5))

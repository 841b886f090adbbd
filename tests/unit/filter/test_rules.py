# SPDX-License-Identifier: BSD-3-Clause
"""Sets of addresses in rules: their text forms, and overlaps."""

from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.filter import FilterError, Range, parse_ranges

ADDRESSES = st.ip_addresses()


def v4(text: str) -> int:
    return int(IPv4Address(text))


def v6(text: str) -> int:
    return int(IPv6Address(text))


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("*", (Range(4, 0, 2**32 - 1), Range(6, 0, 2**128 - 1))),
        ("100.64.0.1", (Range(4, v4("100.64.0.1"), v4("100.64.0.1")),)),
        ("10.0.0.0/8", (Range(4, v4("10.0.0.0"), v4("10.255.255.255")),)),
        ("0.0.0.0/0", (Range(4, 0, 2**32 - 1),)),
        ("10.0.0.250-10.0.1.3", (Range(4, v4("10.0.0.250"), v4("10.0.1.3")),)),
        ("fd7a:115c:a1e0::/48", (Range(6, v6("fd7a:115c:a1e0::"), v6("fd7a:115c:a1e0:ffff:ffff:ffff:ffff:ffff")),)),
        ("2eff::1-2eff::0800", (Range(6, v6("2eff::1"), v6("2eff::800")),)),
    ],
)
def test_each_form_is_one_range_a_family(text: str, ranges: tuple[Range, ...]) -> None:
    assert parse_ranges(text) == ranges


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "/",
        "example.com",
        "cap:x",
        "10.0.0.1/8",  # host bits
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/",
        "10.0.0.2-10.0.0.1",
        "10.0.0.1-::1",
        "10.0.0.1-10.0.0.2-10.0.0.3",
        "10.0.0.1-",
        "fe80::1%eth0",
        "fe80::%eth0/64",
        "010.0.0.1",
        "* ",
    ],
)
def test_what_is_no_set_of_addresses_is_refused(text: str) -> None:
    with pytest.raises(FilterError, match="want"):
        parse_ranges(text)


@given(st.text(alphabet="0123456789abcdef.:/-*% \n٣"))
def test_any_text_is_ranges_or_a_filter_error(text: str) -> None:
    try:
        ranges = parse_ranges(text)
    except FilterError:
        return
    assert all(0 <= r.first <= r.last for r in ranges)


@given(first=ADDRESSES, last=ADDRESSES)
def test_a_range_holds_what_is_between(first: IPv4Address | IPv6Address, last: IPv4Address | IPv6Address) -> None:
    if first.version == last.version and int(first) <= int(last):
        assert parse_ranges(f"{first}-{last}") == (Range(first.version, int(first), int(last)),)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("10.0.0.0/8", "10.1.2.3/32", True),
        ("10.0.0.0/8", "11.0.0.0/8", False),
        ("0.0.0.0/0", "::/0", False),
        ("::/0", "fd7a::1/128", True),
    ],
)
def test_overlaps(one: str, other: str, overlap: bool) -> None:
    first, second = Range.of(ip_network(one)), Range.of(ip_network(other))
    assert first.overlaps(second) is overlap
    assert second.overlaps(first) is overlap

# SPDX-License-Identifier: BSD-3-Clause
"""Values of slirp4netns' options: what it takes, and its words for what it does not (seen with version 1.2.0)."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.cli import values
from ts4nsnet.cli.longopts import UsageError
from ts4nsnet.cli.values import WrongValue


@pytest.mark.parametrize(("text", "number"), [("3", 3), (" 3", 3), ("\t+3", 3), ("003", 3), ("", 0)])
def test_numbers_are_read_as_by_strtol(text: str, number: int) -> None:
    assert values.whole(text, 0, "no") == number


@pytest.mark.parametrize("text", ["-1", "x", "0x3", "3 ", "3x", " ", "+", "٣", "3.0", str(2**31), "1_0"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(UsageError, match=r"^a message$"):
        values.whole(text, 0, "a message")


@pytest.mark.parametrize(("number", "fits"), [(0, False), (1, True), (65521, True), (65522, False)])
def test_bounds_of_a_number(number: int, fits: bool) -> None:
    if fits:
        assert values.whole(str(number), 1, "no", 65521) == number
    else:
        with pytest.raises(UsageError):
            values.whole(str(number), 1, "no", 65521)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("10.0.2.0", "invalid CIDR: 10.0.2.0"),
        ("1000.0.2.0/24", "invalid CIDR: 1000.0.2.0/24"),
        ("10.0.2.0/024", "invalid CIDR: 10.0.2.0/024"),
        ("10.0.2.0/24\n", "invalid CIDR: 10.0.2.0/24\n"),
        ("fd00::/64", "invalid CIDR: fd00::/64"),
        ("999.0.2.0/24", "invalid network address: 999.0.2.0"),
        ("10.0.2.0/26", "prefix length needs to be 1-25"),
        ("0.0.0.0/0", "prefix length needs to be 1-25"),
        ("10.0.2.100/24", "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24"),
    ],
)
def test_cidr_that_is_none(text: str, reason: str) -> None:
    with pytest.raises(WrongValue) as caught:
        values.cidr(text)
    assert str(caught.value) == reason


@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_every_network_is_a_cidr(number: int, prefix: int) -> None:
    text = str(IPv4Network((number, prefix), strict=False))
    assert values.cidr(text) == text


@given(st.text())
def test_any_text_is_a_cidr_or_is_refused(text: str) -> None:
    try:
        values.cidr(text)
    except WrongValue:
        return
    IPv4Network(text)


@pytest.mark.parametrize("text", ["aa:bb:cc:dd:ee:ff", "A:B:C:D:E:0", "aa"])
def test_mac_address(text: str) -> None:
    assert values.mac_address(text) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("zz:bb:cc:dd:ee:ff", '"zz:bb:cc:dd:ee:ff" is an invalid MAC address.'),
        ("aa:bb:cc:dd:ee:ff:11", '"aa:bb:cc:dd:ee:ff:11" is an invalid MAC address.  Is it too long?'),
    ],
)
def test_mac_address_that_is_none(text: str, reason: str) -> None:
    with pytest.raises(WrongValue) as caught:
        values.mac_address(text)
    assert str(caught.value).splitlines()[0] == reason


@pytest.mark.parametrize("text", ["192.0.2.1", "lo"])
def test_outbound_address(text: str) -> None:
    assert values.outbound_address(text) == text


@pytest.mark.parametrize("text", ["2001:db8::1", "lo"])
def test_outbound_address6(text: str) -> None:
    assert values.outbound_address6(text) == text


@pytest.mark.parametrize("text", ["192.0.2", "no-such-interface", "", "a\0b"])
def test_outbound_address_that_is_none(text: str) -> None:
    with pytest.raises(WrongValue, match=r"^outbound-addr has to be valid ipv4 address or interface name\.$"):
        values.outbound_address(text)
    with pytest.raises(WrongValue, match=r"^outbound-addr6 has to be"):
        values.outbound_address6(text)


def test_paths(tmp_path: Path) -> None:
    there, gone = str(tmp_path), str(tmp_path / "gone")
    assert values.userns_path(there) == values.netns_path(there) == there
    with pytest.raises(UsageError, match=f"^userns path doesn't exist: {gone}$"):
        values.userns_path(gone)
    with pytest.raises(UsageError, match=r"^existing path expected when --netns-type=path: No such file or directory$"):
        values.netns_path(gone)

# SPDX-License-Identifier: BSD-3-Clause
"""Relayed endpoints: both ways, told from UDP ones, and a host for each peer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.derp import from_endpoint, to_endpoint
from ts4nsnet.endpoint import to_endpoint as udp_endpoint
from ts4nsnet.keys import PublicKey
from ts4nsnet.wireguard.messages import ENDPOINT_BYTES, HOST_BYTES

KEY = PublicKey(bytes(range(1, 33)))


def test_layout() -> None:
    endpoint = to_endpoint(900, KEY)
    assert endpoint == KEY.raw[:16] + b"\0\0\0\0" + b"\0\0\x03\x84" + KEY.raw[16:24]
    assert from_endpoint(endpoint) == (900, KEY.raw[:24])


@given(st.integers(1, (1 << 32) - 1), st.binary(min_size=32, max_size=32))
def test_region_and_key_come_back(region_id: int, key: bytes) -> None:
    endpoint = to_endpoint(region_id, PublicKey(key))
    assert len(endpoint) == ENDPOINT_BYTES
    assert from_endpoint(endpoint) == (region_id, key[:24])


def test_each_peer_is_a_host_of_its_own_in_whatever_region() -> None:
    other = PublicKey(bytes(range(2, 34)))
    assert to_endpoint(1, KEY)[:HOST_BYTES] == to_endpoint(2, KEY)[:HOST_BYTES]
    assert to_endpoint(1, KEY)[:HOST_BYTES] != to_endpoint(1, other)[:HOST_BYTES]
    assert to_endpoint(1, KEY) != to_endpoint(2, KEY)


@pytest.mark.parametrize("address", [("192.0.2.1", 1), ("192.0.2.1", 65535), ("2001:db8::1", 51820), ("fe80::1%1", 9)])
def test_a_udp_address_is_not_relayed(address: tuple[str, int]) -> None:
    assert from_endpoint(udp_endpoint(address)) is None


def test_nowhere_is_not_relayed() -> None:
    assert from_endpoint(bytes(ENDPOINT_BYTES)) is None

# SPDX-License-Identifier: BSD-3-Clause
"""STUN answers: the vector of the notes, and everything that gets none."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.lab.clients import stun_request
from ts4nsnet.lab.stun import answer, parse_request, response

TRANSACTION = bytes(range(1, 13))
REQUEST = bytes.fromhex("000100142112a4420102030405060708090a0b0c802200087461696c6e6f646580280004b32c370f")


def test_vector() -> None:
    assert stun_request(TRANSACTION) == REQUEST
    assert parse_request(REQUEST) == TRANSACTION
    found = answer(REQUEST, "192.0.2.33", 41641)
    assert found is not None
    assert found.hex() == "0101000c2112a4420102030405060708090a0b0c00200008000183bbe112a663"


def test_ipv6_and_mapped_addresses() -> None:
    found = answer(REQUEST, "2001:db8::1", 7)
    assert found is not None
    assert len(found) == 44
    assert found[25] == 2
    mask = bytes.fromhex("2112a442") + TRANSACTION
    assert bytes(a ^ b for a, b in zip(found[28:], mask, strict=True)) == ip_address("2001:db8::1").packed
    assert answer(REQUEST, "::ffff:192.0.2.33", 41641) == answer(REQUEST, "192.0.2.33", 41641)
    assert response(TRANSACTION, ip_address("192.0.2.33"), 41641) == answer(REQUEST, "192.0.2.33", 41641)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        REQUEST[:27],
        REQUEST[:20],
        REQUEST + b"\0",
        REQUEST[:-1] + b"\0",  # checksum
        b"\x01\x01" + REQUEST[2:],  # a response
        REQUEST[:4] + b"\0\0\0\0" + REQUEST[8:],  # cookie
        REQUEST[:20] + REQUEST[32:],  # length
        REQUEST[:24] + b"tailnodf" + REQUEST[32:],  # software
        REQUEST[:22] + b"\xff\xff" + REQUEST[24:],  # an attribute that does not fit
        REQUEST[:2] + b"\x02\x00" + REQUEST[4:] + bytes(492),  # no fingerprint at the end
        REQUEST + bytes(1000),
    ],
)
def test_no_answer(datagram: bytes) -> None:
    assert answer(datagram, "192.0.2.33", 41641) is None


@given(st.binary(max_size=100), st.integers(0, 40))
def test_noise_gets_no_answer(noise: bytes, cut: int) -> None:
    datagram = REQUEST[:cut] + noise
    assert (answer(datagram, "192.0.2.33", 41641) is None) == (datagram != REQUEST)

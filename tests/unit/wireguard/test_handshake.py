# SPDX-License-Identifier: BSD-3-Clause
"""Noise_IKpsk2 against the recorded handshakes, byte for byte; wrong messages; timestamps."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wireguard.pair import VECTORS
from ts4nsnet.keys import InvalidKey, PrivateKey, PublicKey
from ts4nsnet.noise import DecryptionFailed
from ts4nsnet.wireguard.handshake import (
    NO_PRESHARED_KEY,
    TIMESTAMP_STEP,
    Initiator,
    Received,
    Timestamps,
    TransportKeys,
    tai64n,
)
from ts4nsnet.wireguard.messages import Initiation, Response

KEYS = VECTORS["keys"]
HANDSHAKES = VECTORS["handshakes"]
NAMES = [handshake["name"] for handshake in HANDSHAKES]
PSK = bytes.fromhex(HANDSHAKES[0]["preshared_key"])
STAMP = bytes.fromhex(HANDSHAKES[0]["timestamp_tai64n"])

CALLER = PrivateKey(bytes.fromhex(KEYS["initiator_static_private"]))
CALLED = PrivateKey(bytes.fromhex(KEYS["responder_static_private"]))
CALLER_EPHEMERAL = PrivateKey(bytes.fromhex(KEYS["initiator_ephemeral_private"]))
CALLED_EPHEMERAL = PrivateKey(bytes.fromhex(KEYS["responder_ephemeral_private"]))
SECRET = bytes.fromhex(KEYS["static_static_dh"])

INITIATION_FIELDS = ["ephemeral", "sealed_static", "sealed_timestamp"]


def call(stamp: bytes = STAMP) -> tuple[Initiation, Initiator]:
    index = KEYS["initiator_index"]
    return Initiator.create(CALLER, CALLED.public, SECRET, CALLER_EPHEMERAL, stamp, index)


def answer(initiation: Initiation, psk: bytes = PSK) -> tuple[Response, TransportKeys]:
    received = Received.open(initiation, CALLED)
    received.timestamp(SECRET)
    return received.respond(CALLED_EPHEMERAL, psk, KEYS["responder_index"])


# --- the vectors ---


@pytest.mark.parametrize("recorded", HANDSHAKES, ids=NAMES)
def test_a_recorded_handshake_is_made_again_byte_for_byte(recorded: dict[str, Any]) -> None:
    psk = bytes.fromhex(recorded["preshared_key"])
    initiation, initiator = call(bytes.fromhex(recorded["timestamp_tai64n"]))
    # the mac fields are another module's
    assert initiation.emit()[:116].hex() == recorded["initiation"][: 2 * 116]

    response, called_keys = answer(Initiation.parse(bytes.fromhex(recorded["initiation"])), psk)
    assert response.emit()[:60].hex() == recorded["response"][: 2 * 60]

    caller_keys = initiator.finish(Response.parse(bytes.fromhex(recorded["response"])), psk)
    assert caller_keys.send.hex() == called_keys.receive.hex() == recorded["key_initiator_to_responder"]
    assert caller_keys.receive.hex() == called_keys.send.hex() == recorded["key_responder_to_initiator"]


@pytest.mark.parametrize("recorded", HANDSHAKES, ids=NAMES)
def test_the_called_side_learns_who_calls_and_when(recorded: dict[str, Any]) -> None:
    received = Received.open(Initiation.parse(bytes.fromhex(recorded["initiation"])), CALLED)
    assert received.static == CALLER.public
    assert received.timestamp(SECRET).hex() == recorded["timestamp_tai64n"]


def test_roles_swapped_make_keys_too() -> None:
    initiation, initiator = Initiator.create(CALLED, CALLER.public, SECRET, CALLED_EPHEMERAL, STAMP, 1)
    received = Received.open(initiation, CALLER)
    assert received.static == CALLED.public
    assert received.timestamp(SECRET) == STAMP
    response, called_keys = received.respond(CALLER_EPHEMERAL, PSK, 2)
    caller_keys = initiator.finish(response, PSK)
    assert (caller_keys.send, caller_keys.receive) == (called_keys.receive, called_keys.send)
    assert (response.sender_index, response.receiver_index) == (2, 1)


def test_transport_keys_are_not_shown() -> None:
    _, keys = answer(call()[0])
    assert "send" not in repr(keys)
    assert "receive" not in repr(keys)


# --- what is wrong ---


def changed(message: Initiation | Response, at: int) -> bytes:
    datagram = bytearray(message.emit())
    datagram[at] ^= 0x40
    return bytes(datagram)


@pytest.mark.parametrize("at", range(8, 116))
def test_no_byte_of_an_initiation_can_be_changed(at: int) -> None:
    initiation, _ = call()
    wrong = Initiation.parse(changed(initiation, at))
    with pytest.raises((DecryptionFailed, InvalidKey)):
        answer(wrong)


@pytest.mark.parametrize("at", range(12, 60))
def test_no_byte_of_a_response_can_be_changed_and_the_right_one_is_still_accepted(at: int) -> None:
    initiation, initiator = call()
    response, called_keys = answer(initiation)
    with pytest.raises((DecryptionFailed, InvalidKey)):
        initiator.finish(Response.parse(changed(response, at)), PSK)
    assert initiator.finish(response, PSK).send == called_keys.receive


@pytest.mark.parametrize("point", VECTORS["low_order_points"]["points"])
def test_an_ephemeral_key_of_low_order_is_refused_by_both_sides(point: str) -> None:
    initiation, initiator = call()
    low = bytes.fromhex(point)
    with pytest.raises(InvalidKey):
        Received.open(Initiation(1, low, initiation.sealed_static, initiation.sealed_timestamp), CALLED)
    response, _ = answer(initiation)
    with pytest.raises(InvalidKey):
        initiator.finish(Response(1, 2, low, response.sealed_nothing), PSK)


@pytest.mark.parametrize("point", VECTORS["low_order_points"]["points"])
def test_nobody_with_a_static_key_of_low_order_can_be_called(point: str) -> None:
    with pytest.raises(InvalidKey):
        Initiator.create(CALLER, PublicKey(bytes.fromhex(point)), SECRET, CALLER_EPHEMERAL, STAMP, 1)


def test_who_is_not_called_cannot_read_an_initiation() -> None:
    initiation, _ = call()
    with pytest.raises(DecryptionFailed):
        Received.open(initiation, CALLED_EPHEMERAL)


def test_who_does_not_own_the_static_key_cannot_make_a_timestamp() -> None:
    initiation, _ = Initiator.create(CALLER, CALLED.public, bytes(32), CALLER_EPHEMERAL, STAMP, 1)
    received = Received.open(initiation, CALLED)
    assert received.static == CALLER.public  # so far it is a claim
    with pytest.raises(DecryptionFailed):
        received.timestamp(SECRET)


def test_a_preshared_key_that_differs_is_seen_by_the_caller_alone() -> None:
    initiation, initiator = call()
    response, _ = answer(initiation, NO_PRESHARED_KEY)
    with pytest.raises(DecryptionFailed):
        initiator.finish(response, PSK)


@pytest.mark.parametrize("field", INITIATION_FIELDS)
def test_fields_of_two_initiations_do_not_mix(field: str) -> None:
    first, _ = call()
    other = PrivateKey(bytes(range(32)))
    second, _ = Initiator.create(CALLER, CALLED.public, SECRET, other, STAMP, 1)
    fields = {name: getattr(second if name == field else first, name) for name in INITIATION_FIELDS}
    with pytest.raises(DecryptionFailed):
        answer(Initiation(1, **fields))


# --- timestamps ---


@pytest.mark.parametrize("row", VECTORS["tai64n"], ids=lambda row: f"{row['unix_sec']}.{row['nanos']:09}")
def test_timestamps_are_rounded_tai64n(row: dict[str, Any]) -> None:
    wall = row["unix_sec"] * 10**9 + row["nanos"]
    assert tai64n(wall).hex() == row["exact"]
    if wall >= TIMESTAMP_STEP:
        assert Timestamps().next(wall).hex() == row["whitened"]


def test_timestamps_go_on_when_the_clock_stands_or_is_set_back() -> None:
    stamps = Timestamps()
    noon = 1_700_000_000 * 10**9
    made = [stamps.next(wall) for wall in (noon, noon, noon + 1, noon - 10**12, 0, noon + TIMESTAMP_STEP)]
    assert made == [tai64n(noon + step * TIMESTAMP_STEP) for step in range(6)]


def test_nanoseconds_carry_into_seconds() -> None:
    stamps = Timestamps()
    stamps.next(10**9 - 1)
    made = stamps.next(0)
    assert made[:8].hex() == "400000000000000b"
    assert int.from_bytes(made[8:], "big") < 10**9


@given(st.lists(st.integers(0, 1 << 62), max_size=50))
def test_timestamps_always_grow(walls: list[int]) -> None:
    stamps = Timestamps()
    made = [stamps.next(wall) for wall in walls]
    assert made == sorted(set(made))
    assert all(len(stamp) == 12 for stamp in made)

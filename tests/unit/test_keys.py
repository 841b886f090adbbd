# SPDX-License-Identifier: BSD-3-Clause
"""X25519 keys: text forms, agreement, points of low order, and that secrets do not leak."""

import copy
import pickle
from base64 import b64encode

import pytest

from tests.unit.wireguard.pair import VECTORS
from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keys import InvalidKey, PrivateKey, PublicKey

KEYS = VECTORS["keys"]
LOW_ORDER_POINTS = [bytes.fromhex(point) for point in VECTORS["low_order_points"]["points"]]
PAIRS = ["initiator_static", "responder_static", "initiator_ephemeral", "responder_ephemeral"]

# text, what is wrong with it
NO_KEYS = [
    ("", "nothing"),
    ("AAAA", "too short"),
    ("A" * 44, "33 bytes"),
    (b64encode(bytes(31)).decode(), "31 bytes"),
    (b64encode(bytes(33)).decode(), "33 bytes"),
    ("A" * 42 + "!=", "a foreign letter"),
    ("A" * 43, "no padding"),
    ("ä" * 44, "not ASCII"),
    (b64encode(bytes(32)).decode() + "\n", "more than the key"),
    (bytes(32).hex(), "hexadecimal"),
]


def private(name: str) -> PrivateKey:
    return PrivateKey(bytes.fromhex(KEYS[f"{name}_private"]))


@pytest.mark.parametrize("name", PAIRS)
def test_public_key_follows_from_the_private_one(name: str) -> None:
    assert private(name).public.raw.hex() == KEYS[f"{name}_public"]


def test_both_sides_agree_on_the_recorded_secret() -> None:
    initiator, responder = private("initiator_static"), private("responder_static")
    assert initiator.exchange(responder.public).hex() == KEYS["static_static_dh"]
    assert responder.exchange(initiator.public).hex() == KEYS["static_static_dh"]


def test_a_private_key_is_clamped_at_use() -> None:
    clamped = bytes.fromhex(KEYS["initiator_static_private"])
    loose = bytes([clamped[0] | 7]) + clamped[1:31] + bytes([clamped[31] | 128])
    assert PrivateKey(loose).public == PrivateKey(clamped).public


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=bytes.hex)
def test_no_secret_is_agreed_with_a_point_of_low_order(point: bytes) -> None:
    with pytest.raises(InvalidKey, match="low order"):
        private("initiator_static").exchange(PublicKey(point))


def test_text_forms_go_both_ways() -> None:
    key = private("responder_static")
    assert PublicKey.from_base64(str(key.public)) == key.public
    assert PrivateKey.from_base64(b64encode(key.private_bytes()).decode()).public == key.public
    assert len(str(key.public)) == 44


@pytest.mark.parametrize(("text", "wrong"), NO_KEYS, ids=[wrong for _, wrong in NO_KEYS])
def test_text_that_is_no_key_is_refused(text: str, wrong: str) -> None:
    del wrong
    with pytest.raises(InvalidKey, match=r"public key: .* want"):
        PublicKey.from_base64(text)
    with pytest.raises(InvalidKey, match=r"private key: .* want") as caught:
        PrivateKey.from_base64(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_keys_have_32_bytes(size: int) -> None:
    with pytest.raises(InvalidKey, match=f"public key: got {size} bytes, want 32"):
        PublicKey(bytes(size))
    with pytest.raises(InvalidKey, match=f"private key: got {size} bytes, want 32"):
        PrivateKey(bytes(size))


def test_an_invalid_key_is_one_of_our_errors() -> None:
    assert issubclass(InvalidKey, Ts4nsnetError)


def test_public_keys_are_values() -> None:
    first, second = private("initiator_static").public, private("responder_static").public
    assert first == PublicKey(first.raw)
    assert first != second
    assert len({first, PublicKey(first.raw), second}) == 2


def test_a_private_key_is_not_shown() -> None:
    key = private("initiator_static")
    secret = key.private_bytes()
    for shown in (repr(key), str(key), f"{key}"):
        assert secret.hex() not in shown
        assert b64encode(secret).decode() not in shown
        assert str(key.public) in shown


def test_a_private_key_leaves_the_process_in_no_other_way() -> None:
    key = private("initiator_static")
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(key)

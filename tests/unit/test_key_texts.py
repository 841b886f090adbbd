# SPDX-License-Identifier: BSD-3-Clause
"""The text forms of keys: a prefix and hexadecimal digits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.keys import (
    CHALLENGE_PREFIX,
    DISCO_PREFIX,
    MACHINE_PREFIX,
    NODE_PREFIX,
    ZERO_KEY,
    InvalidKey,
    PrivateKey,
    PublicKey,
)

PREFIXES = [MACHINE_PREFIX, NODE_PREFIX, DISCO_PREFIX, CHALLENGE_PREFIX]
HEX = "00112233445566778899aabbccddeeff" * 2


@given(raw=st.binary(min_size=32, max_size=32), prefix=st.sampled_from(PREFIXES))
def test_what_was_written_is_read_again(raw: bytes, prefix: str) -> None:
    key = PublicKey(raw)
    assert PublicKey.from_text(key.to_text(prefix), prefix) == key


def test_the_text_is_the_prefix_and_lower_case_digits() -> None:
    assert PublicKey(bytes.fromhex(HEX)).to_text(NODE_PREFIX) == "nodekey:" + HEX


def test_digits_of_either_case_are_read() -> None:
    assert PublicKey.from_text("mkey:" + HEX.upper(), MACHINE_PREFIX) == PublicKey(bytes.fromhex(HEX))


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX,
        "mkey:" + HEX,
        "NODEKEY:" + HEX,
        "nodekey:",
        "nodekey:" + HEX[:-1],
        "nodekey:" + HEX + "0",
        "nodekey:" + HEX + "\n",
        "nodekey:" + "g" + HEX[1:],
        "nodekey: " + HEX[1:],
        "nodekey:" + "٠" * 64,
        " nodekey:" + HEX,
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey, match=r"public key: want 'nodekey:' and 64 hexadecimal digits"):
        PublicKey.from_text(text, NODE_PREFIX)


def test_the_zero_key_is_no_key() -> None:
    assert PublicKey.from_text("discokey:" + "0" * 64, DISCO_PREFIX) == ZERO_KEY
    assert ZERO_KEY.is_zero
    assert not PublicKey(bytes(31) + b"\1").is_zero


def test_a_private_key_goes_to_a_state_file_and_back() -> None:
    key = PrivateKey(bytes(range(32)))
    text = key.to_text()
    assert text == "privkey:" + bytes(range(32)).hex()
    assert PrivateKey.from_text(text).public == key.public


def test_a_private_key_that_cannot_be_read_is_not_shown() -> None:
    with pytest.raises(InvalidKey) as raised:
        PrivateKey.from_text("privkey:" + HEX[:-2] + "zz")
    assert HEX[:8] not in str(raised.value)
    assert raised.value.__cause__ is None

# SPDX-License-Identifier: BSD-3-Clause
"""The four messages: layouts both ways, exact sizes, types with their reserved bytes, and padding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wireguard.pair import VECTORS
from ts4nsnet.wireguard.messages import (
    CookieReply,
    Drop,
    Initiation,
    Malformed,
    MessageType,
    Response,
    WireGuardError,
    message_type,
    padded_size,
)

HANDSHAKE = VECTORS["handshakes"][0]
INITIATION = bytes.fromhex(HANDSHAKE["initiation"])
RESPONSE = bytes.fromhex(HANDSHAKE["response"])
COOKIE_REPLY = bytes.fromhex(VECTORS["cookie"]["cookie_reply"])
NO_CLAMP = 1 << 16  # the table's mtu 0

# message, its class, its size, its type
CASES = [
    (INITIATION, Initiation, 148, MessageType.INITIATION),
    (RESPONSE, Response, 92, MessageType.RESPONSE),
    (COOKIE_REPLY, CookieReply, 64, MessageType.COOKIE_REPLY),
]
IDS = ["initiation", "response", "cookie reply"]
Fixed = type[Initiation] | type[Response] | type[CookieReply]
LAYOUTS: dict[MessageType, Fixed] = {
    MessageType.INITIATION: Initiation,
    MessageType.RESPONSE: Response,
    MessageType.COOKIE_REPLY: CookieReply,
}


@pytest.mark.parametrize(("message", "layout", "size", "kind"), CASES, ids=IDS)
def test_a_message_that_was_read_is_written_alike(message: bytes, layout: Fixed, size: int, kind: MessageType) -> None:
    assert len(message) == size == layout.SIZE
    assert message_type(message) == kind == layout.TYPE
    assert layout.parse(message).emit() == message
    assert layout.parse(memoryview(bytearray(message))) == layout.parse(message)


def test_fields_of_an_initiation_lie_where_the_paper_says() -> None:
    initiation = Initiation.parse(INITIATION)
    assert initiation.sender_index == VECTORS["keys"]["initiator_index"]
    assert initiation.ephemeral.hex() == VECTORS["keys"]["initiator_ephemeral_public"]
    assert initiation.sealed_static.hex() == HANDSHAKE["initiation_trace"]["encrypted_static"]
    assert initiation.sealed_timestamp.hex() == HANDSHAKE["initiation_trace"]["encrypted_timestamp"]
    assert initiation.mac1 == INITIATION[116:132]
    assert initiation.mac2 == INITIATION[132:148] == bytes(16)


def test_fields_of_a_response_lie_where_the_paper_says() -> None:
    response = Response.parse(RESPONSE)
    assert response.sender_index == VECTORS["keys"]["responder_index"]
    assert response.receiver_index == VECTORS["keys"]["initiator_index"]
    assert response.ephemeral.hex() == VECTORS["keys"]["responder_ephemeral_public"]
    assert response.sealed_nothing.hex() == HANDSHAKE["response_trace"]["encrypted_empty"]
    assert response.mac1 == RESPONSE[60:76]
    assert response.mac2 == RESPONSE[76:92]


def test_fields_of_a_cookie_reply_lie_where_the_paper_says() -> None:
    reply = CookieReply.parse(COOKIE_REPLY)
    assert reply.receiver_index == VECTORS["keys"]["initiator_index"]
    assert reply.nonce.hex() == VECTORS["cookie"]["nonce"]
    assert reply.sealed_cookie == COOKIE_REPLY[32:]


@pytest.mark.parametrize(("message", "layout", "size", "kind"), CASES, ids=IDS)
def test_only_the_exact_size_is_read(message: bytes, layout: Fixed, size: int, kind: MessageType) -> None:
    for other in {0, 4, 31, 32, size - 1, size + 1, 2 * size} - {size}:
        with pytest.raises(Malformed, match=f"{kind.name} length: got {other}, want {size}") as caught:
            layout.parse(message.ljust(other, b"\0")[:other])
        assert caught.value.drop is Drop.LENGTH


@pytest.mark.parametrize("size", range(32))
def test_a_datagram_shorter_than_any_message_has_no_type(size: int) -> None:
    with pytest.raises(Malformed) as caught:
        message_type(b"\x04\0\0\0".ljust(size, b"\0")[:size])
    assert caught.value.drop is Drop.LENGTH


@pytest.mark.parametrize("kind", MessageType)
def test_reserved_bytes_must_be_zero(kind: MessageType) -> None:
    assert message_type(bytes([kind]).ljust(32, b"\0")) is kind
    for at in (1, 2, 3):
        datagram = bytearray(bytes([kind]).ljust(32, b"\0"))
        datagram[at] = 1
        with pytest.raises(Malformed) as caught:
            message_type(datagram)
        assert caught.value.drop is Drop.TYPE


@pytest.mark.parametrize("word", [0, 5, 255, 256, 1 << 24, (1 << 32) - 1])
def test_other_types_are_unknown(word: int) -> None:
    with pytest.raises(Malformed) as caught:
        message_type(word.to_bytes(4, "little").ljust(32, b"\0"))
    assert caught.value.drop is Drop.TYPE


def test_malformed_is_one_of_our_errors() -> None:
    assert issubclass(Malformed, WireGuardError)


def test_every_reason_to_drop_has_a_label_of_its_own() -> None:
    assert len({str(reason) for reason in Drop}) == len(Drop) == 21


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(datagram: bytes) -> None:
    try:
        kind = message_type(datagram)
    except Malformed:
        return
    layout = LAYOUTS.get(kind)
    if layout is not None and len(datagram) == layout.SIZE:
        assert layout.parse(datagram).emit() == datagram


# --- padding ---


@pytest.mark.parametrize("row", VECTORS["padding"], ids=lambda row: f"{row['len']} in {row['mtu']}")
def test_padding(row: dict[str, int]) -> None:
    assert padded_size(row["len"], row["mtu"] or NO_CLAMP) == row["len"] + row["padding"]


@given(size=st.integers(0, 9000), mtu=st.integers(576, 9000))
def test_padding_never_goes_beyond_the_mtu_nor_further_than_needed(size: int, mtu: int) -> None:
    padded = padded_size(size, mtu)
    assert size <= padded < size + 16
    if size <= mtu:
        assert padded <= mtu
        assert padded % 16 == 0 or padded == mtu


@given(mtu=st.integers(576, 9000), pieces=st.integers(1, 44))
def test_all_pieces_of_a_train_are_equally_long(mtu: int, pieces: int) -> None:
    assert padded_size(mtu, mtu) == mtu
    assert padded_size(pieces * mtu, mtu) == pieces * mtu

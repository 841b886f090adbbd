# SPDX-License-Identifier: BSD-3-Clause
"""Disco's messages: recorded bytes both ways, what is tolerated, what is malformed, boxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.magicsock.net import at
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.magicsock.disco import (
    MARKED_PING_BYTES,
    Boxes,
    CallMeMaybe,
    Malformed,
    Message,
    Ping,
    Pong,
    is_disco,
    parse,
    sender,
)

SENDER = PrivateKey(bytes(range(0x20)))
RECEIVER = PrivateKey(bytes(range(0x20, 0x40)))
NODE = PrivateKey(bytes(range(0x40, 0x60))).public
TRANSACTION = bytes(range(1, 13))
# computed apart from this implementation; our notes on disco, section 8
DATAGRAM = bytes.fromhex(
    "5453f09f92ac8f40c5adb68f25624ae5b214ea767a6ec94d829d3d7b5e1ad1ba6f3e2138285f"
    "c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf"
    "8670b411cff8d2b073735656e9caf28e82a70704cfc01bacf6e49e10221090fe3ba3b4329793346578ff358c1699dc805e07940e252cb1d5"
    "cc65618d02aa"
)
CASES: list[tuple[Message, str]] = [
    (Ping(TRANSACTION, NODE), "01000102030405060708090a0b0c" + NODE.raw.hex()),
    (Ping(TRANSACTION, NODE, 3), "01000102030405060708090a0b0c" + NODE.raw.hex() + "000000"),
    (Ping(TRANSACTION, None), "01000102030405060708090a0b0c"),
    (
        Ping(TRANSACTION, NODE, 3, is_marked=True),
        "01000102030405060708090a0b0c" + NODE.raw.hex() + "7473346e736e6574000000",
    ),
    (
        Pong(TRANSACTION, at("127.3.3.40", 900), is_marked=True),
        "02000102030405060708090a0b0c00000000000000000000ffff7f03032803847473346e736e6574",
    ),
    (Pong(TRANSACTION, at("192.0.2.33", 41641)), "02000102030405060708090a0b0c00000000000000000000ffffc0000221a2a9"),
    (Pong(TRANSACTION, at("127.3.3.40", 900)), "02000102030405060708090a0b0c00000000000000000000ffff7f0303280384"),
    (
        CallMeMaybe((at("192.0.2.33", 41641), at("2001:db8::7", 41641))),
        "030000000000000000000000ffffc0000221a2a920010db8000000000000000000000007a2a9",
    ),
    (CallMeMaybe(()), "0300"),
]


def boxes(key: PrivateKey, nonce: bytes = bytes(range(0xC8, 0xE0))) -> Boxes:
    return Boxes(key, lambda size: nonce[:size])


@pytest.mark.parametrize(("message", "text"), CASES)
def test_a_message_is_written_and_read(message: Message, text: str) -> None:
    assert message.emit().hex() == text
    assert parse(bytes.fromhex(text)) == message


def test_a_recorded_datagram_is_made_and_opened() -> None:
    ping = Ping(TRANSACTION, NODE)
    assert boxes(SENDER).seal(ping, RECEIVER.public) == DATAGRAM
    assert boxes(RECEIVER).open(memoryview(DATAGRAM)) == ping
    assert (is_disco(DATAGRAM), sender(DATAGRAM)) == (True, SENDER.public)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0107" + TRANSACTION.hex(), Ping(TRANSACTION, None)),  # the version of a ping is not looked at
        ("0100" + TRANSACTION.hex() + "00" * 31, Ping(TRANSACTION, None, 31)),
        ("0100" + TRANSACTION.hex() + NODE.raw.hex() + b"ts4nsne".hex(), Ping(TRANSACTION, NODE, 7)),
        ("0209" + TRANSACTION.hex() + at("192.0.2.1", 7)[:18].hex() + "beef", Pong(TRANSACTION, at("192.0.2.1", 7))),
        ("0300" + at("192.0.2.1", 7)[:18].hex() + "00", CallMeMaybe(())),
        ("0301" + at("192.0.2.1", 7)[:18].hex(), CallMeMaybe(())),
    ],
)
def test_what_the_reference_tolerates_is_tolerated(text: str, message: Message) -> None:
    assert parse(bytes.fromhex(text)) == message


@pytest.mark.parametrize(
    "text", ["", "01", "0100" + "00" * 11, "0200" + "00" * 29, "03", "0000", "0400" + "00" * 72, "ff00"]
)
def test_what_is_too_short_or_unknown_is_malformed(text: str) -> None:
    with pytest.raises(Malformed, match="want a ping, pong or call-me-maybe"):
        parse(bytes.fromhex(text))


def test_a_marked_ping_without_padding_is_as_long_as_it_says() -> None:
    assert len(boxes(SENDER).seal(Ping(TRANSACTION, NODE, is_marked=True), RECEIVER.public)) == MARKED_PING_BYTES


@pytest.mark.parametrize(
    "datagram", [b"", DATAGRAM[:37], b"TS" + bytes(50), b"\1\0\0\0" + bytes(144), b"\4\0\0\0" + bytes(60)]
)
def test_other_datagrams_are_not_disco(datagram: bytes) -> None:
    assert not is_disco(datagram)


@pytest.mark.parametrize("size", [38, 61, 62, 77, 78, len(DATAGRAM) - 1])
def test_a_datagram_that_was_cut_does_not_open(size: int) -> None:
    assert is_disco(DATAGRAM[:size])
    with pytest.raises(Malformed, match="not sealed"):
        boxes(RECEIVER).open(DATAGRAM[:size])


@given(st.integers(38, len(DATAGRAM) - 1), st.integers(1, 255))
def test_a_changed_datagram_does_not_open(position: int, change: int) -> None:
    changed = bytearray(DATAGRAM)
    changed[position] ^= change
    with pytest.raises(Malformed, match="not sealed"):
        boxes(RECEIVER).open(changed)


def test_another_one_cannot_open_it() -> None:
    with pytest.raises(Malformed, match="not sealed"):
        boxes(PrivateKey(bytes(32))).open(DATAGRAM)


def test_with_a_point_of_low_order_no_secret_is_agreed() -> None:
    low_order = PublicKey(b"\1" + bytes(31))
    with pytest.raises(Malformed, match="no secret"):
        boxes(SENDER).seal(Ping(TRANSACTION, NODE), low_order)
    with pytest.raises(Malformed, match="not sealed"):
        boxes(RECEIVER).open(DATAGRAM[:6] + low_order.raw + DATAGRAM[38:])


def test_a_forgotten_key_can_come_back() -> None:
    mine = boxes(RECEIVER)
    mine.open(DATAGRAM)
    mine.forget(SENDER.public)
    mine.forget(SENDER.public)
    assert mine.open(DATAGRAM) == Ping(TRANSACTION, NODE)


@given(
    st.binary(min_size=12, max_size=12),
    st.lists(st.tuples(st.ip_addresses(), st.integers(0, 65535)), max_size=5),
    st.integers(0, 40),
    st.booleans(),
)
def test_what_was_sealed_is_opened(
    transaction: bytes, addresses: list[tuple[object, int]], padding: int, is_marked: bool
) -> None:
    endpoints = tuple(at(str(address), port) for address, port in addresses)
    messages: list[Message] = [
        Ping(transaction, NODE, padding, is_marked),
        CallMeMaybe(endpoints),
        *(Pong(transaction, e, is_marked) for e in endpoints),
    ]
    for message in messages:
        assert boxes(RECEIVER).open(boxes(SENDER).seal(message, RECEIVER.public)) == message

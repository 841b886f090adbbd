# SPDX-License-Identifier: BSD-3-Clause
"""What node and worker say to each other: it comes out as it went in, whatever datagrams it came in."""

from ipaddress import ip_network
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.uring import spoken
from ts4nsnet.filter import Grant, Range, Rule
from ts4nsnet.uring.commands import (
    TO_NODE,
    TO_WORKER,
    Complete,
    FilterSet,
    Forward,
    Hello,
    Kinds,
    Lost,
    Packets,
    Relayed,
    RoutesSet,
    Spoken,
    ToNode,
    ToWorker,
)
from ts4nsnet.uring.encoding import MAX_DATAGRAM_BYTES, VERSION, Reader, datagrams, emit
from ts4nsnet.uring.events import Refused
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Keypair
from ts4nsnet.wireguard.handshake import TransportKeys
from ts4nsnet.wireguard.sessions import KeysZeroed, Roamed

EVERYTHING: Kinds[Spoken] = Kinds(TO_WORKER.types | TO_NODE.types)
ENDPOINT = bytes(range(32))


def heard(messages: list[Spoken], limit: int = MAX_DATAGRAM_BYTES) -> list[Spoken]:
    """What the other end makes of some messages."""
    reader = Reader(EVERYTHING)
    got = [message for each in datagrams(map(emit, messages), limit) for message in reader.feed(each)]
    assert not reader.malformed
    return got


@given(st.lists(spoken.either, max_size=8), st.integers(8, 300))
def test_all_that_is_said_is_heard(messages: list[Spoken], limit: int) -> None:
    assert list(map(spoken.shown, heard(messages))) == list(map(spoken.shown, messages))
    assert list(map(spoken.shown, heard(messages, limit))) == list(map(spoken.shown, messages))


@given(st.lists(spoken.either, max_size=8), st.integers(8, 300))
def test_no_datagram_is_longer_than_the_limit(messages: list[Spoken], limit: int) -> None:
    assert all(len(each) <= limit for each in datagrams(map(emit, messages), limit))


def test_small_messages_share_a_datagram() -> None:
    assert len(datagrams(emit(KeysZeroed(number)) for number in range(1000))) == 1
    assert datagrams([]) == []


def test_a_train_comes_out_in_one_piece() -> None:
    train = Train([b"aaa", b"bbb", b"c"], 3, 3, ENDPOINT)
    (message,) = heard([Relayed(train)])
    assert isinstance(message, Relayed)
    assert list(map(bytes, message.train.datagrams())) == [b"aaa", b"bbb", b"c"]
    assert message.train.endpoint == ENDPOINT


def test_each_kind_has_one_side_or_both() -> None:
    assert TO_WORKER.types == set(get_args(ToWorker))
    assert TO_NODE.types == set(get_args(ToNode))
    assert TO_WORKER.types & TO_NODE.types == {Roamed}


@pytest.mark.parametrize(("kinds", "message"), [(TO_NODE, Complete()), (TO_WORKER, Hello("uring"))])
def test_what_is_for_the_other_side_is_malformed(kinds: Kinds[Spoken], message: Spoken) -> None:
    reader = Reader(kinds)
    assert reader.feed(datagrams([emit(message)])[0]) == []
    assert reader.malformed == 1


# --- rules --------------------------------------------------------------------------------------------------------


def test_grants_stay_behind() -> None:
    rule = Rule(grants=(Grant((ip_network("10.0.0.1"),), {"drive": ("{}",)}),))
    local, capable = [ip_network("10.0.0.1")], {"fine": [Range(4, 1, 9)]}
    bare = FilterSet((Rule(),), tuple(local), {"fine": (Range(4, 1, 9),)}, tuple(local))
    assert heard([FilterSet.of([rule], local, capable, local)]) == [bare]


def test_rules_with_equal_sources_share_them() -> None:
    sources = tuple(Range(4, address, address) for address in range(10_000))
    one, many = (emit(FilterSet(tuple(Rule(sources, (str(each),)) for each in range(count)))) for count in (1, 100))
    assert len(many) < len(one) * 1.1
    message = heard([FilterSet((Rule(sources), Rule(sources, ("another",))))])[0]
    assert isinstance(message, FilterSet)
    assert message.rules[0].sources is message.rules[1].sources


# --- what is no message -------------------------------------------------------------------------------------------


def record(kind: int, body: bytes, *, more: bool = False) -> bytes:
    return bytes((kind, more)) + len(body).to_bytes(4, "little") + body


def kind_of(message: Spoken) -> int:
    return emit(message)[0]


KEYS = TransportKeys(bytes(32), bytes(32))
NEVER = emit(Keypair(1, 2, 3, KEYS, initiator=True, created_at=float("nan")))
ONE_ROUTE = emit(RoutesSet(1, frozenset({ip_network("10.0.0.0/8")})))
RULE = emit(FilterSet((Rule((), (), ()),)))
TRAIN = emit(Relayed(Train((b"abcdef",), 3, 2, ENDPOINT)))


@pytest.mark.parametrize(
    "wrong",
    [
        record(0, b""),
        record(200, b""),
        record(kind_of(KeysZeroed(1)), b"123"),
        record(kind_of(KeysZeroed(1)), b"12345"),
        record(kind_of(Complete()), b"1"),
        record(kind_of(Refused(bytes(4))), b"\5\0\0\0" + bytes(5)),
        record(kind_of(Packets(())), b"\xff\xff\xff\xff"),
        record(kind_of(Packets(())), b"\1\0\0\0" + b"\xff\xff\xff\xff"),
        record(kind_of(LocalTraffic()), b"\0" + b"\1\0\0\0" + b"\3\0\0\0" + bytes(3) + bytes(4)),
        record(kind_of(Hello("")), b"\1\0\0\0\xff" + bytes(4)),
        NEVER,
        ONE_ROUTE[:-1] + b"\1",
        ONE_ROUTE.replace(b"\4\x08", b"\5\x08"),
        ONE_ROUTE.replace((1280).to_bytes(2, "little"), (1279).to_bytes(2, "little")),
        ONE_ROUTE.replace(b"\4\x08", b"\4\x28"),
        TRAIN.replace(b"\3\0\0\0\2\0\0\0", b"\0\0\0\0\2\0\0\0"),
        TRAIN.replace(b"\3\0\0\0\2\0\0\0", b"\3\0\0\0\3\0\0\0"),
        b"\1",
    ],
)
def test_malformed(wrong: bytes) -> None:
    reader = Reader(EVERYTHING)
    before, after = emit(KeysZeroed(7)), emit(KeysZeroed(8))
    assert reader.feed(bytes((VERSION,)) + before + wrong + after) == [KeysZeroed(7)]
    assert reader.malformed == 1
    assert reader.feed(bytes((VERSION,)) + after) == [KeysZeroed(8)]


def test_a_rule_whose_sources_are_not_there() -> None:
    at = RULE.index(b"\1\0\0\0" + bytes(4))  # one set of sources, empty; one rule follows
    wrong = RULE[:at] + bytes(4) + RULE[at + 8 :]
    reader = Reader(EVERYTHING)
    assert reader.feed(bytes((VERSION,)) + record(RULE[0], wrong[6:])) == []
    assert reader.malformed == 1


def test_another_version() -> None:
    reader = Reader(EVERYTHING)
    assert reader.feed(bytes((VERSION + 1,)) + emit(KeysZeroed(7))) == []
    assert reader.feed(b"") == []
    assert reader.malformed == 2


def test_a_message_in_pieces_that_another_interrupts() -> None:
    reader = Reader(EVERYTHING)
    kind = kind_of(Forward(b""))
    assert reader.feed(bytes((VERSION,)) + record(kind, b"abc", more=True)) == []
    assert reader.feed(bytes((VERSION,)) + emit(KeysZeroed(7))) == []
    assert reader.malformed == 1
    assert reader.feed(bytes((VERSION,)) + record(kind, b"def")) == [Forward(b"def")]


def test_a_message_without_end() -> None:
    reader = Reader(EVERYTHING)
    piece = bytes((VERSION,)) + record(kind_of(Forward(b"")), bytes(1 << 20), more=True)
    faults = [(reader.feed(piece), reader.malformed)[1] for _ in range(65)]
    assert faults == [0] * 64 + [1]


def test_lost_counts_as_far_as_it_likes() -> None:
    assert heard([Lost(2**64 - 1, 0)]) == [Lost(2**64 - 1, 0)]

# SPDX-License-Identifier: BSD-3-Clause
"""The session table: recorded messages, keypair slots, ages and limits, roaming, adoption, erasure.

`Ends` are two tables and a handshake that always works: keys fall from heaven. Handshakes: test_device.py.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from tests.unit.wireguard.pair import MTU, START, VECTORS, at, endpoint
from ts4nsnet.wireguard.handshake import TransportKeys
from ts4nsnet.wireguard.messages import TRANSPORT_OVERHEAD_BYTES, Drop
from ts4nsnet.wireguard.records import KEYPAIRS_PER_PEER, NOWHERE, KeypairRecord, PeerRecord, SessionMemory
from ts4nsnet.wireguard.sessions import (
    REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES,
    Confirmed,
    Fact,
    Keypair,
    KeysZeroed,
    RekeyWanted,
    Roamed,
    SessionTable,
)

PEER = 2  # the other end's number at both ends


@dataclass
class End:
    """A table, its memory, and where it is."""

    endpoint: bytes
    buffer: bytearray = field(default_factory=lambda: bytearray(SessionMemory.size(4)))

    def __post_init__(self) -> None:
        self.memory = SessionMemory(self.buffer)
        self.memory.entered = self.memory.peers  # as a device would have said
        self.memory.peer(PEER).generation = 1
        self.adopt()

    def adopt(self) -> None:
        """Put a new table over the same memory, as after a crash."""
        self.table = SessionTable(self.memory)

    @property
    def peer(self) -> PeerRecord:
        return self.memory.peer(PEER)

    def keypair(self, slot: int) -> KeypairRecord:
        return self.memory.keypair(PEER, slot)

    @property
    def current(self) -> KeypairRecord:
        return self.keypair(self.peer.current)

    def index(self, slot: int) -> int | None:
        return self.keypair(slot).local_index if slot else None

    def slots(self) -> tuple[int | None, int | None, int | None]:
        """The local indices of previous, current and next."""
        return self.index(self.peer.previous), self.index(self.peer.current), self.index(self.peer.next)

    def seal(self, *packets: bytes, now: float = START) -> list[bytes] | None:
        return self.table.seal(PEER, packets, MTU, now)

    def seal_one(self, packet: bytes = b"packet", now: float = START) -> bytes:
        messages = self.seal(packet, now=now)
        assert messages is not None
        return messages[0]

    def facts(self) -> list[Fact]:
        return list(iter(self.table.next_event, None))

    def dropped(self) -> dict[Drop, int]:
        return dict(self.table.statistics().dropped)


class Ends:
    """Two ends that agree on keypairs without talking."""

    def __init__(self) -> None:
        self.random = Random(3)
        self.left = End(endpoint(1))
        self.right = End(endpoint(2))
        self.index = 100
        self.left.peer.endpoint, self.right.peer.endpoint = self.right.endpoint, self.left.endpoint

    def handshake(self, now: float = START, *, caller: End | None = None) -> tuple[int, int]:
        """Give both a keypair; returns left's and right's receiver index."""
        to_right, to_left = self.random.randbytes(32), self.random.randbytes(32)
        self.index += 1
        left, right = self.index, self.index + 500
        mine = Keypair(PEER, left, right, TransportKeys(to_right, to_left), caller is not self.right, now)
        other = Keypair(PEER, right, left, TransportKeys(to_left, to_right), caller is self.right, now)
        self.right.table.apply(other)
        self.left.table.apply(mine)
        return left, right

    def open(self, end: End, message: bytes, now: float = START) -> bytes | None:
        """Let `end` open a message of the other end; its packet without padding."""
        source = self.right if end is self.left else self.left
        opened = end.table.open(message, source.endpoint, now)
        if opened is None:
            return None
        assert opened[0] == PEER
        return opened[1].rstrip(b"\0")

    def confirm(self, now: float = START) -> None:
        """Send a keep-alive from left to right, and forget what it caused."""
        assert self.open(self.right, self.left.seal_one(b"", now), now) == b""
        self.left.facts()
        self.right.facts()


def connected(now: float = START) -> Ends:
    ends = Ends()
    ends.handshake(now)
    ends.confirm(now)
    return ends


# --- the vectors ---

RECORDED = [
    pytest.param(handshake, message, id=f"{handshake['name']}: {message['note']}")
    for handshake in VECTORS["handshakes"]
    for message in handshake["transport"]
]


@pytest.mark.parametrize(("handshake", "message"), RECORDED)
def test_a_recorded_message_is_made_and_opened(handshake: dict[str, Any], message: dict[str, Any]) -> None:
    indices = VECTORS["keys"]["initiator_index"], VECTORS["keys"]["responder_index"]
    keys = [bytes.fromhex(handshake[f"key_{way}"]) for way in ("initiator_to_responder", "responder_to_initiator")]
    outward = message["direction"] == "i2r"
    caller, called = End(endpoint(1)), End(endpoint(2))
    caller.table.apply(Keypair(PEER, indices[0], indices[1], TransportKeys(*keys), True, START))
    called.table.apply(Keypair(PEER, indices[1], indices[0], TransportKeys(*reversed(keys)), False, START))
    called.peer.current, called.peer.next = called.peer.next, 0  # as if confirmed
    sender, receiver = (caller, called) if outward else (called, caller)
    assert sender.current.remote_index == message["receiver_index"]
    sender.current.send_counter = int(message["counter"])
    plaintext = bytes.fromhex(message["plaintext"])

    sealed = sender.table.seal(PEER, [plaintext], message["tun_mtu"], START)
    assert sealed == [bytes.fromhex(message["packet"])]
    assert len(sealed[0]) == message["padded_plaintext_len"] + TRANSPORT_OVERHEAD_BYTES

    opened = receiver.table.open(memoryview(sealed[0]), sender.endpoint, START)
    assert opened == (PEER, plaintext.ljust(message["padded_plaintext_len"], b"\0"))


# --- sealing ---


def test_without_a_keypair_nothing_is_sealed() -> None:
    end = End(endpoint(1))
    assert end.seal(b"packet") is None
    assert end.table.endpoint(PEER) == NOWHERE


def test_counters_follow_the_order_of_packets() -> None:
    ends = connected()
    messages = [*(ends.left.seal(b"1", b"2") or []), *(ends.left.seal(b"3") or [])]
    assert [int.from_bytes(message[8:16], "little") for message in messages] == [1, 2, 3]
    assert [ends.open(ends.right, message) for message in messages] == [b"1", b"2", b"3"]
    assert ends.left.current.send_counter == 4


def test_no_packets_are_no_messages() -> None:
    assert connected().left.seal() == []


def test_statistics_count_what_was_done() -> None:
    ends = connected()
    ends.open(ends.right, ends.left.seal_one())
    ends.open(ends.right, b"")
    left, right = ends.left.table.statistics(), ends.right.table.statistics()
    assert (left.sealed, left.opened, left.dropped) == (2, 0, {})
    assert (right.sealed, right.opened, right.dropped) == (0, 2, {Drop.LENGTH: 1})


def test_traffic_is_noted_for_the_timers() -> None:
    ends = connected()
    data = ends.left.seal_one(b"d" * 16, at(1))
    ends.open(ends.right, data, at(2))
    ends.open(ends.right, ends.left.seal_one(b"", at(3)), at(4))
    left, right = ends.left.peer, ends.right.peer
    assert (left.sent_at, left.data_sent_at, left.unheard_at, left.received_at) == (at(3), at(1), at(1), 0.0)
    assert (right.received_at, right.data_received_at, right.unanswered_at, right.sent_at) == (at(4), at(2), at(2), 0.0)
    assert left.sent_bytes == right.received_bytes == 32 + 48 + 32

    ends.open(ends.left, ends.right.seal_one(b"", at(5)), at(6))
    assert (left.unheard_at, right.unanswered_at) == (0.0, 0.0)
    assert (right.data_sent_at, left.data_received_at) == (0.0, 0.0)
    assert (right.unheard_at, left.unanswered_at) == (0.0, 0.0)


def test_the_first_of_several_packets_counts_for_unanswered_and_unheard() -> None:
    ends = connected()
    for second in (1, 2, 3):
        ends.open(ends.right, ends.left.seal_one(now=at(second)), at(second))
    assert (ends.left.peer.unheard_at, ends.left.peer.data_sent_at) == (at(1), at(3))
    assert (ends.right.peer.unanswered_at, ends.right.peer.data_received_at) == (at(1), at(3))


# --- what is dropped ---


def test_short_foreign_and_unknown_messages_are_dropped() -> None:
    ends = connected()
    message = ends.left.seal_one()
    for datagram, reason in (
        (b"", Drop.LENGTH),
        (message[:31], Drop.LENGTH),
        (b"\x05" + message[1:], Drop.TYPE),
        (message[:3] + b"\x01" + message[4:], Drop.TYPE),
        (message[:4] + bytes(4) + message[8:], Drop.INDEX_UNKNOWN),
        (message[:-1], Drop.AUTHENTICATION),
        (message + b"\0", Drop.AUTHENTICATION),
    ):
        before = ends.right.dropped().get(reason, 0)
        assert ends.open(ends.right, datagram) is None
        assert ends.right.dropped()[reason] == before + 1
    assert ends.open(ends.right, message) == b"packet"


@pytest.mark.parametrize("byte", range(4, 64))
def test_no_byte_of_a_message_can_be_changed_and_nothing_is_noted(byte: int) -> None:
    ends = connected()
    message = bytearray(ends.left.seal_one(b"p" * 20))
    assert len(message) == 64
    before = bytes(ends.right.buffer)
    message[byte] ^= 0x10
    assert ends.right.table.open(message, endpoint(66), at(1)) is None
    assert bytes(ends.right.buffer) == before
    assert ends.right.facts() == []
    message[byte] ^= 0x10
    assert ends.open(ends.right, bytes(message)) == b"p" * 20


def test_a_message_is_opened_once() -> None:
    ends = connected()
    message = ends.left.seal_one()
    assert ends.open(ends.right, message) == b"packet"
    before = bytes(ends.right.buffer)
    assert ends.right.table.open(message, endpoint(66), at(1)) is None
    assert bytes(ends.right.buffer) == before
    assert ends.right.dropped() == {Drop.REPLAYED: 1}


def test_messages_may_arrive_in_any_order_within_the_window() -> None:
    ends = connected()
    first, *others = ends.left.seal(*[b"%d" % number for number in range(8130)]) or []
    assert ends.open(ends.right, others[-1]) == b"8129"
    assert ends.open(ends.right, others[0]) == b"1"
    assert ends.open(ends.right, first) is None  # 8129 behind


# --- slots ---


def test_the_callers_new_keypair_is_current_at_once() -> None:
    ends = Ends()
    first, _ = ends.handshake()
    assert ends.left.slots() == (None, first, None)
    second, _ = ends.handshake()
    assert ends.left.slots() == (first, second, None)
    third, _ = ends.handshake()
    assert ends.left.slots() == (second, third, None)


def test_the_called_sides_new_keypair_waits_to_be_confirmed() -> None:
    ends = Ends()
    _, first = ends.handshake()
    assert ends.right.slots() == (None, None, first)
    assert ends.right.seal(b"too early") is None
    assert ends.open(ends.right, ends.left.seal_one()) == b"packet"
    assert ends.right.slots() == (None, first, None)
    assert ends.right.facts() == [Confirmed(PEER)]
    assert ends.open(ends.left, ends.right.seal_one(b"back")) == b"back"

    _, second = ends.handshake()
    assert ends.right.slots() == (None, first, second)
    ends.confirm()
    assert ends.right.slots() == (first, second, None)
    _, third = ends.handshake()
    assert ends.right.slots() == (None, second, third)  # the oldest goes as soon as there is a new next


def test_an_unconfirmed_keypair_is_replaced_by_the_next_one() -> None:
    ends = Ends()
    _, first = ends.handshake()
    stale = ends.left.seal_one()
    _, second = ends.handshake()
    assert ends.right.slots() == (None, None, second)
    assert ends.open(ends.right, stale) is None
    assert ends.right.dropped() == {Drop.INDEX_UNKNOWN: 1}
    assert first != second


def test_our_handshake_crosses_theirs_and_their_keypair_stays_for_receiving() -> None:
    ends = connected()
    theirs, _ = ends.handshake(caller=ends.right)
    assert ends.left.peer.next
    ours, _ = ends.handshake(caller=ends.left)
    assert ends.left.slots() == (theirs, ours, None)
    assert ends.left.facts() == []


def test_the_previous_keypair_still_opens_what_is_late() -> None:
    ends = connected()
    late = ends.left.seal_one(b"late")
    back = ends.right.seal_one(b"back")
    ends.handshake()
    assert ends.open(ends.left, back) == b"back"  # the caller's previous
    ends.confirm()
    assert ends.open(ends.right, late) == b"late"  # the called side's, confirmed meanwhile
    assert ends.right.facts() == []


def test_a_message_of_the_current_keypair_does_not_confirm_the_next() -> None:
    ends = connected()
    old = ends.left.seal_one()
    _, new = ends.handshake()
    assert ends.open(ends.right, old) == b"packet"
    assert ends.right.slots()[2] == new


def test_a_peer_never_has_more_than_three_keypairs_and_unused_slots_are_empty() -> None:
    ends = Ends()
    random = Random(11)
    for _ in range(200):
        ends.handshake(caller=random.choice([ends.left, ends.right]))
        if random.random() < 0.5:
            for one, other in ((ends.left, ends.right), (ends.right, ends.left)):
                for message in one.seal(b"") or ():
                    ends.open(other, message)
        for end in (ends.left, ends.right):
            named = [slot for slot in (end.peer.previous, end.peer.current, end.peer.next) if slot]
            assert len(named) == len(set(named)) <= KEYPAIRS_PER_PEER
            for slot in range(1, KEYPAIRS_PER_PEER + 1):
                assert (end.keypair(slot).generation != 0) == (slot in named)


def test_each_record_is_published_under_another_generation() -> None:
    ends = Ends()
    seen = set()
    for _ in range(5):
        ends.handshake()
        seen.add(ends.left.current.generation)
    assert len(seen) == 5


def test_a_keypair_that_took_over_an_index_outlives_the_one_before() -> None:
    # 2^-32 by chance; the table must not stumble over it
    end = End(endpoint(1))
    keys = TransportKeys(bytes(32), bytes(32))
    for _ in range(3):
        end.table.apply(Keypair(PEER, 7, 8, keys, True, START))
    message = end.seal_one()
    assert end.table.open(message[:4] + (7).to_bytes(4, "little") + message[8:], endpoint(2), START) is not None
    end.table.apply(KeysZeroed(PEER))
    assert end.seal(b"") is None


# --- ages and limits ---

# seconds; whether both directions still work; facts at the caller after sending, after receiving
AGES: list[tuple[float, bool, bool, bool]] = [
    (0.0, True, False, False),
    (120.0, True, False, False),
    (120.001, True, True, False),
    (165.0, True, True, False),
    (165.001, True, True, True),
    (179.999, True, True, True),
    (180.0, False, False, False),
    (540.0, False, False, False),
]


@pytest.mark.parametrize(("age", "works", "asks_on_send", "asks_on_receive"), AGES)
def test_ages_of_a_keypair(age: float, works: bool, asks_on_send: bool, asks_on_receive: bool) -> None:
    asked = [RekeyWanted(PEER)]
    ends = connected()
    back = ends.right.seal_one(b"back", at(1))
    ends.right.facts()
    assert (ends.open(ends.left, back, at(age)) == b"back") == works
    assert ends.left.facts() == (asked if asks_on_receive else [])

    ends = connected()
    sealed = ends.left.seal(b"packet", now=at(age))
    assert (sealed is not None) == works
    assert ends.left.facts() == (asked if asks_on_send else [])
    if not works:
        assert ends.open(ends.right, ends.left.seal_one(now=at(1)), at(age)) is None
        assert ends.right.dropped() == {Drop.KEYPAIR_EXPIRED: 1}


@pytest.mark.parametrize("age", [121.0, 166.0, 179.0])
def test_the_called_side_never_asks_for_a_new_keypair_by_age(age: float) -> None:
    ends = connected()
    assert ends.open(ends.right, ends.left.seal_one(now=at(age)), at(age)) == b"packet"
    ends.right.seal_one(now=at(age))
    assert ends.right.facts() == []


def test_a_keypair_asks_by_receiving_once_and_by_sending_every_five_seconds() -> None:
    ends = connected()
    backs = ends.right.seal(*[b"back"] * 20, now=at(1)) or []
    asked = []
    for second, message in zip(range(160, 180), backs, strict=True):
        ends.open(ends.left, message, at(second))
        asked += [second for _ in ends.left.facts() if second > 160]
    assert asked == [166]

    ends = connected()
    asked = []
    for second in range(115, 140):
        ends.left.seal(b"packet", now=at(second))
        asked += [second for _ in ends.left.facts()]
    assert asked == [121, 126, 131, 136]


def test_after_2_to_the_60_messages_either_side_asks_for_a_new_keypair() -> None:
    for of_caller in (True, False):
        ends = connected()
        end = ends.left if of_caller else ends.right
        end.current.send_counter = REKEY_AFTER_MESSAGES - 1
        end.seal_one()
        assert end.facts() == []
        end.seal_one()
        assert end.facts() == [RekeyWanted(PEER)]


def test_the_last_counter_is_used_and_none_after_it() -> None:
    ends = connected()
    ends.left.current.send_counter = REJECT_AFTER_MESSAGES - 2
    assert ends.left.seal(b"1", b"2", b"3") is None  # all of them or none: they keep their order
    assert ends.left.current.send_counter == REJECT_AFTER_MESSAGES - 2
    messages = ends.left.seal(b"1", b"2") or []
    assert [ends.open(ends.right, message) for message in messages] == [b"1", b"2"]
    assert ends.left.seal(b"3") is None
    assert ends.left.current.send_counter == REJECT_AFTER_MESSAGES


@pytest.mark.parametrize("counter", [REJECT_AFTER_MESSAGES, REJECT_AFTER_MESSAGES + 1, (1 << 64) - 1])
def test_a_counter_beyond_the_limit_is_refused(counter: int) -> None:
    ends = connected()
    message = bytearray(ends.left.seal_one())
    message[8:16] = counter.to_bytes(8, "little")
    assert ends.right.table.open(message, ends.left.endpoint, START) is None
    assert ends.right.dropped() == {Drop.COUNTER_EXHAUSTED: 1}


# --- endpoints ---


def test_an_authentic_message_moves_the_endpoint_and_a_command_does() -> None:
    ends = connected()
    assert ends.right.table.endpoint(PEER) == endpoint(1)
    ends.right.table.open(ends.left.seal_one(), endpoint(77), START)
    assert ends.right.table.endpoint(PEER) == endpoint(77)
    assert ends.right.facts() == [Roamed(PEER, endpoint(77))]
    ends.right.table.open(ends.left.seal_one(), endpoint(77), START)
    assert ends.right.facts() == []
    ends.right.table.apply(Roamed(PEER, endpoint(78)))
    assert ends.right.table.endpoint(PEER) == endpoint(78)
    assert ends.right.facts() == []


def test_without_roaming_a_command_alone_moves_the_endpoint() -> None:
    ends = connected()
    table = SessionTable(ends.right.memory, roaming=False)  # takes up what is there
    assert table.open(ends.left.seal_one(), endpoint(77), START) is not None
    assert (table.endpoint(PEER), table.next_event()) == (endpoint(1), None)
    table.apply(Roamed(PEER, endpoint(78)))
    assert table.endpoint(PEER) == endpoint(78)


# --- erasure and adoption ---


def test_zeroed_keys_are_nowhere_in_the_memory() -> None:
    ends = connected()
    ends.handshake()
    ends.handshake(caller=ends.right)
    keys = [
        key
        for slot in range(1, KEYPAIRS_PER_PEER + 1)
        for key in (ends.left.keypair(slot).send_key, ends.left.keypair(slot).receive_key)
        if any(key)
    ]
    assert len(keys) == 4
    assert all(key in ends.left.buffer for key in keys)
    ends.left.table.apply(KeysZeroed(PEER))
    assert not any(key in ends.left.buffer for key in keys)
    assert ends.left.slots() == (None, None, None)
    assert ends.left.seal(b"packet") is None
    ends.left.table.apply(KeysZeroed(PEER))  # nothing left to do


def test_replaced_keys_are_nowhere_in_the_memory() -> None:
    ends = connected()
    keys = ends.left.current.send_key, ends.left.current.receive_key
    ends.handshake()
    assert all(key in ends.left.buffer for key in keys)
    ends.handshake()
    assert not any(key in ends.left.buffer for key in keys)


def test_another_table_goes_on_with_counters_and_window() -> None:
    ends = connected()
    seen = ends.left.seal(b"1", b"2", b"3") or []
    for message in seen:
        ends.open(ends.right, message)
    ends.left.adopt()
    ends.right.adopt()
    assert int.from_bytes(ends.left.seal_one()[8:16], "little") == 4
    assert [ends.open(ends.right, message) for message in seen] == [None] * 3
    assert ends.right.dropped() == {Drop.REPLAYED: 3}
    assert ends.open(ends.right, ends.left.seal_one(b"new")) == b"new"
    assert ends.open(ends.left, ends.right.seal_one(b"back")) == b"back"


def test_another_table_goes_on_with_all_three_slots() -> None:
    ends = connected()
    late = ends.left.seal_one(b"late")
    ends.handshake()
    ends.confirm()
    ends.handshake(caller=ends.right)
    ends.handshake(caller=ends.left)
    before = ends.left.slots(), ends.right.slots()
    ends.left.adopt()
    ends.right.adopt()
    assert (ends.left.slots(), ends.right.slots()) == before
    ends.confirm()
    assert ends.open(ends.right, late) is None  # its keypair was gone before
    generations = [ends.left.keypair(slot).generation for slot in range(1, 4)]
    ends.handshake()
    assert ends.left.current.generation > max(generations)


def test_another_table_confirms_what_had_not_been_confirmed() -> None:
    ends = Ends()
    ends.handshake()
    ends.right.adopt()
    assert ends.open(ends.right, ends.left.seal_one()) == b"packet"
    assert Confirmed(PEER) in ends.right.facts()
    assert ends.right.seal(b"packet") is not None


def test_keypairs_of_a_peer_that_was_removed_meanwhile_are_erased() -> None:
    ends = connected()
    secret = ends.left.current.send_key
    ends.left.peer.generation = 0
    ends.left.adopt()
    assert ends.left.seal(b"packet") is None
    assert ends.left.slots() == (None, None, None)
    assert secret not in ends.left.buffer


def test_a_keypair_that_was_not_written_to_its_end_is_erased() -> None:
    ends = connected()
    secret = ends.left.current.send_key
    ends.left.current.generation = 0
    ends.left.adopt()
    assert ends.left.seal(b"packet") is None
    assert ends.left.slots() == (None, None, None)
    assert secret not in ends.left.buffer


def test_a_keypair_that_has_no_name_yet_is_erased() -> None:
    ends = connected()
    secret = ends.left.current.send_key
    ends.left.peer.current = 0
    ends.left.adopt()
    assert secret not in ends.left.buffer


def copy_name(peer: PeerRecord, source: str, target: str) -> None:
    setattr(peer, target, getattr(peer, source))


# where the table may have died between two stores: the slot named twice, and by what
TWICE = [("next", "current"), ("current", "previous"), ("next", "previous")]


@pytest.mark.parametrize(("source", "target"), TWICE)
def test_a_slot_that_is_named_twice_is_taken_up_once_and_all_goes_on(source: str, target: str) -> None:
    ends = connected()
    ends.handshake()
    copy_name(ends.right.peer, source, target)
    ends.right.adopt()
    named = [slot for slot in (ends.right.peer.previous, ends.right.peer.current, ends.right.peer.next) if slot]
    assert len(named) == len(set(named))
    assert ends.open(ends.right, ends.left.seal_one()) == b"packet"
    assert ends.open(ends.left, ends.right.seal_one(b"back")) == b"back"
    for _ in range(4):
        ends.handshake(caller=ends.right)
        ends.handshake()
        ends.confirm()
    assert ends.open(ends.left, ends.right.seal_one(b"back")) == b"back"

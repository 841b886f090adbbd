# SPDX-License-Identifier: BSD-3-Clause
"""A queue that many share: its limit, who loses when it is full, and whose turn it is."""

import copy
import tracemalloc
from collections import Counter, deque
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ts4nsnet.fair import ENTRY_BYTES, FairQueue

LIMIT, TURN = 20_000, 3000
OWNERS = ("alice", "bob", "carol", "dave")
LONGEST = 5000


def counted(packets: Sequence[bytes]) -> int:
    return sum(map(len, packets)) + ENTRY_BYTES * len(packets)


def queue(line_bytes: int | None = None) -> FairQueue[str]:
    return FairQueue(LIMIT, TURN, line_bytes)


def numbered(count: int, size: int = 1000) -> list[bytes]:
    return [number.to_bytes(size, "big") for number in range(count)]


def taken(line: FairQueue[str], limit: int) -> list[tuple[str, bytes]]:
    """What is taken, packet by packet."""
    return [(owner, packet) for owner, packets in line.take(limit) for packet in packets]


def test_packets_of_one_owner_leave_in_their_order() -> None:
    line = queue()
    packets = numbered(15)
    assert line.put("alice", packets) == 0
    assert len(line) == 15
    assert taken(line, LIMIT) == [("alice", packet) for packet in packets]
    assert taken(line, LIMIT) == []
    assert (len(line), line.size) == (0, 0)


def test_nothing_is_nothing() -> None:
    line = queue()
    assert line.put("alice", ()) == 0
    assert line.waiting("alice") == 0
    assert line.take_of("alice") == ()
    assert line.take(1) == []


def test_who_is_alone_may_have_all_and_loses_the_oldest() -> None:
    line = queue()
    packets = numbered(30)
    room = LIMIT // (1000 + ENTRY_BYTES)
    assert line.put("alice", packets) == 30 - room
    assert [packet for _, packet in taken(line, LIMIT)] == packets[-room:]


def test_a_packet_longer_than_all_leaves_at_once() -> None:
    line = queue()
    assert line.put("alice", [bytes(LIMIT)]) == 1
    assert (len(line), line.waiting("alice")) == (0, 0)


def test_a_line_has_a_limit_of_its_own_where_there_is_one() -> None:
    line = queue(line_bytes=5000)
    line.put("bob", numbered(4))
    assert line.put("alice", numbered(10)) == 6
    assert line.take_of("alice") == tuple(numbered(10)[6:])
    assert line.take_of("bob") == tuple(numbered(4))


def test_all_of_one_owner_are_taken_and_those_of_others_stay() -> None:
    line = queue()
    line.put("alice", numbered(3))
    line.put("bob", numbered(2))
    assert line.take_of("alice") == tuple(numbered(3))
    assert line.size == counted(numbered(2))
    line.clear()
    assert (len(line), line.size, line.waiting("bob")) == (0, 0, 0)


def test_one_packet_is_taken_however_little_is_asked_for() -> None:
    line = queue()
    line.put("alice", numbered(3))
    assert len(taken(line, 1)) == 1


def test_a_turn_goes_on_where_it_was_left() -> None:
    line = queue()
    line.put("alice", numbered(6))
    line.put("bob", numbered(6))
    order = [line.take(1)[0][0] for _ in range(12)]
    assert order == [owner for _ in range(2) for owner in ("alice", "bob") for _ in range(3)]


def test_who_comes_waits_for_one_turn_of_each_of_the_others() -> None:
    line = queue()
    for owner in ("alice", "bob", "carol"):
        line.put(owner, numbered(6))
    line.take(1)
    line.put("dave", [b"short"])
    before = taken(line, LIMIT)
    place = before.index(("dave", b"short"))
    assert Counter(owner for owner, _ in before[:place]) == {"alice": 2, "bob": 3, "carol": 3}


@pytest.mark.parametrize("size", [2, 64, 1312])
def test_what_waits_takes_no_more_memory_than_is_said(size: int) -> None:
    line: FairQueue[int] = FairQueue(1 << 20, TURN)
    tracemalloc.start()
    try:
        dropped = 0
        for number in range(60_000_000 // (size + 1000)):
            dropped += line.put(number % 7, [bytes(size)])
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert dropped
    assert now <= most < 1.1 * (1 << 20) + 20_000


def test_thousands_of_lines_lose_one_after_the_other() -> None:
    line: FairQueue[int] = FairQueue(1 << 20, TURN)
    count = (1 << 20) // (452 + ENTRY_BYTES)
    for number in range(4 * count):
        dropped = line.put(number, [bytes(452)])
        assert dropped == (number >= count)
    assert len(line) == count
    assert line.put(-1, [bytes(99_952)]) == 1  # its own, for it is the longest
    assert line.put(-1, [bytes(1952)]) == 1


@given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=9), st.lists(st.integers(1, LONGEST), min_size=1))
def test_whatever_their_packets_all_get_equally_much(alices: list[int], bobs: list[int]) -> None:
    line: FairQueue[str] = FairQueue(1 << 30, TURN)
    for owner, sizes in (("alice", alices), ("bob", bobs)):
        line.put(owner, [bytes(size) for size in sizes * (400_000 // counted([bytes(size) for size in sizes]) + 1)])
    got: Counter[str] = Counter()
    for _ in range(40):
        for owner, packet in taken(line, 4000):
            got[owner] += counted([packet])
    assert abs(got["alice"] - got["bob"]) <= TURN + 2 * (LONGEST + ENTRY_BYTES)


class Anything(RuleBasedStateMachine):
    """Any order of coming and going, beside lists that say what must still be there."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue()
        self.lines: dict[str, deque[bytes]] = {owner: deque() for owner in OWNERS}
        self.number = 0

    @rule(owner=st.sampled_from(OWNERS), sizes=st.lists(st.integers(8, LONGEST), max_size=8))
    def put(self, owner: str, sizes: list[int]) -> None:
        self._put(owner, sizes)

    @rule(owner=st.sampled_from(OWNERS))
    def flood(self, owner: str) -> None:
        self._put(owner, [1000] * 40)

    def _put(self, owner: str, sizes: list[int]) -> None:
        packets = []
        for size in sizes:
            self.number += 1
            packets.append(self.number.to_bytes(size, "big"))
        self.lines[owner].extend(packets)
        wanted = {each: counted(tuple(line)) for each, line in self.lines.items()}
        self._compare(self.queue.put(owner, packets), wanted)

    def _compare(self, dropped: int, wanted: dict[str, int]) -> None:
        """The oldest of the longest lines have left, so nothing of a line that had no more than its share."""
        looked_into = copy.deepcopy(self.queue)
        share = LIMIT // max(1, sum(map(bool, wanted.values())))
        lost: dict[str, bytes] = {}
        for owner, line in self.lines.items():
            left = looked_into.take_of(owner)
            assert wanted[owner] > share or len(left) == len(line)
            while len(line) > len(left):
                lost[owner] = line.popleft()
                dropped -= 1
        assert dropped == 0
        longest = max(counted(tuple(line)) for line in self.lines.values())
        for owner, last in lost.items():
            assert counted((last, *self.lines[owner])) >= longest

    @precondition(lambda self: any(self.lines.values()))
    @rule(limit=st.integers(1, LIMIT))
    def take(self, limit: int) -> None:
        runs = self.queue.take(limit)
        packets = [packet for _, run in runs for packet in run]
        assert packets
        assert all(run for _, run in runs)
        assert len(packets) == 1 or counted(packets) <= limit
        for owner, packet in ((owner, packet) for owner, run in runs for packet in run):
            assert self.lines[owner].popleft() == packet

    @rule(owner=st.sampled_from(OWNERS))
    def take_of(self, owner: str) -> None:
        assert self.queue.take_of(owner) == tuple(self.lines[owner])
        self.lines[owner].clear()

    @invariant()
    def what_waits_is_what_must(self) -> None:
        assert self.queue.size == sum(counted(tuple(line)) for line in self.lines.values()) <= LIMIT
        assert len(self.queue) == sum(map(len, self.lines.values()))
        assert {owner: self.queue.waiting(owner) for owner in OWNERS} == {
            owner: len(line) for owner, line in self.lines.items()
        }

    def teardown(self) -> None:
        for owner, packet in taken(self.queue, LIMIT):
            assert self.lines[owner].popleft() == packet
        assert not any(self.lines.values())


Anything.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestAnything = Anything.TestCase

# SPDX-License-Identifier: BSD-3-Clause
"""A queue that many share: a limit in bytes for all of them, a line for each, and turns.

    put ─► alice's line ─┐
    put ─► bob's line ───┼─► take: of each line what a turn gives, then of the next
    put ─► carol's line ─┘
             full: the oldest of the longest line leave

Rules
  * Packets of one owner keep their order.
  * Who has no more than an equal share of the limit (the limit, divided by the lines there are) loses nothing, and
    waits for one turn of each of the others, whatever they do. Who is alone may have all of it.
  * A turn that a packet was too long for is made up for by later ones, so in the long run all get equally many bytes.

What a packet costs beside its bytes counts, so that short ones are bounded, too. The longest line is looked for when
the queue is full, and only then: a heap of the lines is made, which knows of each how long it was at most since. So who
has one line, or room, pays nothing for the others, and ten thousand lines are no slower to drop from than ten.

Limits: a packet longer than the limit leaves at once. A line takes 0.8 KB beside what counts, so owners should be few,
or known: peers, not the addresses that somebody writes on a datagram.

Source: Shreedhar and Varghese, "Efficient fair queueing using deficit round robin" (1995), with credit that may be
overdrawn; RFC 8290, 4.1, for who loses.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Hashable
from heapq import heapify, heappush, heapreplace
from typing import Generic, TypeVar

ENTRY_BYTES = 48  # ours; of a Python object and its place

Owner = TypeVar("Owner", bound=Hashable)


class _Line(Generic[Owner]):
    """What waits for one owner."""

    __slots__ = ("credit", "number", "owner", "packets", "size")

    def __init__(self, owner: Owner, number: int, credit: int) -> None:
        self.owner = owner
        self.number = number  # decides between lines of one size: the older one
        self.packets: deque[bytes] = deque()
        self.size = 0  # as it counts
        self.credit = credit  # what the turn still gives; below 0: what the next ones give less

    def run(self, limit_bytes: int, *, at_least_one: bool) -> tuple[list[bytes], int]:
        """Take what the turn gives, as far as `limit_bytes` reach; and how much it counts."""
        packets, credit = self.packets, self.credit
        taken: list[bytes] = []
        size = 0
        while packets and size < credit:
            more = len(packets[0]) + ENTRY_BYTES
            if size + more > limit_bytes and (taken or not at_least_one):
                break
            taken.append(packets.popleft())
            size += more
        self.size -= size
        self.credit -= size
        return taken, size


class FairQueue(Generic[Owner]):
    """Packets of several owners: `limit_bytes` at most, the oldest of the longest line leave first.

    Args:
        limit_bytes: of all lines, ENTRY_BYTES per packet included.
        turn_bytes: that a line may give before it is the next one's turn.
        line_bytes: of one line, for who may not have all; its own oldest leave first.

    Attributes:
        size: bytes that wait, as they count.
    """

    def __init__(self, limit_bytes: int, turn_bytes: int, line_bytes: int | None = None) -> None:
        self.size = 0
        self._limit = limit_bytes
        self._turn = turn_bytes
        self._line_limit = limit_bytes if line_bytes is None else line_bytes
        self._lines: OrderedDict[Owner, _Line[Owner]] = OrderedDict()  # in the order of their turns; none of them empty
        self._made = 0
        # sizes below zero, lines: every line is there with the size it has, or a larger one; empty: not looked for yet
        self._longest: list[tuple[int, int, _Line[Owner]]] = []

    def __len__(self) -> int:
        """How many packets wait."""
        return sum(len(line.packets) for line in self._lines.values())

    def waiting(self, owner: Owner) -> int:
        """How many packets of this owner wait."""
        line = self._lines.get(owner)
        return len(line.packets) if line is not None else 0

    def put(self, owner: Owner, packets: Collection[bytes]) -> int:
        """Let packets wait; returns how many, of whomever, have left for it."""
        if not packets:
            return 0
        line = self._lines.get(owner)
        if line is None:
            self._made += 1
            line = self._lines[owner] = _Line(owner, self._made, self._turn)
        line.packets.extend(packets)
        size = sum(map(len, packets)) + ENTRY_BYTES * len(packets)
        line.size += size
        self.size += size
        if len(self._longest) > 4 * len(self._lines) + 64:
            self._longest.clear()
        if self._longest:
            heappush(self._longest, (-line.size, line.number, line))
        dropped = 0
        while line.size > self._line_limit:
            self._drop(line)
            dropped += 1
        while self.size > self._limit:
            self._drop(self._find_longest())
            dropped += 1
        return dropped

    def take(self, limit_bytes: int) -> list[tuple[Owner, list[bytes]]]:
        """Take packets in turns, in runs of one owner's: one packet at least, more as far as `limit_bytes` reach."""
        runs: list[tuple[Owner, list[bytes]]] = []
        while self._lines:
            owner, line = next(iter(self._lines.items()))
            if line.credit <= 0:
                line.credit += self._turn
                self._lines.move_to_end(owner)
                continue
            run, size = line.run(limit_bytes, at_least_one=not runs)
            if run:
                runs.append((owner, run))
            self.size -= size
            limit_bytes -= size
            if not line.packets:
                del self._lines[owner]
            elif line.credit > 0:
                break
        return runs

    def take_of(self, owner: Owner) -> tuple[bytes, ...]:
        """Take all of one owner's, oldest first."""
        line = self._lines.pop(owner, None)
        if line is None:
            return ()
        self.size -= line.size
        packets, line.packets, line.size = line.packets, deque(), 0  # the heap may still have the line
        return tuple(packets)

    def clear(self) -> None:
        """Forget all."""
        self._lines.clear()
        self._longest.clear()
        self.size = 0

    def _drop(self, line: _Line[Owner]) -> None:
        size = len(line.packets.popleft()) + ENTRY_BYTES
        line.size -= size
        self.size -= size
        if not line.packets:
            del self._lines[line.owner]

    def _find_longest(self) -> _Line[Owner]:
        heap = self._longest
        if not heap:
            heap += ((-line.size, line.number, line) for line in self._lines.values())
            heapify(heap)
        while True:
            noted, _, line = heap[0]
            if -noted == line.size:
                return line
            heapreplace(heap, (-line.size, line.number, line))

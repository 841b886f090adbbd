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
the queue is full, and only then; with one line there is nothing to look for.

Limits: a packet longer than the limit leaves at once.

Source: Shreedhar and Varghese, "Efficient fair queueing using deficit round robin" (1995), with credit that may be
overdrawn; RFC 8290, 4.1, for who loses.
"""

from collections import OrderedDict, deque
from collections.abc import Collection, Hashable
from operator import attrgetter
from typing import Generic, TypeVar

ENTRY_BYTES = 48  # ours; of a Python object and its place

Owner = TypeVar("Owner", bound=Hashable)


class _Line:
    """What waits for one owner."""

    __slots__ = ("credit", "packets", "size")

    def __init__(self, credit: int) -> None:
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


_size = attrgetter("size")


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
        self._lines: OrderedDict[Owner, _Line] = OrderedDict()  # in the order of their turns; none of them empty

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
            line = self._lines[owner] = _Line(self._turn)
        line.packets.extend(packets)
        size = sum(map(len, packets)) + ENTRY_BYTES * len(packets)
        line.size += size
        self.size += size
        dropped = 0
        while line.size > self._line_limit:
            self._pop(line)
            dropped += 1
        while self.size > self._limit:
            self._pop(max(self._lines.values(), key=_size))
            dropped += 1
        if dropped:
            for empty in [owner for owner, line in self._lines.items() if not line.packets]:
                del self._lines[empty]
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
        return tuple(line.packets)

    def clear(self) -> None:
        """Drop all."""
        self._lines.clear()
        self.size = 0

    def _pop(self, line: _Line) -> bytes:
        packet = line.packets.popleft()
        size = len(packet) + ENTRY_BYTES
        line.size -= size
        self.size -= size
        return packet

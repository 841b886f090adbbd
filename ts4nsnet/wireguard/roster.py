# SPDX-License-Identifier: BSD-3-Clause
"""The roster: which peer has which record of the session memory.

A device that is made over memory in use adopts what an earlier one left: a peer that is configured again has its record
as before, with its sessions and the greatest timestamp seen. Who is not configured again is left over, until the
device is told to forget them.

The timestamp must outlive the record as well: a peer that is removed and comes back (in a tailnet nothing special)
must not be answered with an initiation that was recorded before. Those of the last removed peers are kept.
"""

from collections import deque

from ts4nsnet.keys import PublicKey
from ts4nsnet.wireguard.messages import WireGuardError
from ts4nsnet.wireguard.records import SessionMemory

# ours: removed peers whose greatest timestamp is remembered; the longest removed is forgotten
MAX_REMEMBERED_PEERS = 4096


class Roster:
    """The peers' numbers; a number is a place in `memory`."""

    __slots__ = ("_generation", "_left_over", "_memory", "_timestamps", "_unused")

    def __init__(self, memory: SessionMemory) -> None:
        self._memory = memory
        self._generation = 0
        self._unused: deque[int] = deque()  # the longest unused first: late facts of a removed peer meet nobody
        self._left_over: dict[bytes, int] = {}  # public key → number, of an earlier device's peers
        self._timestamps: dict[bytes, bytes] = {}  # public key → greatest timestamp, of removed peers
        for number in range(memory.entered):
            record = memory.peer(number)
            if record.generation:
                self._left_over[record.public_key] = number
                self._generation = max(self._generation, record.generation)
            else:
                self._unused.append(number)

    def enter(self, public_key: PublicKey) -> int:
        """A number for a peer: its earlier one, if an earlier device has left it; raises `WireGuardError` if full."""
        number = self._left_over.pop(public_key.raw, None)
        if number is not None:
            return number
        number = self._free_number(public_key)
        record = self._memory.peer(number)
        record.erase()
        record.public_key = public_key.raw
        record.timestamp = self._timestamps.pop(public_key.raw, record.timestamp)
        self._generation += 1
        record.generation = self._generation
        return number

    def _free_number(self, public_key: PublicKey) -> int:
        number = self._memory.entered
        if number < self._memory.peers:
            self._memory.entered = number + 1
            return number
        if not self._unused:
            raise WireGuardError(f"peer {public_key}: there is room for {self._memory.peers} peers, all of it taken")
        return self._unused.popleft()

    def leave(self, number: int) -> None:
        """The peer is no more; its number will be given to another one."""
        record = self._memory.peer(number)
        if len(self._timestamps) >= MAX_REMEMBERED_PEERS:
            del self._timestamps[next(iter(self._timestamps))]
        self._timestamps[record.public_key] = record.timestamp
        record.generation = 0
        self._unused.append(number)

    def take_left_over(self, public_key: PublicKey | None = None) -> list[int]:
        """The numbers of peers that an earlier device has left and nobody entered again: of one, or of all."""
        keys = list(self._left_over) if public_key is None else [public_key.raw]
        return [self._left_over.pop(key) for key in keys if key in self._left_over]

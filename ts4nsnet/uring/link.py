# SPDX-License-Identifier: BSD-3-Clause
"""One end of the socket between node and worker. It never waits, whatever the other end does.

    put ─┬─ commands, facts ─► in their order, first ─┬─► flush ─► a datagram of records ─► the kernel's buffer
         └─ packets ─► a line per peer, in turns ─────┘

A process that is slow, or stopped, does not read: the kernel's buffer fills up, then the queues. Then what can be lost
on any network is dropped: packets and datagrams, MAX_PASSING_BYTES of which may wait, the oldest of the peer with most
(`fair`). Datagrams that are no transport data share a line, as anybody can send them from any address; so do packets of
the container's for the node, and those for it.

Commands are never dropped, and keep their order. They overtake packets: a packet is sealed with the keypair that was
told before it, if not with a newer one; of a peer that is forgotten none is, as its number may be another's soon. Facts
are not dropped either, but one says all: of a fact about a peer only the last one waits, so that there are three per
peer at most.

What must not be dropped is bounded by what can be said: a peer has a few keypairs in three minutes, and a netmap's
change is as large as the netmap. An end that has MAX_KEPT_BYTES of it to say gives the other up for dead.

A socket of seqpackets: one send is one receive, and its end is seen.
"""

import socket
from collections import deque
from collections.abc import Hashable
from contextlib import suppress
from itertools import count
from math import inf
from typing import Generic

from ts4nsnet.fair import FairQueue
from ts4nsnet.uring.commands import Forward, Heard, Kinds, Packets, Relayed, Spoken, Trains
from ts4nsnet.uring.encoding import MAX_DATAGRAM_BYTES, Reader, datagrams, emit
from ts4nsnet.uring.events import Local, Message, Refused, Slow, Unsealed
from ts4nsnet.wireguard import Seal
from ts4nsnet.wireguard.sessions import Confirmed, KeysZeroed, RekeyWanted, Roamed

MAX_PASSING_BYTES = 1 << 20  # ours; 25 ms of a relay at 300 Mbit/s
TURN_BYTES = 64 << 10  # ours; of one peer: the longest train
MAX_KEPT_BYTES = 128 << 20  # ours; several of the largest netmaps
SOCKET_BUFFER_BYTES = 1 << 20  # ours; an ordinary user gets net.core.wmem_max, doubled: 416 KiB

_PASSING = (Slow, Unsealed, Local, Message, Refused, Relayed, Seal, Trains, Packets, Forward)
_FACTS = (Confirmed, Roamed, RekeyWanted)
_Numbered = tuple[int, bytes]  # when it was said, the record


class Link(Generic[Heard]):
    """One end.

    Args:
        sock: of seqpackets; the link's from now on.
        kinds: what may come, `TO_WORKER` or `TO_NODE`.

    Attributes:
        sock: to wait for, and to close.
        dropped: how many messages found no room.
    """

    def __init__(self, sock: socket.socket, kinds: Kinds[Heard]) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        self.sock = sock
        self.dropped = 0
        # what is as long as the whole buffer is refused
        self._limit = min(MAX_DATAGRAM_BYTES, sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2)
        self._reader = Reader(kinds)
        self._room = bytearray(MAX_DATAGRAM_BYTES)
        self._numbers = count()
        # each in the order of its numbers
        self._kept: deque[_Numbered] = deque()
        self._facts: dict[tuple[type, int], _Numbered] = {}
        self._kept_bytes = 0
        self._passing: FairQueue[Hashable] = FairQueue(MAX_PASSING_BYTES, TURN_BYTES)
        self._datagrams: deque[bytes] = deque()  # what the queues have given already

    @property
    def malformed(self) -> int:
        """How many datagrams were not understood."""
        return self._reader.malformed

    # --- what this end says -----------------------------------------------------------------------------------

    def put(self, message: Spoken) -> None:
        """Queue a message; `flush` sends it."""
        record = emit(message)
        if isinstance(message, _PASSING):
            self.dropped += self._passing.put(_line(message), (record,))
            return
        if isinstance(message, KeysZeroed):
            self.dropped += len(self._passing.take_of(message.peer))
        waiting = (next(self._numbers), record)
        if isinstance(message, _FACTS):
            key = (type(message), message.peer)
            self._facts[key] = (self._facts.get(key, waiting)[0], record)
        else:
            self._kept.append(waiting)
            self._kept_bytes += len(record)
            if self._kept_bytes > MAX_KEPT_BYTES:
                self._give_up()

    def flush(self) -> bool:
        """Send what the socket takes; returns whether that is all. That the other end is gone says `receive`."""
        while True:
            if not self._datagrams:
                self._datagrams.extend(datagrams(self._records(), self._limit))
            if not self._datagrams:
                return True
            try:
                self.sock.send(self._datagrams[0])
            except BlockingIOError:
                return False
            except OSError:
                self._give_up()
                return True
            self._datagrams.popleft()

    def _records(self) -> list[bytes]:
        """Take so many records as fill a datagram, or the last of them a few."""
        records: list[bytes] = []
        size = 0
        while size < self._limit and (record := self._next_kept()) is not None:
            records.append(record)
            size += len(record)
        if size < self._limit:
            for _, passing in self._passing.take(self._limit - size):
                records += passing
        return records

    def _next_kept(self) -> bytes | None:
        """The next command or fact."""
        key = next(iter(self._facts), None)
        fact = self._facts[key][0] if key is not None else inf
        kept = self._kept[0][0] if self._kept else inf
        if key is not None and fact < kept:
            return self._facts.pop(key)[1]
        if kept == inf:
            return None
        record = self._kept.popleft()[1]
        self._kept_bytes -= len(record)
        return record

    def _give_up(self) -> None:
        """Nothing can be said any more; both ends will see the end."""
        self._kept.clear()
        self._facts.clear()
        self._passing.clear()
        self._datagrams.clear()
        self._kept_bytes = 0
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    # --- what the other end says ------------------------------------------------------------------------------

    def receive(self) -> list[Heard] | None:
        """What one datagram says, if there is one; None when the other end is gone.

        A piece of a long message says nothing yet: whether there is more to hear, the socket tells.
        """
        try:
            size = self.sock.recv_into(self._room)
        except BlockingIOError:
            return []
        except OSError:
            return None
        return self._reader.feed(memoryview(self._room)[:size]) if size else None


def _line(message: Spoken) -> Hashable:
    """With what else a message that may be dropped shares its line."""
    match message:
        case Relayed(train) | Trains((train, *_)):  # trains of one peer
            return train.endpoint
        case Unsealed() | Message() | Seal():
            return message.peer
        case _:
            return type(message).__name__

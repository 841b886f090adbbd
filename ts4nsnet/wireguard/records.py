# SPDX-License-Identifier: BSD-3-Clause
"""Session memory: peers and keypairs as flat records in a buffer that another process can map.

The node makes keys, a worker uses them, and either may die and come back while traffic goes on. So what both need is
not in objects but in one buffer (a memfd's mapping, or a bytearray where one process does it all):

    ┌────────┬──────────┬──────────┬─ … ─┬─────────────┬─────────────┬─────────────┬─────────────┬─ … ─┐
    │ header │ peer 0   │ peer 1   │     │ keypair 0·0 │ keypair 0·1 │ keypair 0·2 │ keypair 1·0 │     │
    └────────┴──────────┴──────────┴─ … ─┴─────────────┴─────────────┴─────────────┴─────────────┴─ … ─┘

A peer has room for three keypairs (previous, current, next); which is which stands in the peer's record. The header
says how many records have been used so far (`entered`). Those behind are never touched, not even to be read, which
would make the kernel give them a page: so room for many peers costs address space only.

Each field has one writer: the *node* (`Device`) or the *table* (`SessionTable`, in the worker or in the node). The
generation word publishes a record: 0 while it is empty or being written, and another value after each time, so a reader
that sees the same non-zero value before and after has read one whole record. A peer's record that is not published is
the node's alone: it makes it zero before it gives it to another peer.

Times are CLOCK_BOOTTIME seconds, 0 for never; integers and doubles are little-endian and aligned to their size.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from ts4nsnet.wireguard.messages import ENDPOINT_BYTES, Endpoint, WireGuardError
from ts4nsnet.wireguard.replay import WORDS, ReplayWindow

T = TypeVar("T")


class Field(Generic[T]):
    """One field of a record: a struct format, and the offset that its record gave it."""

    __slots__ = ("name", "offset", "struct")

    def __init__(self, layout: str) -> None:
        self.struct = Struct("<" + layout)
        self.name = ""
        self.offset = 0

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, record: None, owner: type) -> Self: ...
    @overload
    def __get__(self, record: "Record", owner: type) -> T: ...
    def __get__(self, record: "Record | None", owner: type) -> "Self | T":
        if record is None:
            return self
        value: T = self.struct.unpack_from(record.memory, record.at + self.offset)[0]
        return value

    def __set__(self, record: "Record", value: T) -> None:
        self.struct.pack_into(record.memory, record.at + self.offset, value)


class Record:
    """A record at one place of the session memory; its fields lie in the order in which the class names them."""

    __slots__ = ("at", "memory")

    SIZE: ClassVar[int]
    LAYOUT: ClassVar[tuple[tuple[str, str, int], ...]]  # name, struct format, offset

    def __init_subclass__(cls, size: int) -> None:
        offset = 0
        layout = []
        for field in [value for value in vars(cls).values() if isinstance(value, Field)]:
            # a byte string is aligned like a byte, whatever its length
            alignment = 1 if field.struct.format.endswith("s") else field.struct.size
            offset = -(-offset // alignment) * alignment
            field.offset = offset
            layout.append((field.name, field.struct.format, offset))
            offset += field.struct.size
        if offset > size:
            raise TypeError(f"{cls.__name__}: {offset} bytes of fields in a record of {size}")
        cls.SIZE = size
        cls.LAYOUT = tuple(layout)

    def __init__(self, memory: memoryview, at: int) -> None:
        self.memory = memory
        self.at = at

    def erase(self) -> None:
        """Make the whole record zero, its generation first."""
        self.memory[self.at : self.at + 8] = bytes(8)
        self.memory[self.at : self.at + self.SIZE] = bytes(self.SIZE)


class PeerRecord(Record, size=192):
    """One peer. 0 in `previous`, `current`, `next` is no keypair, else 1 to 3: which of the peer's three."""

    generation = Field[int]("Q")  # node
    public_key = Field[bytes]("32s")  # node
    timestamp = Field[bytes]("12s")  # node: the greatest TAI64N received; outlives sessions, lest old ones be replayed
    previous = Field[int]("B")  # table
    current = Field[int]("B")  # table
    next = Field[int]("B")  # table
    endpoint = Field[bytes](f"{ENDPOINT_BYTES}s")  # table: where to send, all zero for nowhere
    sent_at = Field[float]("d")  # table: the last transport message, and so on
    received_at = Field[float]("d")  # table
    data_sent_at = Field[float]("d")  # table: the last one that was no keep-alive
    data_received_at = Field[float]("d")  # table
    unanswered_at = Field[float]("d")  # table: the first data received since anything was sent; 0 when there is none
    unheard_at = Field[float]("d")  # table: the first data sent since anything was received; 0 when there is none
    sent_bytes = Field[int]("Q")  # table: as UDP payload
    received_bytes = Field[int]("Q")  # table


class KeypairRecord(Record, size=1152):
    """One keypair: the keys and counters of both directions."""

    generation = Field[int]("Q")  # table, as are all the others
    send_key = Field[bytes]("32s")
    receive_key = Field[bytes]("32s")
    local_index = Field[int]("I")
    remote_index = Field[int]("I")
    peer = Field[int]("I")
    initiator = Field[int]("I")  # 1 when the handshake was ours
    created_at = Field[float]("d")
    send_counter = Field[int]("Q")  # the next to be used; stored before it is used, so that no crash uses one twice
    replay = Field[bytes](f"{8 * WORDS}s")

    def window(self) -> ReplayWindow:
        """The replay window, which lives in this record."""
        at = self.at + KeypairRecord.replay.offset
        return ReplayWindow(self.memory[at : at + 8 * WORDS].cast("Q"))


KEYPAIRS_PER_PEER = 3
NOWHERE: Endpoint = bytes(ENDPOINT_BYTES)

MAGIC = b"ts4nsnet"
VERSION = 2
_HEADER = Struct("<8sII")  # magic, version, peers
_SEED_AT, SEED_BYTES = 16, 32
_ENTERED = Struct("<I")
_ENTERED_AT = 48
_HEADER_BYTES = 64

# what a compiled twin must agree with: (name, struct format, offset) of every field
RECORD = {"peer": PeerRecord.LAYOUT, "keypair": KeypairRecord.LAYOUT}


class SessionMemory:
    """The records in one buffer; zeroes are a buffer that nobody has used yet.

    Args:
        buffer: writable; `SessionMemory.size(peers)` bytes.

    Attributes:
        buffer: a view of its bytes.
        peers: how many there is room for.
    """

    __slots__ = ("_keypairs", "buffer", "peers")

    def __init__(self, buffer: Any) -> None:
        self.buffer = memoryview(buffer).cast("B")
        magic, version, self.peers = _HEADER.unpack_from(self.buffer)
        if magic == bytes(8):
            self.peers = (len(self.buffer) - _HEADER_BYTES) // self._peer_bytes()
            _HEADER.pack_into(self.buffer, 0, MAGIC, VERSION, self.peers)
        elif (magic, version) != (MAGIC, VERSION) or len(self.buffer) < self.size(self.peers):
            raise WireGuardError(f"session memory: got {magic!r} version {version}, want {MAGIC!r} version {VERSION}")
        self._keypairs = _HEADER_BYTES + self.peers * PeerRecord.SIZE

    @staticmethod
    def _peer_bytes() -> int:
        return PeerRecord.SIZE + KEYPAIRS_PER_PEER * KeypairRecord.SIZE

    @classmethod
    def size(cls, peers: int) -> int:
        """How many bytes `peers` peers need."""
        return _HEADER_BYTES + peers * cls._peer_bytes()

    def seed(self, random: Callable[[int], bytes]) -> bytes:
        """32 bytes that stay the same for all who use this memory; the first one draws them."""
        seed = bytes(self.buffer[_SEED_AT : _SEED_AT + SEED_BYTES])
        if not any(seed):
            seed = self.buffer[_SEED_AT : _SEED_AT + SEED_BYTES] = random(SEED_BYTES)
        return seed

    @property
    def entered(self) -> int:
        """How many of the first records may have been used; the node says so, before it uses one."""
        number: int = _ENTERED.unpack_from(self.buffer, _ENTERED_AT)[0]
        return number

    @entered.setter
    def entered(self, number: int) -> None:
        _ENTERED.pack_into(self.buffer, _ENTERED_AT, number)

    @property
    def is_used(self) -> bool:
        """Whether there is a peer's record: an earlier device's, if the present one has none yet."""
        return any(self.peer(number).generation for number in range(self.entered))

    def peer(self, number: int) -> PeerRecord:
        """The record of peer `number`, empty or not."""
        return PeerRecord(self.buffer, _HEADER_BYTES + number * PeerRecord.SIZE)

    def keypair(self, peer: int, slot: int) -> KeypairRecord:
        """The keypair record `slot` (1 to 3) of `peer`, empty or not."""
        place = peer * KEYPAIRS_PER_PEER + slot - 1
        return KeypairRecord(self.buffer, self._keypairs + place * KeypairRecord.SIZE)

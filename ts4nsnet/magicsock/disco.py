# SPDX-License-Identifier: BSD-3-Clause
"""Disco: the messages by which two nodes find a path between them.

They come over the paths they are about, in UDP datagrams on WireGuard's socket or in packets of a relay:

     0        6                 38           62     78
    ┌────────┬─────────────────┬────────────┬──────┬─────────────────────────────┐
    │ magic  │ sender's key    │ nonce      │ tag  │ type, version, body         │   sealed: the last part
    └────────┴─────────────────┴────────────┴──────┴─────────────────────────────┘

    1  ping            transaction 12, sender's node key 32, mark 8, padding
    2  pong            transaction 12, where the ping came from: address 16, port 2, mark 8
    3  call me maybe   where to reach the sender: (address 16, port 2) each

Sealed is by NaCl's crypto_box between two disco keys, which a process makes anew at its start and publishes through
the coordination server. Nothing in a datagram says whom it is for: the wrong one cannot open it.

The mark is ours alone: by it two nodes of this project know each other, inside the box, where nobody can put it for
them. To others it is padding: all read a ping of any length. Some insist on the exact layout of a pong, so a pong has
the mark only if its ping had. Who takes no messages longer than a tailnet's leaves it out: its TUN would not take them
in a form that the container can pass on.

We send exact layouts otherwise, and read what the reference reads: a ping without a node key (very old nodes) or with
padding, anything after a pong. A list whose length does not fit is as if it were empty. Messages about relays that are
nodes themselves (types 4 to 9) are not for us.

Source: tailscale, disco; our notes on disco, sections 1 to 5.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from nacl.exceptions import CryptoError
from nacl.public import Box
from nacl.public import PrivateKey as BoxPrivateKey
from nacl.public import PublicKey as BoxPublicKey

from ts4nsnet.endpoint import Endpoint
from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keys import KEY_BYTES, PrivateKey, PublicKey

Buffer = bytes | bytearray | memoryview
Random = Callable[[int], bytes]  # so many unpredictable bytes

MAGIC = b"TS\xf0\x9f\x92\xac"  # "TS" and a speech balloon
NONCE_BYTES = 24
KEY_END = len(MAGIC) + KEY_BYTES
TRANSACTION_BYTES = 12
ADDRESS_BYTES = 18  # the first bytes of an endpoint
ENDPOINT_BYTES = 32
VERSION = 0
MARK = b"ts4nsnet"
MARKED_PING_BYTES = 132  # of the datagram, without padding

_HEADER = struct.Struct("!BB")


class Kind(IntEnum):
    """The type byte of the messages that we know."""

    PING = 1
    PONG = 2
    CALL_ME_MAYBE = 3


class Malformed(Ts4nsnetError):
    """A datagram, or what was sealed in it, is no disco message that we know."""


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?

    Attributes:
        node_key: the sender's claim; None of very old nodes, who have no mark either.
        padding: bytes of nothing that follow.
        is_marked: the sender is of this project.
    """

    transaction: bytes
    node_key: PublicKey | None
    padding: int = 0
    is_marked: bool = False

    def emit(self) -> bytes:
        """What is to be sealed."""
        key = self.node_key.raw + MARK * self.is_marked if self.node_key else b""
        return _HEADER.pack(Kind.PING, VERSION) + self.transaction + key + bytes(self.padding)


@dataclass(frozen=True, slots=True)
class Pong:
    """I am, and your ping came from `source`; for one that came by a relay that is 127.3.3.40 and the region."""

    transaction: bytes
    source: Endpoint
    is_marked: bool = False

    def emit(self) -> bytes:
        """What is to be sealed."""
        source = self.source[:ADDRESS_BYTES] + MARK * self.is_marked
        return _HEADER.pack(Kind.PONG, VERSION) + self.transaction + source


@dataclass(frozen=True, slots=True)
class CallMeMaybe:
    """I have just sent something to wherever you may be, so my firewall is open: ping me at these."""

    endpoints: tuple[Endpoint, ...]

    def emit(self) -> bytes:
        """What is to be sealed."""
        addresses = (endpoint[:ADDRESS_BYTES] for endpoint in self.endpoints)
        return _HEADER.pack(Kind.CALL_ME_MAYBE, VERSION) + b"".join(addresses)


Message = Ping | Pong | CallMeMaybe


def parse(data: Buffer) -> Message:
    """Read what was sealed; raises `Malformed`, also for types that we do not know."""
    data = bytes(data)
    kind, body = data[:1], data[_HEADER.size :]
    match kind:
        case b"\1" if len(body) >= TRANSACTION_BYTES:
            return _parse_ping(body)
        case b"\2" if len(body) >= TRANSACTION_BYTES + ADDRESS_BYTES:
            source, rest = body[TRANSACTION_BYTES:][:ADDRESS_BYTES], body[TRANSACTION_BYTES + ADDRESS_BYTES :]
            return Pong(body[:TRANSACTION_BYTES], _to_endpoint(source), rest.startswith(MARK))
        case b"\3" if len(data) >= _HEADER.size:
            return CallMeMaybe(_parse_list(body) if data[1] == VERSION else ())
    raise Malformed(f"disco: got {len(data)} bytes of type {kind.hex() or 'none'}, want a ping, pong or call-me-maybe")


def _parse_ping(body: bytes) -> Ping:
    transaction, rest = body[:TRANSACTION_BYTES], body[TRANSACTION_BYTES:]
    if len(rest) < KEY_BYTES:
        return Ping(transaction, None, len(rest))
    key, rest = PublicKey(rest[:KEY_BYTES]), rest[KEY_BYTES:]
    is_marked = rest.startswith(MARK)
    return Ping(transaction, key, len(rest) - len(MARK) * is_marked, is_marked)


def _parse_list(body: bytes) -> tuple[Endpoint, ...]:
    if len(body) % ADDRESS_BYTES:
        return ()
    return tuple(_to_endpoint(body[at : at + ADDRESS_BYTES]) for at in range(0, len(body), ADDRESS_BYTES))


def _to_endpoint(address: bytes) -> Endpoint:
    return address[:ADDRESS_BYTES].ljust(ENDPOINT_BYTES, b"\0")


def is_disco(datagram: Buffer) -> bool:
    """Whether this is disco's, and no other protocol's on the same socket: their first bytes differ."""
    return len(datagram) >= KEY_END and bytes(datagram[: len(MAGIC)]) == MAGIC


def sender(datagram: Buffer) -> PublicKey:
    """The disco key that a datagram for which `is_disco` claims to be from."""
    return PublicKey(bytes(datagram[len(MAGIC) : KEY_END]))


class Boxes:
    """Our disco key, and the secrets that it has in common with others: one per key that messages came from or went
    to, until it is forgotten."""

    def __init__(self, key: PrivateKey, random: Random) -> None:
        self.public = key.public
        self._key = BoxPrivateKey(key.private_bytes())
        self._random = random
        self._boxes: dict[PublicKey, Box] = {}

    def seal(self, message: Message, receiver: PublicKey) -> bytes:
        """The datagram that tells `receiver` this; raises `Malformed` for a key no secret can be agreed with."""
        try:
            sealed = self._box(receiver).encrypt(message.emit(), self._random(NONCE_BYTES))
        except CryptoError:
            raise Malformed(f"disco key {receiver}: no secret can be agreed with it") from None
        return MAGIC + self.public.raw + bytes(sealed)

    def open(self, datagram: Buffer) -> Message:
        """Unseal and read; raises `Malformed`. After a restart it is normal that others still use our last key."""
        try:
            return parse(self._box(sender(datagram)).decrypt(bytes(datagram[KEY_END:])))
        except (CryptoError, ValueError):  # ValueError: shorter than a nonce
            raise Malformed("disco: not sealed by the sender's key for ours") from None

    def forget(self, other: PublicKey) -> None:
        """Keep no secret with `other`."""
        self._boxes.pop(other, None)

    def _box(self, other: PublicKey) -> Box:
        box = self._boxes.get(other)
        if box is None:
            box = self._boxes[other] = Box(self._key, BoxPublicKey(other.raw))
        return box

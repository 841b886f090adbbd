# SPDX-License-Identifier: BSD-3-Clause
"""The four WireGuard messages: layouts, and why a message is dropped.

All integers are little-endian. The type is one byte followed by three zero bytes; we read it as one 32-bit word, so a
message with other bytes there is of an unknown type. Three messages have one exact size; transport data is 16 bytes of
header, at least 16 bytes of tag, and between them a multiple of 16 bytes unless the path's MTU cut the padding.

    initiation    type  sender    ephemeral  sealed static  sealed timestamp  mac1  mac2     148 bytes
    response      type  sender    receiver   ephemeral      sealed nothing    mac1  mac2      92 bytes
    cookie reply  type  receiver  nonce      sealed cookie                                    64 bytes
    transport     type  receiver  counter    sealed packet                                  ≥ 32 bytes

Input that fails a check here raises `Malformed`; whoever receives it counts it and stays silent, as the protocol
demands.

Source: WireGuard paper (Donenfeld, 2017), section 5.4.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar, Self

from ts4nsnet.errors import Ts4nsnetError

Buffer = bytes | bytearray | memoryview

# 32 bytes that only the adapter can read: WireGuard compares them and hands them back. The first 16 name the host
# (rate limits and cookies count by them), so a relay can be an endpoint like any other.
Endpoint = bytes
ENDPOINT_BYTES = 32
HOST_BYTES = 16

MAC_BYTES = 16
TRANSPORT_HEADER_BYTES = 16
TRANSPORT_OVERHEAD_BYTES = 32  # header and tag
TRANSPORT_HEADER = struct.Struct("<IIQ")  # type, receiver index, counter


class MessageType(IntEnum):
    """The first 32-bit word of each message."""

    INITIATION = 1
    RESPONSE = 2
    COOKIE_REPLY = 3
    TRANSPORT = 4


class Drop(StrEnum):
    """Why something was dropped: the labels of the counters. Nothing else happens on a drop."""

    LENGTH = "length"  # a datagram shorter than any message, or not of its type's size
    TYPE = "type"  # an unknown message type
    MAC1 = "mac1"  # made by somebody who does not know our public key, or damaged
    COOKIE_ASKED = "cookie asked"  # we are under load and there is no valid mac2: answered with a cookie
    RATE_LIMITED = "rate limited"  # we are under load and this source sends too much, in spite of a valid mac2
    INITIATION_INVALID = "initiation invalid"  # a field does not decrypt
    UNKNOWN_PEER = "unknown peer"  # a well-made initiation of somebody we do not know
    INITIATION_REPLAYED = "initiation replayed"  # its timestamp is not greater than the greatest one seen
    INITIATION_FLOOD = "initiation flood"  # less than 20 ms after the last one of this peer
    RESPONSE_UNEXPECTED = "response unexpected"  # no initiation of ours has this index
    RESPONSE_INVALID = "response invalid"  # does not decrypt: another key, or another pre-shared key
    COOKIE_UNEXPECTED = "cookie unexpected"  # no handshake message of ours has this index
    COOKIE_INVALID = "cookie invalid"  # does not decrypt
    INDEX_UNKNOWN = "index unknown"  # no keypair has this receiver index
    KEYPAIR_EXPIRED = "keypair expired"  # 180 s old
    COUNTER_EXHAUSTED = "counter exhausted"  # beyond the last counter that a keypair may use
    AUTHENTICATION = "authentication"  # a transport message does not decrypt
    REPLAYED = "replayed"  # a counter seen before, or too old to tell
    STAGING_FULL = "staging full"  # more waited for a handshake than may; of whom most did
    HANDSHAKE_FAILED = "handshake failed"  # packets that waited for a handshake which nobody answered
    NO_ENDPOINT = "no endpoint"  # we do not know where the peer is


class WireGuardError(Ts4nsnetError):
    """The root of this package's errors."""


class Malformed(WireGuardError):
    """Bytes that are no message; `drop` labels the counter."""

    def __init__(self, what: str, *, got: int, want: int, drop: Drop) -> None:
        super().__init__(f"{what}: got {got}, want {want}")
        self.drop = drop


def message_type(datagram: Buffer) -> MessageType:
    """The type of a received datagram; raises `Malformed` for one too short or of no known type."""
    if len(datagram) < TRANSPORT_OVERHEAD_BYTES:
        raise Malformed("datagram length", got=len(datagram), want=TRANSPORT_OVERHEAD_BYTES, drop=Drop.LENGTH)
    word = int.from_bytes(datagram[:4], "little")
    if not MessageType.INITIATION <= word <= MessageType.TRANSPORT:
        raise Malformed("message type", got=word, want=MessageType.TRANSPORT, drop=Drop.TYPE)
    return MessageType(word)


class _Fixed:
    """A message of one exact size, whose fields are those of its struct in order."""

    __slots__: tuple[str, ...] = ()

    TYPE: ClassVar[MessageType]
    LAYOUT: ClassVar[struct.Struct]
    SIZE: ClassVar[int]

    @classmethod
    def parse(cls, datagram: Buffer) -> Self:
        """Read a datagram of this type; raises `Malformed` unless it has exactly the type's size."""
        if len(datagram) != cls.SIZE:
            raise Malformed(f"{cls.TYPE.name} length", got=len(datagram), want=cls.SIZE, drop=Drop.LENGTH)
        return cls(*cls.LAYOUT.unpack_from(datagram)[1:])

    def emit(self) -> bytes:
        """The bytes on the wire: SIZE of them."""
        return self.LAYOUT.pack(self.TYPE, *(getattr(self, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Initiation(_Fixed):
    """The first handshake message: 148 bytes."""

    TYPE: ClassVar = MessageType.INITIATION
    LAYOUT: ClassVar = struct.Struct("<II32s48s28s16s16s")
    SIZE: ClassVar = LAYOUT.size

    sender_index: int
    ephemeral: bytes
    sealed_static: bytes
    sealed_timestamp: bytes
    mac1: bytes = bytes(MAC_BYTES)
    mac2: bytes = bytes(MAC_BYTES)


@dataclass(frozen=True, slots=True)
class Response(_Fixed):
    """The second handshake message: 92 bytes."""

    TYPE: ClassVar = MessageType.RESPONSE
    LAYOUT: ClassVar = struct.Struct("<III32s16s16s16s")
    SIZE: ClassVar = LAYOUT.size

    sender_index: int
    receiver_index: int
    ephemeral: bytes
    sealed_nothing: bytes
    mac1: bytes = bytes(MAC_BYTES)
    mac2: bytes = bytes(MAC_BYTES)


@dataclass(frozen=True, slots=True)
class CookieReply(_Fixed):
    """What a host under load answers instead of working: prove that you own your address. 64 bytes."""

    TYPE: ClassVar = MessageType.COOKIE_REPLY
    LAYOUT: ClassVar = struct.Struct("<II24s32s")
    SIZE: ClassVar = LAYOUT.size

    receiver_index: int
    nonce: bytes
    sealed_cookie: bytes


def padded_size(size: int, mtu: int) -> int:
    """How many bytes of plaintext a packet of `size` bytes becomes: a multiple of 16, never more than `mtu`.

    A packet that is longer than `mtu` (bytes, the path's inner one) is padded as its last piece would be. This makes
    all segments of one train equally long, which UDP segmentation offload needs.
    """
    last = size % mtu if size > mtu else size
    return size - last + min((last + 15) & ~15, mtu)

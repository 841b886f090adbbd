# SPDX-License-Identifier: BSD-3-Clause
"""DERP frames, both directions: layouts and limits.

After the HTTP upgrade both sides write frames until one closes. All integers are big-endian.

    0      1                       5
    | type | length of the payload | payload …        a key is 32 bytes, a nonce 24, a box its tag (16) and ciphertext

    server → client                                   client → server
    01 ServerKey    magic, key                        02 ClientInfo     key, nonce, box(JSON)
    03 ServerInfo   nonce, box(JSON)                  04 SendPacket     destination key, packet
    05 RecvPacket   source key, packet                07 NotePreferred  1 byte, exactly: this is my home region
    06 KeepAlive    nothing
    08 PeerGone     key, reason                       12 Ping           8 bytes, from either side
    14 Health       UTF-8 text; empty is healthy      13 Pong           the same 8 bytes
    15 Restarting   two times in milliseconds

A payload may be longer than its layout (later versions add at the end): the surplus is ignored. An unknown type is
ignored as a whole. Frames that need a mesh key (PeerPresent, ForwardPacket, WatchConns, ClosePeer) are only named:
neither our client nor the lab's relay is part of a mesh.

The boxes of the hello are `hello.py`'s.

Source: tailscale's derp/derp.go; our notes on DERP, section 2.
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self

from ts4nsnet.derp.errors import Malformed
from ts4nsnet.keys import KEY_BYTES, PublicKey

Buffer = bytes | bytearray | memoryview

MAGIC = b"DERP\xf0\x9f\x94\x91"
HEADER = struct.Struct(">BI")  # type, length of the payload
NONCE_BYTES = 24
SEAL_BYTES = NONCE_BYTES + 16  # what sealing adds
PING_BYTES = 8
MAX_PACKET_BYTES = 65536
MAX_FRAME_BYTES = 1 << 20  # of payload
_MILLISECONDS = struct.Struct(">II")


class FrameType(IntEnum):
    """The first byte of a frame."""

    SERVER_KEY = 0x01
    CLIENT_INFO = 0x02
    SERVER_INFO = 0x03
    SEND_PACKET = 0x04
    RECV_PACKET = 0x05
    KEEP_ALIVE = 0x06
    NOTE_PREFERRED = 0x07
    PEER_GONE = 0x08
    PEER_PRESENT = 0x09  # to members of the mesh
    FORWARD_PACKET = 0x0A  # of members of the mesh, as the next two
    WATCH_CONNS = 0x10
    CLOSE_PEER = 0x11
    PING = 0x12
    PONG = 0x13
    HEALTH = 0x14
    RESTARTING = 0x15


# the longest payload that a reader takes, by type; MAX_FRAME_BYTES for the others
CLIENT_LIMITS: Mapping[int, int] = {FrameType.SERVER_KEY: 1024}
SERVER_LIMITS: Mapping[int, int] = {
    FrameType.CLIENT_INFO: 1 << 18,
    FrameType.SEND_PACKET: KEY_BYTES + MAX_PACKET_BYTES,
    FrameType.PING: 1000,
}


class PeerGoneReason(IntEnum):
    """Why a peer cannot be reached through this relay; other numbers may come."""

    DISCONNECTED = 0x00  # it was here, and has left the region
    NOT_HERE = 0x01  # the server does not know it


# --- frames -----------------------------------------------------------------------------------------------------------


def _emit(kind: FrameType, *parts: bytes) -> bytes:
    return b"".join((HEADER.pack(kind, sum(map(len, parts))), *parts))


def _require(kind: FrameType, payload: Buffer, size: int) -> None:
    if len(payload) < size:
        raise Malformed(f"{kind.name} payload", got=f"{len(payload)} bytes", want=f"at least {size}")


@dataclass(frozen=True, slots=True)
class ServerKey:
    """The server's first frame: its public key."""

    TYPE: ClassVar = FrameType.SERVER_KEY

    key: PublicKey

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; raises `Malformed` when it is short or has another magic."""
        size = len(MAGIC) + KEY_BYTES
        _require(cls.TYPE, payload, size)
        if payload[: len(MAGIC)] != MAGIC:
            raise Malformed("SERVER_KEY magic", got=bytes(payload[: len(MAGIC)]).hex(), want=MAGIC.hex())
        return cls(PublicKey(bytes(payload[len(MAGIC) : size])))

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, MAGIC, self.key.raw)


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The client's first frame: its key, and its `ClientDetails` sealed to the server."""

    TYPE: ClassVar = FrameType.CLIENT_INFO

    key: PublicKey
    sealed: bytes

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; raises `Malformed` when it is too short for a key and a box."""
        _require(cls.TYPE, payload, KEY_BYTES + SEAL_BYTES)
        return cls(PublicKey(bytes(payload[:KEY_BYTES])), bytes(payload[KEY_BYTES:]))

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, self.key.raw, self.sealed)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server's second frame: its `ServerDetails` sealed to the client."""

    TYPE: ClassVar = FrameType.SERVER_INFO

    sealed: bytes

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; raises `Malformed` when it is too short for a box."""
        _require(cls.TYPE, payload, SEAL_BYTES)
        return cls(bytes(payload))

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, self.sealed)


@dataclass(frozen=True, slots=True)
class SendPacket:
    """A packet for the peer that owns `destination`."""

    TYPE: ClassVar = FrameType.SEND_PACKET

    destination: PublicKey
    packet: bytes

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; raises `Malformed` when it is shorter than a key."""
        _require(cls.TYPE, payload, KEY_BYTES)
        return cls(PublicKey(bytes(payload[:KEY_BYTES])), bytes(payload[KEY_BYTES:]))

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, self.destination.raw, self.packet)


@dataclass(frozen=True, slots=True)
class RecvPacket:
    """A packet of the peer that owns `source`."""

    TYPE: ClassVar = FrameType.RECV_PACKET

    source: PublicKey
    packet: bytes

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; raises `Malformed` when it is shorter than a key."""
        _require(cls.TYPE, payload, KEY_BYTES)
        return cls(PublicKey(bytes(payload[:KEY_BYTES])), bytes(payload[KEY_BYTES:]))

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, self.source.raw, self.packet)


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The server is alive; no answer is due."""

    TYPE: ClassVar = FrameType.KEEP_ALIVE

    @classmethod
    def parse(cls, _payload: Buffer) -> Self:
        """Read a payload, whatever it is."""
        return cls()

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE)


@dataclass(frozen=True, slots=True)
class NotePreferred:
    """Whether this region is the client's home."""

    TYPE: ClassVar = FrameType.NOTE_PREFERRED

    preferred: bool

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; raises `Malformed` unless it is exactly one byte."""
        if len(payload) != 1:
            raise Malformed("NOTE_PREFERRED payload", got=f"{len(payload)} bytes", want="exactly 1")
        return cls(payload[0] != 0)

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, bytes([self.preferred]))


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A peer cannot be reached through this relay; `reason` is a `PeerGoneReason`, or a number of a later version."""

    TYPE: ClassVar = FrameType.PEER_GONE

    peer: PublicKey
    reason: int = PeerGoneReason.DISCONNECTED

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload, also the old form without a reason; raises `Malformed` when it is shorter than a key."""
        _require(cls.TYPE, payload, KEY_BYTES)
        return cls(PublicKey(bytes(payload[:KEY_BYTES])), payload[KEY_BYTES] if len(payload) > KEY_BYTES else 0)

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, self.peer.raw, bytes([self.reason]))


@dataclass(frozen=True, slots=True)
class _Echo:
    TYPE: ClassVar[FrameType]

    data: bytes  # 8 bytes

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; raises `Malformed` when it is short."""
        _require(cls.TYPE, payload, PING_BYTES)
        return cls(bytes(payload[:PING_BYTES]))

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, self.data)


class Ping(_Echo):
    """A question whether the other side is there."""

    __slots__ = ()
    TYPE: ClassVar = FrameType.PING


class Pong(_Echo):
    """The answer to a ping with the same data."""

    __slots__ = ()
    TYPE: ClassVar = FrameType.PONG


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong with this connection in the server's opinion; empty: nothing any more."""

    TYPE: ClassVar = FrameType.HEALTH

    problem: str

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; what is not UTF-8 becomes replacement characters."""
        return cls(str(payload, "utf-8", "replace"))

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, self.problem.encode())


@dataclass(frozen=True, slots=True)
class Restarting:
    """The server is about to restart: come back after `reconnect_time`, and try for `try_time` (seconds)."""

    TYPE: ClassVar = FrameType.RESTARTING

    reconnect_time: float
    try_time: float

    @classmethod
    def parse(cls, payload: Buffer) -> Self:
        """Read a payload; raises `Malformed` when it is short."""
        _require(cls.TYPE, payload, _MILLISECONDS.size)
        reconnect, tries = _MILLISECONDS.unpack_from(payload)
        return cls(reconnect / 1000, tries / 1000)

    def emit(self) -> bytes:
        """The whole frame."""
        return _emit(self.TYPE, _MILLISECONDS.pack(round(self.reconnect_time * 1000), round(self.try_time * 1000)))


Frame = (
    ServerKey
    | ClientInfo
    | ServerInfo
    | SendPacket
    | RecvPacket
    | KeepAlive
    | NotePreferred
    | PeerGone
    | Ping
    | Pong
    | Health
    | Restarting
)
_PARSERS: Mapping[int, Callable[[Buffer], Frame]] = {
    layout.TYPE: layout.parse
    for layout in (
        *(ServerKey, ClientInfo, ServerInfo, SendPacket, RecvPacket, KeepAlive),
        *(NotePreferred, PeerGone, Ping, Pong, Health, Restarting),
    )
}


def parse(kind: int, payload: Buffer) -> Frame | None:
    """Read a frame's payload; None for a type that has no layout here. Raises `Malformed`."""
    parser = _PARSERS.get(kind)
    return parser(payload) if parser else None


class FrameBuffer:
    """A byte stream cut into frames. Holds what was received and not yet asked for, at most one incomplete frame.

    Args:
        limits: CLIENT_LIMITS where a client reads, SERVER_LIMITS where a server does.
    """

    def __init__(self, limits: Mapping[int, int]) -> None:
        self._limits = limits
        self._bytes = bytearray()
        self._start = 0  # where the next frame begins

    def receive(self, data: Buffer) -> None:
        """Take the next bytes of the stream."""
        del self._bytes[: self._start]
        self._start = 0
        self._bytes += data

    def next_packets(self, kind: FrameType) -> tuple[bytes, list[bytes]]:
        """The packets of the next frames, as long as they are of this kind (SEND_ or RECV_PACKET) and have one key.

        Whatever else is next, and whatever is wrong, `next_frame` says.

        Returns: the key, raw, and what was sent to it or came from it; no packets where something else is next.
        """
        at, end = self._start, len(self._bytes)
        key, head, step = b"", b"", 0  # all of the frame before the packet: frames of one length and key share it
        packets: list[bytes] = []
        with memoryview(self._bytes) as view:
            while end - at >= HEADER.size + KEY_BYTES:
                if not packets or not self._bytes.startswith(head, at):
                    found, size = HEADER.unpack_from(view, at)
                    if found != kind or not KEY_BYTES <= size <= self._limits.get(kind, MAX_FRAME_BYTES):
                        break
                    head = bytes(view[at : at + HEADER.size + KEY_BYTES])
                    if packets and head[HEADER.size :] != key:
                        break
                    key, step = head[HEADER.size :], HEADER.size + size
                if at + step > end:
                    break
                packets.append(bytes(view[at + len(head) : at + step]))
                at += step
        self._start = at
        return key, packets

    def next_frame(self) -> tuple[int, bytes] | None:
        """Type and payload of the next frame, None until it is complete.

        Raises: Malformed when its announced length is beyond the limit; so nobody makes us hold more.
        """
        begin = self._start + HEADER.size
        if len(self._bytes) < begin:
            return None
        kind, size = HEADER.unpack_from(self._bytes, self._start)
        if size > (limit := self._limits.get(kind, MAX_FRAME_BYTES)):
            raise Malformed(f"length of a frame of type {kind:#04x}", got=size, want=f"at most {limit}")
        if len(self._bytes) < begin + size:
            return None
        self._start = begin + size
        return kind, bytes(memoryview(self._bytes)[begin : begin + size])

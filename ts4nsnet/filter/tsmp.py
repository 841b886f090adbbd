# SPDX-License-Identifier: BSD-3-Clause
"""TSMP, IP protocol 99: what nodes of a tailnet tell each other inside the tunnel, the containers unseen.

    '!'  reject     protocol, reason, source port, destination port, [flags]     that flow of yours is not allowed here
    'p'  ping       8 opaque bytes                                               `tailscale ping --tsmp`
    'o'  pong       the same 8 bytes, [port of the PeerAPI]
    'a'  disco key  32 bytes                                                     first of each WireGuard session

A message is the whole payload of an IP packet between two nodes, has no checksum, and is never more than a fragment.
The ports of a reject are those that the rejected packet had, while the addresses around it are turned about. Members in
brackets came later; whatever follows the known members is ignored.

Our rejects are for IPv4 and IPv6; tailscale sends them for IPv4 only, and understands both.

Source: net/packet/tsmp.go of tailscale; notes paths.md 11, dns-filter.md B7.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Self

from ts4nsnet.filter.filter import Verdict
from ts4nsnet.filter.views import TSMP, look
from ts4nsnet.keys import PublicKey
from ts4nsnet.packet import Buffer, IPv4, IPv6, Malformed, Protocol, parse_ip

_REJECT = struct.Struct("!cBBHH")
_MAYBE_BROKEN = 1  # a flag of a reject


class Reason(IntEnum):
    """Why a flow is rejected; peers may have others."""

    ACL = ord("A")
    SHIELDS_UP = ord("S")
    FORWARDING_OFF = ord("F")
    HOST_FIREWALL = ord("W")
    UNKNOWN_TRANSIT_ADDRESS = ord("T")  # of an app connector


@dataclass(frozen=True, slots=True)
class Ping:
    """A question whether the tunnel works; the answer is a pong with the same data."""

    data: bytes  # 8 bytes

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a message from the payload that it is; raises `Malformed`."""
        _at_least(9, body)
        return cls(body[1:9])

    def emit(self) -> bytes:
        """The payload."""
        return b"p" + self.data


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""

    data: bytes  # 8 bytes
    peer_api_port: int = 0  # 0: none

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a message from the payload that it is; raises `Malformed`."""
        _at_least(9, body)
        return cls(body[1:9], int.from_bytes(body[9:11], "big") if len(body) >= 11 else 0)

    def emit(self) -> bytes:
        """The payload."""
        return b"o" + self.data + self.peer_api_port.to_bytes(2, "big")


@dataclass(frozen=True, slots=True)
class Reject:
    """A flow was not let in, or might not get through.

    Attributes:
        protocol: of the flow, TCP or UDP.
        reason: see `Reason`.
        source_port, destination_port: of the flow, as its sender sees it.
        maybe_broken: only a hint; the flow might work.
    """

    protocol: int
    reason: int
    source_port: int
    destination_port: int
    maybe_broken: bool = False

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a message from the payload that it is; raises `Malformed`."""
        _at_least(_REJECT.size, body)
        _, protocol, reason, source_port, destination_port = _REJECT.unpack_from(body)
        flags = body[_REJECT.size] if len(body) > _REJECT.size else 0
        return cls(protocol, reason, source_port, destination_port, bool(flags & _MAYBE_BROKEN))

    def emit(self) -> bytes:
        """The payload."""
        body = _REJECT.pack(b"!", self.protocol, self.reason, self.source_port, self.destination_port)
        return body + bytes([_MAYBE_BROKEN]) if self.maybe_broken else body


@dataclass(frozen=True, slots=True)
class DiscoKey:
    """The sender's disco key, which holds from now on."""

    key: PublicKey

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a message from the payload that it is; raises `Malformed`."""
        _at_least(33, body)
        return cls(PublicKey(body[1:33]))

    def emit(self) -> bytes:
        """The payload."""
        return b"a" + self.key.raw


Message = Ping | Pong | Reject | DiscoKey
_KINDS: dict[bytes, type[Message]] = {b"p": Ping, b"o": Pong, b"!": Reject, b"a": DiscoKey}


class Received(NamedTuple):
    """A message and the addresses of the packet that brought it."""

    source: bytes
    destination: bytes
    message: Message


def parse(packet: Buffer) -> Received:
    """Read a packet with a message in it; raises `Malformed`, also for messages of other types."""
    ip = parse_ip(packet)
    body = bytes(ip.payload)
    kind = _KINDS.get(body[:1])
    if ip.protocol != TSMP or ip.is_fragment or kind is None:
        got = f"protocol {ip.protocol}, {'a fragment' if ip.is_fragment else 'whole'}, type {body[:1]!r}"
        raise Malformed("tsmp", got=got, want=f"protocol {TSMP}, whole, type one of {b''.join(_KINDS)!r}")
    return Received(ip.source, ip.destination, kind.parse(body))


def emit(message: Message, source: bytes, destination: bytes) -> bytes:
    """The packet with a message, between two addresses of nodes."""
    header = IPv4 if len(source) == 4 else IPv6
    return header(source, destination, TSMP, message.emit()).emit()


def reject(packet: Buffer, verdict: Verdict) -> bytes | None:
    """What a peer is told whose packet had this verdict: something if a rule for a new TCP connection was missing."""
    reason = _REASONS.get(verdict)
    protocol, start, source, destination = look(packet)
    if reason is None or protocol != Protocol.TCP:
        return None
    source_port, destination_port = struct.unpack_from("!HH", packet, start)
    return emit(Reject(Protocol.TCP, reason, source_port, destination_port), destination, source)


_REASONS = {Verdict.NO_RULE: Reason.ACL, Verdict.SHIELDS_UP: Reason.SHIELDS_UP}


def _at_least(size: int, body: bytes) -> None:
    if len(body) < size:
        raise Malformed("tsmp", got=f"{len(body)} bytes of {body[:1]!r}", want=f"at least {size}")

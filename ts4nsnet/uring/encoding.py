# SPDX-License-Identifier: BSD-3-Clause
"""Commands and events as bytes: each is a record, and many share a datagram.

    datagram   version │ record │ record │ …       at most MAX_DATAGRAM_BYTES
    record     kind │ more │ length │ body          more: the body goes on in the next record

Values come out equal to what went in, but for two things: a train's payload is one piece then, and rules have no
grants, which no filter asks for.

The worker meets the world in compiled code, the node in many parsers; so neither believes the other's bytes. A length
is checked before memory is asked for, a number before it is an address family or a time, and each side takes its own
kinds only. What is not understood is counted and dropped, with the rest of its datagram.

Numbers are little-endian, addresses in network order. Both ends are of one installation: another layout is another
version, and there is no talk about which.

Limits: MAX_MESSAGE_BYTES for one message; the longest are a large tailnet's rules, with tens of bytes per address.
"""

import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import ip_network
from math import isfinite
from struct import Struct
from typing import Any, Generic, TypeVar

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.filter import Destination, Range, Rule
from ts4nsnet.filter.rules import Prefix
from ts4nsnet.packet import Buffer
from ts4nsnet.tailnet import TAILNET_MTU
from ts4nsnet.uring.commands import (
    Complete,
    FilterSet,
    Forward,
    Heard,
    Hello,
    Kinds,
    Lost,
    Packets,
    Relayed,
    RoutesSet,
    Spoken,
    Trains,
)
from ts4nsnet.uring.events import Local, Message, Refused, Slow, Unsealed
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.offloads import Offload, OffloadRefused, OffloadsSet
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Keypair, RekeyWanted, Seal
from ts4nsnet.wireguard.handshake import TransportKeys
from ts4nsnet.wireguard.messages import ENDPOINT_BYTES
from ts4nsnet.wireguard.sessions import Confirmed, KeysZeroed, Roamed

VERSION = 2
# ours; the worker carries no packets while it takes one in, which is 15 ms if it is full of routes
MAX_DATAGRAM_BYTES = 32 << 10
MAX_MESSAGE_BYTES = 64 << 20  # ours

T = TypeVar("T")


class Malformed(Ts4nsnetError):
    """Bytes that are no message, or none for this side."""

    def __init__(self, what: str) -> None:
        super().__init__(f"message of node or worker: {what}")


# --- pieces of bodies ---------------------------------------------------------------------------------------------

_U8, _U16, _U32 = Struct("<B"), Struct("<H"), Struct("<I")
_ADDRESS_BYTES = {4: 4, 6: 16}


class _Cursor:
    """Reads a body from its beginning to its end."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise Malformed(f"got {self.left} bytes, want {size} more")
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def rest(self) -> bytes:
        return self.take(self.left)

    def unpack(self, layout: Struct) -> Any:
        return layout.unpack(self.take(layout.size))

    def one(self, layout: Struct) -> Any:
        return self.unpack(layout)[0]

    def expect(self, version: int) -> None:
        if self.one(_U8) != version:
            raise Malformed(f"want version {version}")

    def block(self) -> bytes:
        return self.take(self.one(_U32))

    def many(self, read: Callable[["_Cursor"], T]) -> list[T]:
        """As many as are announced; each takes a byte at least, so that no number is believed that is not there."""
        count = self.one(_U32)
        if count > self.left:
            raise Malformed(f"got {count} things in {self.left} bytes")
        return [read(self) for _ in range(count)]


def _block(data: Buffer) -> bytes:
    return _U32.pack(len(data)) + data


def _many(write: Callable[[T], bytes], things: Collection[T]) -> bytes:
    return _U32.pack(len(things)) + b"".join(map(write, things))


def _text(text: str) -> bytes:
    return _block(text.encode("utf-8", "surrogatepass"))  # what JSON can hold


def _read_text(cursor: _Cursor) -> str:
    return cursor.block().decode("utf-8", "surrogatepass")


def _prefix(prefix: Prefix) -> bytes:
    return bytes((prefix.version, prefix.prefixlen)) + prefix.network_address.packed


def _read_prefix(cursor: _Cursor) -> Prefix:
    version, length = cursor.take(2)
    return ip_network((cursor.take(_size(version)), length))


def _range(each: Range) -> bytes:
    size = _ADDRESS_BYTES[each.version]
    return bytes((each.version,)) + each.first.to_bytes(size, "big") + each.last.to_bytes(size, "big")


def _read_range(cursor: _Cursor) -> Range:
    version = cursor.one(_U8)
    size = _size(version)
    return Range(version, int.from_bytes(cursor.take(size), "big"), int.from_bytes(cursor.take(size), "big"))


def _size(version: int) -> int:
    if version not in _ADDRESS_BYTES:
        raise Malformed(f"got an address of version {version}, want 4 or 6")
    return _ADDRESS_BYTES[version]


def _read_address(cursor: _Cursor) -> bytes:
    address = cursor.block()
    if len(address) not in _ADDRESS_BYTES.values():
        raise Malformed(f"got an address of {len(address)} bytes, want 4 or 16")
    return address


# --- bodies -------------------------------------------------------------------------------------------------------

_PEER = _U32
_KEYPAIR = Struct("<III32s32s?d")
_ROUTED = Struct("<IH")
_ROAMED = Struct(f"<I{ENDPOINT_BYTES}s")
_PORTS = Struct("<HH")
_TRAIN = Struct(f"<II{ENDPOINT_BYTES}s")
_LOST = Struct("<QQ")

_BodyWriter = Callable[[Any], bytes]
_BodyReader = Callable[[_Cursor], Any]  # a `Reader` knows which kinds it takes


def _keypair(keypair: Keypair) -> bytes:
    indices = keypair.peer, keypair.local_index, keypair.remote_index
    return _KEYPAIR.pack(*indices, keypair.keys.send, keypair.keys.receive, keypair.initiator, keypair.created_at)


def _read_keypair(cursor: _Cursor) -> Keypair:
    peer, local_index, remote_index, send, receive, initiator, created_at = cursor.unpack(_KEYPAIR)
    if not isfinite(created_at):
        raise Malformed(f"got {created_at} as a point in time")
    return Keypair(peer, local_index, remote_index, TransportKeys(send, receive), initiator, created_at)


def _read_routes_set(cursor: _Cursor) -> RoutesSet:
    peer, mtu = cursor.unpack(_ROUTED)
    if mtu < TAILNET_MTU:
        raise Malformed(f"got an MTU of {mtu}, want {TAILNET_MTU} at least")
    return RoutesSet(peer, frozenset(cursor.many(_read_prefix)), mtu)


def _train(train: Train) -> bytes:
    head = _TRAIN.pack(train.segment_bytes, train.datagram_count, train.endpoint)
    return head + _block(b"".join(train.payload))


def _read_train(cursor: _Cursor) -> Train:
    segment_bytes, count, endpoint = cursor.unpack(_TRAIN)
    payload = cursor.block()
    if not segment_bytes or count != max(1, -(-len(payload) // segment_bytes)):
        raise Malformed(f"got {count} datagrams of {segment_bytes} in {len(payload)} bytes")
    return Train((payload,), segment_bytes, count, endpoint)


def _filter_set(wanted: FilterSet) -> bytes:
    """Rules with equal sources name them by number: a tailnet's policy expands to a few sets of many addresses."""
    numbers: dict[tuple[Range, ...], int] = {}
    rules = [_rule(rule, numbers.setdefault(rule.sources, len(numbers))) for rule in wanted.rules]
    return b"".join(
        (
            _many(lambda ranges: _many(_range, ranges), numbers),
            _many(bytes, rules),
            _many(_prefix, wanted.local),
            _many(_capability, wanted.sources_with.items()),
            _many(_prefix, wanted.jailed),
        )
    )


def _read_filter_set(cursor: _Cursor) -> FilterSet:
    sources = cursor.many(lambda cursor: tuple(cursor.many(_read_range)))
    rules = cursor.many(lambda cursor: _read_rule(cursor, sources))
    local = cursor.many(_read_prefix)
    sources_with = dict(cursor.many(_read_capability))
    return FilterSet(tuple(rules), tuple(local), sources_with, tuple(cursor.many(_read_prefix)))


def _rule(rule: Rule, sources: int) -> bytes:
    destinations = _many(_destination, rule.destinations)
    return _U32.pack(sources) + _many(_text, rule.source_capabilities) + destinations + _block(bytes(rule.protocols))


def _read_rule(cursor: _Cursor, sources: Sequence[tuple[Range, ...]]) -> Rule:
    number = cursor.one(_U32)
    if number >= len(sources):
        raise Malformed(f"got sources {number} of {len(sources)}")
    capabilities = tuple(cursor.many(_read_text))
    destinations = tuple(cursor.many(_read_destination))
    return Rule(sources[number], capabilities, destinations, tuple(cursor.block()))


def _destination(destination: Destination) -> bytes:
    return _range(destination.range) + _PORTS.pack(destination.first_port, destination.last_port)


def _read_destination(cursor: _Cursor) -> Destination:
    return Destination(_read_range(cursor), *cursor.unpack(_PORTS))


def _capability(capability: tuple[str, tuple[Range, ...]]) -> bytes:
    name, ranges = capability
    return _text(name) + _many(_range, ranges)


def _read_capability(cursor: _Cursor) -> tuple[str, tuple[Range, ...]]:
    return _read_text(cursor), tuple(cursor.many(_read_range))


def _local_traffic(traffic: LocalTraffic) -> bytes:
    addresses = _many(_block, sorted(traffic.addresses))
    return bytes((traffic.names,)) + addresses + _many(_PEER.pack, sorted(traffic.exit_peers))


def _read_local_traffic(cursor: _Cursor) -> LocalTraffic:
    names = bool(cursor.one(_U8))
    addresses = frozenset(cursor.many(_read_address))
    return LocalTraffic(addresses, names, frozenset(cursor.many(lambda cursor: cursor.one(_PEER))))


def _offloads_set(wanted: OffloadsSet) -> bytes:
    return bytes((wanted.equal_tails,)) + _many(_text, sorted(wanted.off))


def _read_offloads_set(cursor: _Cursor) -> OffloadsSet:
    equal_tails = bool(cursor.one(_U8))
    return OffloadsSet(frozenset(map(Offload, cursor.many(_read_text))), equal_tails)


def _read_packets(cursor: _Cursor) -> tuple[bytes, ...]:
    return tuple(cursor.many(_Cursor.block))


def _of_peer(made: Callable[[int], Spoken]) -> tuple[_BodyWriter, _BodyReader]:
    return lambda message: _PEER.pack(message.peer), lambda cursor: made(cursor.one(_PEER))


def _of_peer_with_packets(made: Callable[[int, tuple[bytes, ...]], Spoken]) -> tuple[_BodyWriter, _BodyReader]:
    return (
        lambda message: _PEER.pack(message.peer) + _many(_block, message.packets),
        lambda cursor: made(cursor.one(_PEER), _read_packets(cursor)),
    )


# the numbers are the version's
_CODECS: tuple[tuple[int, type, _BodyWriter, _BodyReader], ...] = (
    (1, Keypair, _keypair, _read_keypair),
    (2, Roamed, lambda each: _ROAMED.pack(each.peer, each.endpoint), lambda cursor: Roamed(*cursor.unpack(_ROAMED))),
    (3, KeysZeroed, *_of_peer(KeysZeroed)),
    (4, Seal, *_of_peer_with_packets(Seal)),
    (
        5,
        RoutesSet,
        lambda each: _ROUTED.pack(each.peer, each.mtu) + _many(_prefix, each.prefixes),
        _read_routes_set,
    ),
    (6, FilterSet, _filter_set, _read_filter_set),
    (7, LocalTraffic, _local_traffic, _read_local_traffic),
    (8, Complete, lambda _: b"", lambda _: Complete()),
    (9, Trains, lambda each: _many(_train, each.trains), lambda cursor: Trains(tuple(cursor.many(_read_train)))),
    (10, Packets, lambda each: _many(_block, each.packets), lambda cursor: Packets(_read_packets(cursor))),
    (11, Forward, lambda each: each.packet, lambda cursor: Forward(cursor.rest())),
    (
        12,
        Hello,
        lambda each: _text(each.engine) + _text(each.note),
        lambda cursor: Hello(_read_text(cursor), _read_text(cursor)),
    ),
    (13, Confirmed, *_of_peer(Confirmed)),
    (14, RekeyWanted, *_of_peer(RekeyWanted)),
    (
        15,
        Slow,
        lambda each: each.source + each.datagram,
        lambda cursor: Slow(source=cursor.take(ENDPOINT_BYTES), datagram=cursor.rest()),
    ),
    (16, Unsealed, *_of_peer_with_packets(Unsealed)),
    (17, Local, lambda each: each.packet, lambda cursor: Local(cursor.rest())),
    (
        18,
        Message,
        lambda each: _PEER.pack(each.peer) + each.packet,
        lambda cursor: Message(cursor.one(_PEER), cursor.rest()),
    ),
    (19, Refused, lambda each: _block(each.destination), lambda cursor: Refused(_read_address(cursor))),
    (20, Relayed, lambda each: _train(each.train), lambda cursor: Relayed(_read_train(cursor))),
    (21, Lost, lambda each: _LOST.pack(each.events, each.malformed), lambda cursor: Lost(*cursor.unpack(_LOST))),
    (30, OffloadsSet, _offloads_set, _read_offloads_set),
    (
        31,
        OffloadRefused,
        lambda each: _U16.pack(each.error) + _text(each.offload),
        lambda cursor: OffloadRefused(error=cursor.one(_U16), offload=Offload(_read_text(cursor))),
    ),
)
_WRITERS = {made: (kind, write) for kind, made, write, _ in _CODECS}
_READERS = {kind: (made, read) for kind, made, _, read in _CODECS}


# --- records and datagrams ----------------------------------------------------------------------------------------

_HEADER = Struct("<B?I")  # kind, more, bytes of body


def emit(message: Spoken) -> bytes:
    """A message as one record."""
    kind, write = _WRITERS[type(message)]
    body = write(message)
    return _HEADER.pack(kind, False, len(body)) + body


def datagrams(records: Iterable[bytes], limit: int = MAX_DATAGRAM_BYTES) -> list[bytes]:
    """Put records into datagrams of at most `limit` bytes, in their order; what is longer is cut."""
    made = [bytearray((VERSION,))]
    for record in records:
        if len(made[-1]) + len(record) > limit and len(made[-1]) > 1:
            made.append(bytearray((VERSION,)))
        if 1 + len(record) <= limit:
            made[-1] += record
            continue
        kind, room = record[0], limit - 1 - _HEADER.size
        for start in range(_HEADER.size, len(record), room):
            piece = record[start : start + room]
            made[-1] += _HEADER.pack(kind, start + room < len(record), len(piece)) + piece
            made.append(bytearray((VERSION,)))
    return [bytes(each) for each in made if len(each) > 1]


class Reader(Generic[Heard]):
    """Takes datagrams of one end, in their order.

    Args:
        kinds: `TO_WORKER` or `TO_NODE`.

    Attributes:
        malformed: how many datagrams were not understood, in whole or from some record on.
    """

    def __init__(self, kinds: Kinds[Heard]) -> None:
        self.malformed = 0
        self._readers = {kind: read for kind, (made, read) in _READERS.items() if made in kinds.types}
        self._begun = bytearray()  # the body of a message of which more is to come
        self._begun_kind = 0

    def feed(self, datagram: Buffer) -> list[Heard]:
        """The messages that are whole with this datagram."""
        messages: list[Heard] = []
        try:
            cursor = _Cursor(datagram)
            cursor.expect(VERSION)
            while cursor.left:
                message = self._next(cursor)
                if message is not None:
                    messages.append(message)
        except (Malformed, ValueError, struct.error):
            self.malformed += 1
            self._begun, self._begun_kind = bytearray(), 0
        return messages

    def _next(self, cursor: _Cursor) -> Heard | None:
        """The message that ends with the next record, if one does."""
        kind, more, length = cursor.unpack(_HEADER)
        body = cursor.take(length)
        if self._begun_kind or more:
            if self._begun_kind not in (0, kind) or len(self._begun) + length > MAX_MESSAGE_BYTES:
                raise Malformed("got a piece of another, or of one without end")
            self._begun_kind = kind
            self._begun += body
            if more:
                return None
            body, self._begun, self._begun_kind = bytes(self._begun), bytearray(), 0
        if kind not in self._readers:
            raise Malformed(f"got kind {kind}, which is not for this side")
        inner = _Cursor(body)
        message: Heard = self._readers[kind](inner)
        if inner.left:
            raise Malformed(f"got {inner.left} bytes behind the end of kind {kind}")
        return message

# SPDX-License-Identifier: BSD-3-Clause
"""The DERP server, sans-I/O: packets between nodes that know each other's node keys.

    Relay       all connections by key; who is reachable
    Client      one connection: receive() ─► frames ─► relay ─► queues of other clients ─► data_to_send()

A connection says hello (ServerKey out, ClientInfo in, ServerInfo out), is admitted by its key, and then sends packets
to keys. What cannot be delivered at once waits in the receiver's two queues, one for disco, which leaves first, and one
for the rest, each of `QUEUE_BYTES`. The senders share them (`fair`): the oldest go, of who has most there. So a slow
reader loses its own packets and delays nobody, and a sender that floods it costs other senders nothing.

A key may have several connections; the one that came or sent last gets the packets. A sender of a disco packet to a
key that is not here is told so (PeerGone, not here), but not more than once a second; and when the last connection of
a key goes, everybody who got packets from it is told (PeerGone, disconnected).

With a rate, a client that sends faster is not read from until its bucket is refilled: TCP slows it down, nothing is
lost. There is no mesh: its frames end the connection.

Source: derp.md 2, 3, 4.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ts4nsnet.derp.errors import DerpError, Malformed
from ts4nsnet.derp.frames import (
    HEADER,
    PING_BYTES,
    SERVER_LIMITS,
    ClientInfo,
    FrameBuffer,
    FrameType,
    KeepAlive,
    NotePreferred,
    PeerGone,
    PeerGoneReason,
    Pong,
    ServerKey,
)
from ts4nsnet.derp.hello import ClientDetails, ServerDetails
from ts4nsnet.fair import FairQueue
from ts4nsnet.keys import KEY_BYTES, PrivateKey, PublicKey

HELLO_TIME = 10.0  # seconds that a client has for its ClientInfo
KEEP_ALIVE_TIME = 60.0  # and up to 5 s more, chosen per connection
KEEP_ALIVE_JITTER = 5.0
# ours; the reference has 32 packets, first come, first served
QUEUE_BYTES, TURN_BYTES = 192 << 10, 16 << 10
# PeerGone for unknown destinations: so many a second and sender, so many at once
GONE_RATE, GONE_BURST = 1.0, 3.0
# ours: notes that wait for a slow reader; the oldest go
MAX_NOTES = 256
# ours: what is handed to the socket at a time; the rest can still be dropped
BATCH_BYTES = 64 << 10

DISCO_MAGIC = b"TS\xf0\x9f\x92\xac"
DISCO_MIN_BYTES = 62

_MESH = (FrameType.FORWARD_PACKET, FrameType.WATCH_CONNS, FrameType.CLOSE_PEER)


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a client may send: a bucket of frame bytes."""

    bytes_per_second: float
    burst_bytes: float = 1 << 20


class Bucket:
    """Tokens that come at a rate, up to a burst; they may be overdrawn."""

    __slots__ = ("_burst", "_measured_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = burst
        self._measured_at = now

    def take(self, tokens: float, now: float) -> float:
        """Take tokens; how many seconds from `now` on the bucket is overdrawn, 0 if it is not."""
        self._refill(now)
        self._tokens -= tokens
        return max(0.0, -self._tokens / self._rate)

    def has(self, tokens: float, now: float) -> bool:
        """Whether so many are there; takes them if so."""
        self._refill(now)
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._measured_at) * self._rate)
        self._measured_at = now


class Relay:
    """All connections of one relay.

    Args:
        key: the relay's own.
        admits: whether the owner of a node key may use the relay; asked once per connection.
        random: so many unpredictable bytes.
        rate: how fast each client may send; None: as fast as it can.
    """

    def __init__(
        self,
        key: PrivateKey,
        admits: Callable[[PublicKey], bool],
        random: Callable[[int], bytes],
        rate: Rate | None = None,
    ) -> None:
        self.key = key
        self.admits = admits
        self.random = random
        self.rate = rate
        self.counters: Counter[str] = Counter()
        self.ready: dict[Client, None] = {}  # connections with something to send, or closed, in order
        self._clients: dict[bytes, list[Client]] = {}  # by raw node key; the active one last

    def accept(self, now: float) -> "Client":
        """A new connection, whose hello begins."""
        return Client(self, now)

    @property
    def keys(self) -> list[PublicKey]:
        """The node keys that are connected."""
        return [PublicKey(key) for key in self._clients]

    def close_key(self, key: PublicKey) -> None:
        """End the connections of a key that is no longer valid."""
        for client in list(self._clients.get(key.raw, ())):
            client.close("key no longer valid")

    def join(self, client: "Client") -> None:
        """A connection was admitted; it becomes the active one of its key."""
        self._clients.setdefault(client.key, []).append(client)

    def activate(self, client: "Client") -> None:
        """A connection has sent something: it is the active one of its key."""
        same = self._clients[client.key]
        if same[-1] is not client:
            same.remove(client)
            same.append(client)

    def leave(self, client: "Client") -> None:
        """A connection has ended."""
        same = self._clients.get(client.key, [])
        if client not in same:
            return
        same.remove(client)
        if not same:
            del self._clients[client.key]
            gone = PeerGone(PublicKey(client.key), PeerGoneReason.DISCONNECTED).emit()
            for others in self._clients.values():
                for other in others:
                    if client.key in other.sources:
                        other.sources.discard(client.key)
                        other.put_note(gone)

    def deliver(self, destination: bytes, source: bytes, packets: Sequence[bytes]) -> bool:
        """Queue packets for the owner of a key; False if it is not here."""
        clients = self._clients.get(destination)
        self.counters["packets"] += len(packets)
        if not clients:
            self.counters["unknown destination"] += len(packets)
            return False
        clients[-1].put_packets(source, packets)
        return True


class Client:
    """One connection of a client; made by `Relay.accept`."""

    def __init__(self, relay: Relay, now: float) -> None:
        self.key = b""  # raw; none before it was admitted
        self.sources: set[bytes] = set()  # raw keys whose packets it got
        self.closed = ""  # why it is over
        self.is_home = False
        self.read_at = 0.0  # when it may be read from again
        self._relay = relay
        self._frames = FrameBuffer(SERVER_LIMITS)
        self._hello_until = now + HELLO_TIME
        jitter = relay.random(1)[0] / 256 * KEEP_ALIVE_JITTER
        self._keep_alive_time = KEEP_ALIVE_TIME + jitter
        self._keep_alive_at = now + self._keep_alive_time
        rate = relay.rate
        self._bucket = Bucket(rate.bytes_per_second, rate.burst_bytes, now) if rate else None
        self._gone_bucket = Bucket(GONE_RATE, GONE_BURST, now)
        self._notes: deque[bytes] = deque([ServerKey(relay.key.public).emit()], MAX_NOTES)
        self._pong = b""
        # by senders
        self._disco: FairQueue[bytes] = FairQueue(QUEUE_BYTES, TURN_BYTES)
        self._packets: FairQueue[bytes] = FairQueue(QUEUE_BYTES, TURN_BYTES)

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes of the connection, b"" at its end; `closed` says whether it goes on."""
        if not data:
            self.close("ended by the client")
        self._frames.receive(data)
        try:
            while not self.closed and self._take_next(now):
                pass
        except DerpError as error:
            self._relay.counters["malformed"] += 1
            self.close(str(error))

    def _take_next(self, now: float) -> bool:
        """Take the next frame, or all packets for one key that are next; False: there is none."""
        if self.key:
            destination, packets = self._frames.next_packets(FrameType.SEND_PACKET)
            if packets:
                self._pay(len(packets) * (HEADER.size + KEY_BYTES) + sum(map(len, packets)), now)
                self._relay.activate(self)
                self._handle_packets(destination, packets, now)
                return True
        frame = self._frames.next_frame()
        if frame is None:
            return False
        kind, payload = frame
        self._pay(HEADER.size + len(payload), now)
        if self.key:
            self._relay.activate(self)
            self._handle(kind, payload)
        else:
            self._handle_hello(kind, payload)
        return True

    def _pay(self, size: int, now: float) -> None:
        if self._bucket is not None:
            self.read_at = now + self._bucket.take(size, now)

    def data_to_send(self) -> bytes:
        """Frames for the connection, about BATCH_BYTES at most; call again until there are none."""
        parts: list[bytes] = []
        size = 0
        while self._notes and size < BATCH_BYTES:
            parts.append(self._notes.popleft())
            size += len(parts[-1])
        if self._pong:
            parts.append(self._pong)
            self._pong = b""
        if size < BATCH_BYTES:
            room = BATCH_BYTES - size
            for _, frames in self._disco.take(room) or self._packets.take(room):
                parts += frames
        return b"".join(parts)

    def next_timer(self) -> float:
        """When `handle_timer` has something to do."""
        return self._keep_alive_at if self.key else self._hello_until

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if now < self.next_timer():
            return
        if not self.key:
            self.close("no hello")
            return
        self._keep_alive_at = now + self._keep_alive_time
        self.put_note(KeepAlive().emit())

    def close(self, reason: str) -> None:
        """End the connection; what is queued is dropped."""
        if self.closed:
            return
        self.closed = reason
        if self.key:
            self._relay.leave(self)
        self._relay.ready[self] = None

    def put_note(self, frame: bytes) -> None:
        """Queue a small frame; it leaves before packets."""
        self._notes.append(frame)
        self._relay.ready[self] = None

    def put_packets(self, source: bytes, packets: Sequence[bytes]) -> None:
        """Queue packets of `source`; what has no room is counted."""
        self.sources.add(source)
        head, size = b"", -1  # packets of one size have it in common
        disco: list[bytes] = []
        others: list[bytes] = []
        for packet in packets:
            if len(packet) != size:
                size = len(packet)
                head = HEADER.pack(FrameType.RECV_PACKET, KEY_BYTES + size) + source
            (disco if _is_disco(packet) else others).append(head + packet)
        self._relay.counters["queue full"] += self._disco.put(source, disco) + self._packets.put(source, others)
        self._relay.ready[self] = None

    def _handle_hello(self, kind: int, payload: bytes) -> None:
        if kind != FrameType.CLIENT_INFO:
            raise Malformed("first frame", got=f"type {kind:#04x}", want="ClientInfo")
        relay = self._relay
        info = ClientInfo.parse(payload)
        if info.key.is_zero:
            raise Malformed("ClientInfo key", got="zero", want="a node key")
        ClientDetails.open(info, relay.key)
        if not relay.admits(info.key):
            relay.counters["not admitted"] += 1
            self.close("not a node of this tailnet")
            return
        self.put_note(ServerDetails().seal(relay.key, info.key, relay.random).emit())
        self.key = info.key.raw
        relay.join(self)

    def _handle(self, kind: int, payload: bytes) -> None:
        if kind == FrameType.SEND_PACKET:  # else it was taken with others
            raise Malformed("SEND_PACKET payload", got=f"{len(payload)} bytes", want=f"at least {KEY_BYTES}")
        if kind == FrameType.PING:
            if len(payload) < PING_BYTES:
                raise Malformed("PING payload", got=f"{len(payload)} bytes", want=f"at least {PING_BYTES}")
            if not self._pong:
                self._pong = Pong(payload[:PING_BYTES]).emit()
                self._relay.ready[self] = None
        elif kind == FrameType.NOTE_PREFERRED:
            self.is_home = NotePreferred.parse(payload).preferred
        elif kind in _MESH:
            raise Malformed("frame", got=FrameType(kind).name, want="none of a mesh")

    def _handle_packets(self, destination: bytes, packets: Sequence[bytes], now: float) -> None:
        if self._relay.deliver(destination, self.key, packets):
            return
        for _ in filter(_is_disco, packets):
            if self._gone_bucket.has(1.0, now):
                self.put_note(PeerGone(PublicKey(destination), PeerGoneReason.NOT_HERE).emit())


def _is_disco(packet: bytes) -> bool:
    return packet.startswith(DISCO_MAGIC) and len(packet) >= DISCO_MIN_BYTES

# SPDX-License-Identifier: BSD-3-Clause
"""One connection to a relay, from the first byte inside TLS to the last.

    bytes of the relay ─► receive ─────┐                     ┌─► data_to_send   all frames that are due, in one piece
    packets for peers ──► send         ├─► phase, limits ────┼─► next_event     Received, Connected, Disconnected, …
    the time ───────────► handle_timer ┘                     └─► next_timer

    UPGRADE ── 101 ──► HELLO ── ServerKey ──► INFO ── ServerInfo ──► OPEN        any of them ── an error ──► CLOSED
       our request                our ClientInfo, packets may follow

With a fast start we know the relay's key from its certificate, so request and ClientInfo leave together and we begin
in INFO; there is no HTTP answer then, but a ServerKey all the same. `_NEXT` says which frame is legal when and what
follows; a known frame without an entry there is a protocol error. A frame that is too short for its layout is counted
and passed over, as is one of an unknown type; what breaks the hello or a limit ends the connection.

The relay says something at least every 60 s or so; after 120 s of silence we give up. The whole hello has 10 s.
`probe` asks at once (after a change of networks): no answer within 3 s ends the connection.

Source: tailscale's derp/derp_client.go and derp/derphttp; our notes on DERP, sections 1.2, 2, 3.
"""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import h11

from ts4nsnet.derp import frames
from ts4nsnet.derp.errors import DerpError, Drop, Lost, Malformed, Refused
from ts4nsnet.derp.events import (
    Connected,
    Disconnected,
    Event,
    HealthChanged,
    PeerGone,
    Probed,
    Received,
    Restarting,
)
from ts4nsnet.derp.frames import FrameType
from ts4nsnet.derp.hello import ClientDetails, Random, ServerDetails
from ts4nsnet.keys import KEY_BYTES, PrivateKey, PublicKey

CONNECT_TIME = 10.0  # seconds from the first packet to ServerInfo; the reference, all of DNS to the hello
SILENCE_TIME = 120.0  # seconds without a frame; twice the server's keep-alive
PROBE_TIME = 3.0  # seconds; the reference, after a rebind
SEND_OVERHEAD_BYTES = frames.HEADER.size + KEY_BYTES  # what the token bucket counts besides the packet


# --- phases -----------------------------------------------------------------------------------------------------------


class Phase(Enum):
    """What we wait for."""

    UPGRADE = "upgrade"  # the relay's HTTP answer
    HELLO = "hello"  # its key
    INFO = "info"  # its description; we may send already
    OPEN = "open"
    CLOSED = "closed"


_AFTER_HELLO = (
    FrameType.SERVER_KEY,  # of a fast start; it says what we know
    FrameType.RECV_PACKET,
    FrameType.KEEP_ALIVE,
    FrameType.PEER_GONE,
    FrameType.PEER_PRESENT,
    FrameType.PING,
    FrameType.PONG,
    FrameType.HEALTH,
    FrameType.RESTARTING,
)
_NEXT: Mapping[tuple[Phase, FrameType], Phase] = {
    (Phase.HELLO, FrameType.SERVER_KEY): Phase.INFO,
    (Phase.INFO, FrameType.SERVER_INFO): Phase.OPEN,
    (Phase.OPEN, FrameType.SERVER_INFO): Phase.OPEN,  # other limits from now on
    **{(phase, kind): phase for phase in (Phase.INFO, Phase.OPEN) for kind in _AFTER_HELLO},
}


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """What a connection has done so far."""

    phase: Phase
    packets_sent: int
    packets_received: int
    last_frame_at: float
    dropped: Mapping[Drop, int]


class Client:
    """A connection to a relay.

    Nothing is queued here beyond one write: who sends hands over as much as `data_to_send` shall give at once.

    Args:
        region_id: how events name the relay.
        key: our node key.
        random: yields unpredictable bytes (`os.urandom`).
        now: seconds; the hello's time runs from here.
        host: the relay's host name for HTTP, with the port unless it is 443.
        server_key: from its metacert, for a fast start.
        ideal_node: the name of the region's first node if this is another one.
        preferred: whether this is our home region.
    """

    def __init__(
        self,
        region_id: int,
        key: PrivateKey,
        random: Random,
        now: float,
        *,
        host: str,
        server_key: PublicKey | None = None,
        ideal_node: str = "",
        preferred: bool = False,
    ) -> None:
        self.preferred = preferred  # may be changed at any time: the relay is told
        self.last_frame_at = now
        self._region_id = region_id
        self._key = key
        self._random = random
        self._phase = Phase.UPGRADE
        self._server_key = server_key
        self._told_preferred = False  # what the relay takes us for
        self._deadline_at = now + CONNECT_TIME
        self._probed_at: float | None = None
        self._probe = b""
        self._pong = b""  # the newest ping's data; older ones are not answered any more
        self._http = h11.Connection(h11.CLIENT)
        self._stream = frames.FrameBuffer(frames.CLIENT_LIMITS)
        self._bucket: TokenBucket | None = None
        self._out: list[bytes] = [self._request(host, ideal_node)]
        self._events: deque[Event] = deque()
        self._packets_sent = self._packets_received = 0
        self._dropped: Counter[Drop] = Counter()
        if server_key is not None:
            self._say_hello(server_key)

    # --- the five verbs -----------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the relay; none of them: it has ended the connection."""
        if self._phase is Phase.CLOSED:
            return
        try:
            if not data:
                raise self._end_of_stream()
            if self._phase is Phase.UPGRADE:
                data = self._upgrade(data)
            self._stream.receive(data)
            while self._phase is not Phase.UPGRADE and self._take_next(now):
                self.last_frame_at = now
        except DerpError as error:
            self._close(error)

    def send(self, peer: PublicKey, packet: bytes, now: float) -> None:
        """Send a packet with the next write. It is dropped, and counted, if it is too large or too early."""
        if not self.is_ready:
            self._dropped[Drop.NOT_READY] += 1
        elif len(packet) > frames.MAX_PACKET_BYTES:
            self._dropped[Drop.PACKET_TOO_LARGE] += 1
        elif self._bucket and not self._bucket.take(SEND_OVERHEAD_BYTES + len(packet), now):
            self._dropped[Drop.RATE_LIMITED] += 1
        else:
            self._packets_sent += 1
            head = frames.HEADER.pack(FrameType.SEND_PACKET, KEY_BYTES + len(packet))
            self._out += (head, peer.raw, packet)

    def probe(self, now: float) -> None:
        """Ask whether the relay is there; without an answer in time the connection ends. One probe at a time."""
        if self._phase is Phase.OPEN and self._probed_at is None:
            self._probed_at = now
            self._probe = self._random(frames.PING_BYTES)
            self._out.append(frames.Ping(self._probe).emit())

    def data_to_send(self) -> bytes:
        """Everything that is to leave now, for one write."""
        if self.is_ready and self.preferred != self._told_preferred:
            self._told_preferred = self.preferred
            self._out.append(frames.NotePreferred(self.preferred).emit())
        if self._pong:
            self._out.append(frames.Pong(self._pong).emit())
            self._pong = b""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def next_event(self) -> Event | None:
        """The next thing that happened, or None."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called; None: the connection is over."""
        if self._phase is Phase.CLOSED:
            return None
        at = self.last_frame_at + SILENCE_TIME if self._phase is Phase.OPEN else self._deadline_at
        return at if self._probed_at is None else min(at, self._probed_at + PROBE_TIME)

    def handle_timer(self, now: float) -> None:
        """Do what is due; nothing before its time."""
        at = self.next_timer()
        if at is None or now < at:
            return
        if self._phase is not Phase.OPEN:
            self._close(Lost(f"no hello from the relay within {CONNECT_TIME:g} s, waited for: {self._phase.value}"))
        elif self._probed_at is not None:
            self._close(Lost(f"no answer to a ping within {PROBE_TIME:g} s"))
        else:
            self._close(Lost(f"nothing from the relay for {SILENCE_TIME:g} s"))

    # --- what can be asked --------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether packets can be sent."""
        return self._phase in (Phase.INFO, Phase.OPEN)

    @property
    def wants_write(self) -> bool:
        """Whether `data_to_send` has something."""
        return bool(self._out or self._pong) or (self.is_ready and self.preferred != self._told_preferred)

    def statistics(self) -> ClientStatistics:
        """What happened so far."""
        return ClientStatistics(
            self._phase, self._packets_sent, self._packets_received, self.last_frame_at, dict(self._dropped)
        )

    # --- the hello ----------------------------------------------------------------------------------------------------

    def _request(self, host: str, ideal_node: str) -> bytes:
        headers = [("Host", host), ("Connection", "Upgrade"), ("Upgrade", "DERP")]
        if ideal_node:
            headers.append(("Ideal-Node", ideal_node))
        if self._server_key is not None:
            headers.append(("Derp-Fast-Start", "1"))
        try:
            request = self._http.send(h11.Request(method="GET", target="/derp", headers=headers))
        except h11.LocalProtocolError:
            raise Malformed("relay's host or node name", got=repr((host, ideal_node)), want="one for HTTP") from None
        self._http.send(h11.EndOfMessage())
        return request or b""

    def _upgrade(self, data: bytes) -> bytes:
        # what of `data` is behind the HTTP answer, when that is complete; frames may share its last segment
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    raise Refused(f"relay: got HTTP status {event.status_code}, want 101: is this a relay?")
                if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                    self._phase = Phase.HELLO
                    return self._http.trailing_data[0]
        except h11.RemoteProtocolError as error:
            raise Malformed("relay's answer", got=f"no HTTP ({error})", want="status 101") from None
        return b""

    def _say_hello(self, server_key: PublicKey) -> None:
        self._server_key = server_key
        self._out.append(ClientDetails().seal(self._key, server_key, self._random).emit())
        self._phase = Phase.INFO

    def _end_of_stream(self) -> DerpError:
        if self._phase is Phase.INFO:
            return Refused("the relay has ended the connection instead of its hello; is this node registered?")
        return Lost(f"the relay has ended the connection in phase {self._phase.value}")

    # --- frames -------------------------------------------------------------------------------------------------------

    def _take_next(self, now: float) -> bool:
        """Take the next frame, or all packets of one peer that are next; False: there is none."""
        if self.is_ready:
            source, packets = self._stream.next_packets(FrameType.RECV_PACKET)
            if packets:
                self._packets_received += len(packets)
                self._events.append(Received(self._region_id, PublicKey(source), tuple(packets)))
                return True
        frame = self._stream.next_frame()
        if frame is not None:
            self._take(*frame, now)
        return frame is not None

    def _take(self, kind: int, payload: bytes, now: float) -> None:
        try:
            known = FrameType(kind)
        except ValueError:
            if self._phase is Phase.HELLO:
                raise Malformed("first frame", got=f"type {kind:#04x}", want="SERVER_KEY") from None
            self._dropped[Drop.FRAME_UNKNOWN] += 1
            return
        following = _NEXT.get((self._phase, known))
        if following is None:
            raise Malformed(f"frame in phase {self._phase.value}", got=known.name, want="one of the protocol's")
        try:
            frame = frames.parse(kind, payload)
        except Malformed:
            if following is not self._phase:  # part of the hello
                raise
            self._dropped[Drop.FRAME_MALFORMED] += 1
        else:
            self._act(frame, now)
            self._phase = following

    def _act(self, frame: frames.Frame | None, now: float) -> None:
        match frame:
            case frames.PeerGone(peer, reason):
                self._events.append(PeerGone(self._region_id, peer, reason))
            case frames.ServerKey(key) if self._phase is Phase.HELLO:
                self._say_hello(key)
            case frames.ServerInfo():
                self._learn(frame, now)
            case frames.Ping(data):
                self._pong = data
            case frames.Pong(data) if self._probed_at is not None and data == self._probe:
                self._events.append(Probed(self._region_id, now - self._probed_at))
                self._probed_at = None
            case frames.Health(problem):
                self._events.append(HealthChanged(self._region_id, problem))
            case frames.Restarting(reconnect_time):
                self._events.append(Restarting(self._region_id, reconnect_time))

    def _learn(self, info: frames.ServerInfo, now: float) -> None:
        assert self._server_key is not None  # noqa: S101 - there is no way to this phase without it
        details = ServerDetails.open(info, self._key, self._server_key)
        self._bucket = None
        if details.bytes_per_second:
            self._bucket = TokenBucket(details.bytes_per_second, details.burst_bytes, now)
        if self._phase is Phase.INFO:
            self._events.append(Connected(self._region_id, self._server_key))

    def _close(self, error: DerpError) -> None:
        self._phase = Phase.CLOSED
        self._out.clear()
        self._pong = b""
        self._events.append(Disconnected(self._region_id, error))


class TokenBucket:
    """How much may be sent: `rate` bytes a second, after a pause up to `burst` bytes at once.

    A relay that says no burst gets no more than one largest frame at once.
    """

    def __init__(self, rate: int, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = burst or SEND_OVERHEAD_BYTES + frames.MAX_PACKET_BYTES
        self._tokens = float(self._burst)
        self._filled_at = now

    def take(self, size: int, now: float) -> bool:
        """Whether `size` bytes (a whole frame) may leave now; if so they are taken off."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if size > self._tokens:
            return False
        self._tokens -= size
        return True

# SPDX-License-Identifier: BSD-3-Clause
"""HTTP/2 over a ts2021 channel, by prior knowledge: many requests on one connection, both sides.

    bytes of the connection ─► Channel.open ─► EarlyPayload.skip ─► h2 ─► next_event()
    data_to_send() ◄────────── Channel.seal ◄───────────────────── h2 ◄── request(), respond(), send_data()

The `h2` library does the protocol; what is ours is policy:

* Windows. Maps are megabytes: a stream may have 4 MiB under way, a connection 16 MiB. Who takes an event has taken its
  data, so windows are given back at once; a stream whose reader is slow does not exist here.
* Sending beyond the other side's window is queued per stream without limit of its own; a server whose client does not
  read looks at `queued_bytes` and resets the stream.
* A stream that is already gone swallows what is sent on it: its `StreamEnded` or `StreamReset` tells the story. Errors
  of the connection raise `ControlError`; after that the session is of no use but for a last `data_to_send()`.
* Header fields of requests are not validated: tailscale-rs sends a Host that differs from :authority.

Source: RFC 9113; control.md 3.4.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    PingAckReceived,
    ResponseReceived,
    WindowUpdated,
)
from h2.events import DataReceived as H2DataReceived
from h2.events import Event as H2Event
from h2.events import RemoteSettingsChanged as H2SettingsChanged
from h2.events import RequestReceived as H2RequestReceived
from h2.events import StreamEnded as H2StreamEnded
from h2.events import StreamReset as H2StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.ts2021 import Channel, EarlyPayload

# ours: see the essay; Go's client has 4 MiB and 1 GiB
STREAM_WINDOW_BYTES = 4 << 20
CONNECTION_WINDOW_BYTES = 16 << 20
# ours: as headscale
MAX_STREAMS = 250
_DEFAULT_WINDOW_BYTES = 65535  # RFC 9113, 6.9.2

Headers = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request's head has come (server)."""

    stream: int
    method: str
    path: str  # with the query
    headers: Headers  # names in lower case, without the pseudo-header fields


@dataclass(frozen=True, slots=True)
class HeadersReceived:
    """A response's head has come (client)."""

    stream: int
    status: int
    headers: Headers


@dataclass(frozen=True, slots=True)
class DataReceived:
    """A part of a body."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The other side has said all it had to say on this stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The other side has given up this stream; nothing more comes, nothing more is heard."""

    stream: int
    error_code: int  # RFC 9113, 7


@dataclass(frozen=True, slots=True)
class PingAnswered:
    """The other side lives."""

    data: bytes  # those of our ping


@dataclass(frozen=True, slots=True)
class WentAway:
    """The other side ends the connection; its streams are dead."""

    error_code: int


SessionEvent = RequestReceived | HeadersReceived | DataReceived | StreamEnded | StreamReset | PingAnswered | WentAway


class Session:
    """What both sides share; use `ClientSession` or `ServerSession`."""

    def __init__(self, channel: Channel, *, client: bool) -> None:
        self.channel = channel
        configuration = H2Configuration(client_side=client, header_encoding=None, validate_inbound_headers=client)
        self._h2 = H2Connection(configuration)
        settings = {
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        }
        self._h2.local_settings = Settings(client=client, initial_values=settings)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - _DEFAULT_WINDOW_BYTES)
        self._events: deque[SessionEvent] = deque()
        self._sending: set[int] = set()  # streams whose body of ours has not ended
        self._queued: dict[int, _Body] = {}  # those of them whose body waits for the other side's window
        self._early = b""

    def receive(self, data: bytes) -> None:
        """Take bytes of the connection; raises `ControlError`, and the connection is dead."""
        self._receive_plaintext(self.channel.open(data))

    def next_event(self) -> SessionEvent | None:
        """What has happened, the oldest first."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> bytes:
        """Bytes for the connection."""
        plaintext, self._early = self._early + self._h2.data_to_send(), b""
        return self.channel.seal(plaintext)

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send a part of a body, as the window allows; on a stream that is gone it is swallowed."""
        if stream not in self._sending:
            return
        body = self._queued.setdefault(stream, _Body())
        body.parts.append(data)
        body.end = body.end or end
        self._drain(stream)

    def queued_bytes(self, stream: int) -> int:
        """How much of a body waits because the other side does not read."""
        body = self._queued.get(stream)
        return sum(map(len, body.parts)) if body else 0

    def reset(self, stream: int) -> None:
        """Give a stream up (CANCEL); nothing happens if it is gone already."""
        self._forget(stream)
        try:
            self._h2.reset_stream(stream, ErrorCodes.CANCEL)
        except ProtocolError:  # closed already, or never opened
            return

    def ping(self, data: bytes) -> None:
        """Ask whether the other side lives; 8 bytes, which `PingAnswered` repeats."""
        try:
            self._h2.ping(data)
        except ProtocolError as error:
            raise ControlError(f"HTTP/2: {_text(error)}") from None

    def _receive_plaintext(self, plaintext: bytes) -> None:
        if not plaintext:
            return
        try:
            events = self._h2.receive_data(plaintext)
        except ProtocolError as error:
            raise ControlError(f"HTTP/2: {_text(error)}") from None
        for event in events:
            self._translate(event)

    def _translate(self, event: H2Event) -> None:
        match event:
            case H2RequestReceived(stream_id=int(stream), headers=headers):
                fields = _decode(headers or [])
                method, path = fields.pop(":method", ""), fields.pop(":path", "")
                plain = {name: value for name, value in fields.items() if not name.startswith(":")}
                self._events.append(RequestReceived(stream, method, path, plain))
            case ResponseReceived(stream_id=int(stream), headers=headers):
                fields = _decode(headers or [])
                status = fields.pop(":status", "")
                if not (status.isascii() and status.isdigit()):
                    raise ControlError(f"HTTP/2: got status {status!r}, want a number")
                self._events.append(HeadersReceived(stream, int(status), fields))
            case H2DataReceived(stream_id=int(stream), data=data, flow_controlled_length=int(length)):
                if length:
                    self._h2.acknowledge_received_data(length, stream)
                if data:
                    self._events.append(DataReceived(stream, bytes(data)))
            case H2StreamEnded(stream_id=int(stream)):
                self._events.append(StreamEnded(stream))
            case H2StreamReset(stream_id=int(stream), error_code=code):
                self._forget(stream)
                self._events.append(StreamReset(stream, int(code or 0)))
            case PingAckReceived(ping_data=bytes(data)):
                self._events.append(PingAnswered(data))
            case ConnectionTerminated(error_code=code):
                self._sending.clear()
                self._queued.clear()
                self._events.append(WentAway(int(code or 0)))
            case WindowUpdated() | H2SettingsChanged():
                for stream in list(self._queued):
                    self._drain(stream)
            case _:
                pass  # trailers, priorities, informational heads: nothing that we use

    def _drain(self, stream: int) -> None:
        """Send of a stream's queue what the window allows."""
        body = self._queued[stream]
        try:
            while body.parts or body.end:
                part = body.parts.popleft() if body.parts else b""
                allowed = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size)
                now, later = part[:allowed], part[allowed:]
                if part and not now:
                    body.parts.appendleft(part)
                    return
                if later:
                    body.parts.appendleft(later)
                last = body.end and not body.parts
                self._h2.send_data(stream, now, end_stream=last)
                if last:
                    self._sending.discard(stream)
                    break
        except ProtocolError:
            self._forget(stream)  # gone, and the reader of our events learns it from them
        else:
            del self._queued[stream]

    def _forget(self, stream: int) -> None:
        self._sending.discard(stream)
        self._queued.pop(stream, None)


class ClientSession(Session):
    """The client's side.

    Args:
        channel: from `ts2021.ClientHandshake`.
        rest: its `rest`; raises `ControlError` as `receive` does.
    """

    def __init__(self, channel: Channel, rest: bytes = b"") -> None:
        super().__init__(channel, client=True)
        self._skipper = EarlyPayload()
        self.receive(rest)

    def receive(self, data: bytes) -> None:
        """Take bytes of the connection; raises `ControlError`, and the connection is dead."""
        self._receive_plaintext(self._skipper.skip(self.channel.open(data)))

    def request(self, method: str, path: str, headers: Headers, body: bytes, authority: str) -> int:
        """Send a request; its stream. Raises `ControlError` if the connection takes no more."""
        try:
            stream = self._h2.get_next_available_stream_id()
            pseudo = [(":method", method), (":scheme", "https"), (":authority", authority), (":path", path)]
            self._h2.send_headers(stream, [*pseudo, *headers.items()], end_stream=not body)
        except ProtocolError as error:
            raise ControlError(f"HTTP/2: {_text(error)}") from None
        if body:
            self._sending.add(stream)
            self.send_data(stream, body, end=True)
        return stream


class ServerSession(Session):
    """The server's side.

    Args:
        channel: from `ts2021.accept`.
        early: what to say before HTTP/2, see `ts2021.early_payload`.
    """

    def __init__(self, channel: Channel, early: bytes = b"") -> None:
        super().__init__(channel, client=False)
        self._early = early

    def respond(
        self, stream: int, status: int, headers: Headers | None = None, body: bytes = b"", *, end: bool = True
    ) -> None:
        """Answer a request; with `end=False` more follows by `send_data`. On a stream that is gone it is swallowed."""
        fields = [(":status", str(status)), *(headers or {}).items()]
        try:
            self._h2.send_headers(stream, fields, end_stream=end and not body)
        except ProtocolError:
            return
        if body or not end:
            self._sending.add(stream)
            self.send_data(stream, body, end=end)


class _Body:
    """What is still to be sent on a stream: any number of parts, none dropped; `queued_bytes` is for who minds."""

    __slots__ = ("end", "parts")

    def __init__(self) -> None:
        self.parts: deque[bytes] = deque()
        self.end = False


def _decode(headers: "list[tuple[bytes, bytes]]") -> dict[str, str]:
    return {bytes(name).decode("latin-1").lower(): bytes(value).decode("latin-1") for name, value in headers}


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__

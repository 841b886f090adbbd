# SPDX-License-Identifier: BSD-3-Clause
"""One ts2021 connection of a client: requests to the coordinator, answers and map frames back.

    reader   bytes ─► ServerSession ─► whole requests ─► Coordinator
    writer   wake ─► frames of the map streams, answers that had to wait ─► ServerSession ─► bytes

The writer takes frames only while little of the stream waits for the client's HTTP/2 window; what it leaves piles up in
the MapStream, which is bounded. A client that lets it overrun, or takes nothing for `WRITE_TIME`, is cut off.

The machine key that the handshake proved is who asks, in every request of the connection.

Source: control.md 3.3 to 3.6, 5.2.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.session import DataReceived, RequestReceived, ServerSession, StreamEnded, StreamReset, WentAway
from ts4nsnet.lab.control import PING_PATH, Coordinator, Outlet
from ts4nsnet.lab.errors import LabError, Refused
from ts4nsnet.lab.fanout import MapStream
from ts4nsnet.lab.http import JSON_TYPE, MAX_BODY_BYTES, RECEIVE_BYTES, TEXT_TYPE
from ts4nsnet.lab.registration import Reply
from ts4nsnet.lab.responses import Json, dump

WRITE_TIME = 30.0  # seconds for the bytes of one write
# ours: of a map stream, beyond the client's window; the rest waits where it is counted
MAX_WINDOW_BACKLOG_BYTES = 1 << 20
# ours: bodies that are being received on one connection
MAX_BODIES_BYTES = 4 << 20
BINARY_TYPE = "application/octet-stream"

# calls of Tailscale's own server that we do not have (control.md 3.5)
_NOT_HERE = (
    *("/machine/set-dns", "/machine/id-token", "/machine/update-health", "/machine/set-device-attr"),
    *("/machine/audit-log", "/machine/feature/", "/machine/webclient/", "/machine/tka/", "/machine/whoami"),
)


class Hub(Protocol):
    """What a link needs of the server that it belongs to."""

    coordinator: Coordinator
    outlets: dict[Outlet, Callable[[], None]]  # whom to wake when there is something to send

    def dispatch(self) -> None:
        """A verb of the coordinator was called: hand its events on."""


class Cut(LabError):
    """A client that does not read is cut off."""


@dataclass(slots=True)
class _Call:
    """A request whose body is coming."""

    method: str
    path: str
    body: bytearray = field(default_factory=bytearray)


class ControlLink:
    """One connection.

    Args:
        stream: where ts2021 records go.
        session: after the handshake.
        hub: the server.
    """

    def __init__(self, stream: trio.abc.Stream, session: ServerSession, hub: Hub) -> None:
        self._stream = stream
        self._session = session
        self._machine = session.channel.peer
        self._hub = hub
        self._calls: dict[int, _Call] = {}
        self._outlets: dict[int, MapStream | Reply] = {}  # by HTTP/2 stream
        self._wake = trio.Event()

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    async def run(self, rest: bytes) -> None:
        """Serve until the connection ends; `rest` is what was received already."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read(rest)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, ControlError, Cut) as group:
            self._hub.coordinator.counters[f"control: {type(group.exceptions[0]).__name__}"] += 1
        finally:
            self._close()

    async def _read(self, data: bytes | bytearray) -> None:
        while True:
            if data:
                self._session.receive(bytes(data))
                while (event := self._session.next_event()) is not None:
                    if isinstance(event, WentAway):
                        return
                    self._handle(event)
                self._hub.dispatch()
                self.wake()
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                return

    async def _write(self) -> None:
        while True:
            for stream, outlet in list(self._outlets.items()):
                self._fill(stream, outlet)
            data = self._session.data_to_send()
            if data:
                with trio.fail_after(WRITE_TIME):
                    await self._stream.send_all(data)
            await self._wake.wait()
            self._wake = trio.Event()

    def _fill(self, stream: int, outlet: MapStream | Reply) -> None:
        """Hand to HTTP/2 what there is for a stream."""
        session = self._session
        if isinstance(outlet, Reply):
            if outlet.body is not None:
                self._forget(stream)
                self._respond_json(stream, outlet.body)
            return
        if outlet.overrun:
            raise Cut("map stream: the client does not read")
        if session.queued_bytes(stream) > MAX_WINDOW_BACKLOG_BYTES:
            return
        for frame in outlet.take():
            session.send_data(stream, frame)
        if outlet.ended:
            session.send_data(stream, b"", end=True)
            self._forget(stream)

    def _handle(self, event: object) -> None:
        match event:
            case RequestReceived(stream=stream, method=method, path=path):
                self._calls[stream] = _Call(method, path.partition("?")[0])
            case DataReceived(stream=stream, data=data) if stream in self._calls:
                body = self._calls[stream].body
                body += data
                total = sum(len(each.body) for each in self._calls.values())
                if len(body) > MAX_BODY_BYTES or total > MAX_BODIES_BYTES:
                    del self._calls[stream]
                    self._refuse(stream, Refused(413, f"request body: want at most {MAX_BODY_BYTES} bytes"))
            case StreamEnded(stream=stream) if stream in self._calls:
                call = self._calls.pop(stream)
                try:
                    self._answer(stream, call)
                except Refused as refused:
                    self._refuse(stream, refused)
            case StreamReset(stream=stream):
                self._calls.pop(stream, None)
                self._abandon(stream)

    def _answer(self, stream: int, call: _Call) -> None:
        coordinator, body, now = self._hub.coordinator, bytes(call.body), trio.current_time()
        match call.method, call.path:
            case "POST", "/machine/register":
                reply = coordinator.register(self._machine, body, now)
                if reply.body is None:
                    self._remember(stream, reply)
                else:
                    self._respond_json(stream, reply.body)
            case "POST", "/machine/map":
                answer = coordinator.map(self._machine, body, now)
                if isinstance(answer, MapStream):
                    self._session.respond(stream, 200, {"content-type": BINARY_TYPE}, end=False)
                    self._remember(stream, answer)
                else:
                    self._session.respond(stream, 200, {"content-type": BINARY_TYPE}, answer)
            case (("HEAD" | "POST"), path) if path.startswith(PING_PATH):
                coordinator.answer_ping(path, self._machine, body)
                self._session.respond(stream, 200)
            case _, path if path.startswith(_NOT_HERE):
                raise Refused(501, "not implemented by this server")
            case _:
                raise Refused(404, "not found")

    def _respond_json(self, stream: int, value: Json) -> None:
        self._session.respond(stream, 200, {"content-type": JSON_TYPE}, dump(value).encode())

    def _refuse(self, stream: int, refused: Refused) -> None:
        self._hub.coordinator.counters[f"refused: {refused.status}"] += 1
        self._session.respond(stream, refused.status, {"content-type": TEXT_TYPE}, f"{refused}\n".encode())

    def _remember(self, stream: int, outlet: MapStream | Reply) -> None:
        self._outlets[stream] = outlet
        self._hub.outlets[outlet] = self.wake

    def _forget(self, stream: int) -> None:
        outlet = self._outlets.pop(stream, None)
        if outlet is not None:
            self._hub.outlets.pop(outlet, None)

    def _abandon(self, stream: int) -> None:
        """The client does not want this stream any more."""
        outlet = self._outlets.get(stream)
        self._forget(stream)
        if isinstance(outlet, MapStream):
            self._hub.coordinator.close_stream(outlet, trio.current_time())
        elif isinstance(outlet, Reply):
            self._hub.coordinator.registrar.forget(outlet)

    def _close(self) -> None:
        for stream in list(self._outlets):
            self._abandon(stream)
        self._hub.dispatch()

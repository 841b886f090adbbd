# SPDX-License-Identifier: BSD-3-Clause
"""HTTP/1.1 on an accepted connection: whole requests in, whole responses out, and the way out of HTTP.

`h11` does the protocol. A request has `REQUEST_TIME` for its head and body together, so whoever dawdles is cut. A
connection that speaks something else from now on (`/ts2021`, `/derp`) is taken over with `upgrade`: what was already
read beyond the request belongs to the new protocol.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

import h11
import trio

MAX_HEAD_BYTES = 16 << 10
MAX_BODY_BYTES = 1 << 20
REQUEST_TIME = 30.0  # seconds
RECEIVE_BYTES = 64 << 10

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def form(self) -> Mapping[str, str]:
        """The fields of a posted form; the first of several values."""
        return first_values(self.body.decode(errors="replace"))


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response."""

    status: int
    body: bytes = b""
    content_type: str = TEXT_TYPE
    headers: tuple[tuple[str, str], ...] = ()


def text_response(status: int, text: str) -> Response:
    """A line of text."""
    return Response(status, f"{text}\n".encode())


def first_values(query: str) -> Mapping[str, str]:
    """A query or form as a mapping; empty if it is too long to be true."""
    try:
        return {name: values[0] for name, values in parse_qs(query, True, max_num_fields=100).items()}
    except ValueError:
        return {}


class HttpConnection:
    """The server's side of a connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self.refused = 0  # the status by which we ended it, if what came was no HTTP

    async def next_request(self) -> Request | None:
        """The next request; None when the client has gone, took too long, or spoke no HTTP (which it was told)."""
        with trio.move_on_after(REQUEST_TIME):
            try:
                return await self._read_request()
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint, str(error))
            except trio.BrokenResourceError:
                return None
        return None

    async def respond(self, request: Request, response: Response) -> bool:
        """Answer; whether another request may come. Raises `trio.BrokenResourceError`, `trio.TooSlowError`."""
        headers = [
            ("Content-Length", str(len(response.body))),
            ("Content-Type", response.content_type),
            *response.headers,
        ]
        body = b"" if request.method == "HEAD" else response.body
        head = h11.Response(status_code=response.status, headers=headers)
        await self._send(head, h11.Data(data=body), h11.EndOfMessage())
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def upgrade(self, headers: Sequence[tuple[str, str]]) -> bytes:
        """Answer 101; what the client has already sent in the new protocol."""
        await self._send(h11.InformationalResponse(status_code=101, headers=[*headers], reason=b"Switching Protocols"))
        return self.take_over()

    def take_over(self) -> bytes:
        """End HTTP without an answer; what the client has already sent in the new protocol."""
        return self._http.trailing_data[0]

    async def _read_request(self) -> Request | None:
        head: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(bytes(await self._stream.receive_some(RECEIVE_BYTES)))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_BODY_BYTES:
                    raise h11.RemoteProtocolError("body too large", error_status_hint=413)
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return _request(head, bytes(body))
            else:
                return None

    async def _refuse(self, status: int, text: str) -> None:
        self.refused = status
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = f"{text}\n".encode()
            headers = [("Content-Length", str(len(body))), ("Content-Type", TEXT_TYPE), ("Connection", "close")]
            try:
                await self._send(h11.Response(status_code=status, headers=headers), h11.Data(data=body))
            except trio.BrokenResourceError:
                return

    async def _send(self, *events: h11.Event) -> None:
        data = b"".join(self._http.send(event) or b"" for event in events)
        with trio.fail_after(REQUEST_TIME):
            await self._stream.send_all(data)


def _request(head: h11.Request, body: bytes) -> Request:
    try:
        target = urlsplit(head.target.decode("latin-1"))
    except ValueError:
        raise h11.RemoteProtocolError("malformed request target") from None
    return Request(
        method=head.method.decode("latin-1"),
        path=unquote(target.path),
        query=first_values(target.query),
        headers={name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers},
        body=body,
    )

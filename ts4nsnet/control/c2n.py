# SPDX-License-Identifier: BSD-3-Clause
"""Requests of the server to the node ("c2n"), and its pings.

A map message may ask for a ping. Without a type it is a HEAD of an URL; `c2n` carries an HTTP/1.1 request for the node,
whose answer is POSTed, as raw HTTP, over the channel; the others are pings of peers, whose result is POSTed as JSON.

What we answer a c2n request is what can be said without asking anybody: that we are there, and that we have none of
the things that are asked for. Remote access (`/remoteapi`) and debugging are refused like any unknown path.

Source: control.md 3.6; tailscale ipn/ipnlocal/c2n.go.
"""

from dataclasses import dataclass
from http import HTTPStatus

import h11

from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.events import PingRequested, PingResult
from ts4nsnet.control.http import HttpRequest, parse_url
from ts4nsnet.control.messages import PingRequest

PING_TIME = 15.0  # seconds for the answer to a ping; as the reference
MAX_PENDING = 8
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


# path: the methods it has ("" any), and the answer
_ROUTES: dict[str, tuple[str, _Reply]] = {
    "/logtail/flush": ("POST", _Reply(204)),
    "/update": ("GET", _Reply(200, b'{"Enabled":false,"Supported":false,"Started":false}', _JSON)),
    "/posture/identity": ("GET", _Reply(200, b'{"PostureDisabled":true}', _JSON)),
    "/ssh/usernames": ("", _Reply(200, b'{"Usernames":[]}', _JSON)),
    "/vip-services": ("GET", _Reply(200, b'{"ServicesHash":""}', _JSON)),
}


def respond(payload: bytes) -> bytes:
    """The raw HTTP/1.1 response to the raw request in a ping's payload; never raises."""
    head_only = payload.startswith(b"HEAD ")
    try:
        request, body = _read(payload)
        reply = _handle(request, body)
    except h11.RemoteProtocolError as error:
        reply = _Reply(400, f"bad request: {error}\n".encode())
    # by hand: h11 rightly refuses to answer a connection that has failed, which this is none
    head = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"]
    if reply.status != 204:
        head += [f"Content-Type: {reply.content_type}", f"Content-Length: {len(reply.body)}"]
    return "\r\n".join([*head, "", ""]).encode() + (b"" if head_only else reply.body)


def _read(payload: bytes) -> tuple[h11.Request, bytes]:
    http = h11.Connection(h11.SERVER)
    http.receive_data(payload)
    http.receive_data(b"")
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        match event:
            case h11.Request():
                request = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage() if request is not None:
                return request, bytes(body)
            case _:
                raise h11.RemoteProtocolError("the request is cut off")


def _handle(request: h11.Request, body: bytes) -> _Reply:
    path = request.target.partition(b"?")[0].decode("ascii", "replace")
    if path == "/echo":
        return _Reply(200, body, "application/octet-stream")
    if path not in _ROUTES:
        return _Reply(400, b"unknown c2n path\n")
    method, reply = _ROUTES[path]
    if method and request.method.decode("ascii") != method:
        return _Reply(405, b"bad method\n")
    return reply


@dataclass(frozen=True, slots=True)
class ChannelAnswer:
    """An answer that goes over the channel."""

    method: str
    path: str
    body: bytes = b""


class Pings:
    """The server's pings: how to answer, and which to ignore. At most 8 wait for the node's result, the oldest goes."""

    def __init__(self) -> None:
        self.answered = 0
        self.ignored = 0
        self._last_url = ""
        self._waiting: dict[int, PingRequest] = {}

    def take(self, ping: PingRequest, number: int) -> ChannelAnswer | HttpRequest | PingRequested | None:
        """What to do about a ping; with a `PingRequested`, `finish(number, …)` follows. None: nothing."""
        if not ping.url or ping.url == self._last_url:
            self.ignored += 1
            return None
        self._last_url = ping.url
        kinds = tuple(filter(None, ping.types.split(",")))
        if not kinds:
            return self._answer(ping, "HEAD", b"", by_channel=ping.url_is_noise)
        if kinds == ("c2n",):
            return self._answer(ping, "POST", respond(ping.payload), by_channel=True)
        if ping.ip is None:
            self.ignored += 1
            return None
        if len(self._waiting) >= MAX_PENDING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[number] = ping
        return PingRequested(number, kinds, ping.ip)

    def finish(self, number: int, result: PingResult) -> ChannelAnswer | HttpRequest | None:
        """What to tell the server of a ping that the node has made."""
        ping = self._waiting.pop(number, None)
        return self._answer(ping, "POST", result.emit(), by_channel=ping.url_is_noise) if ping else None

    def _answer(
        self, ping: PingRequest, method: str, body: bytes, *, by_channel: bool
    ) -> ChannelAnswer | HttpRequest | None:
        try:
            _, path = parse_url(ping.url)
        except ControlError:
            self.ignored += 1
            return None
        self.answered += 1
        if by_channel:
            return ChannelAnswer(method, path, body)
        return HttpRequest(method, ping.url, body=body, timeout=PING_TIME)

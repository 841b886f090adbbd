# SPDX-License-Identifier: BSD-3-Clause
"""The LocalAPI: what a node answers, on the Unix socket in its folder, to those who own it.

    GET /localapi/v0/status[?peers=false]       ipnstate.Status
    GET /localapi/v0/whois?addr=IP[:PORT]       apitype.WhoIsResponse; `addr` may be a node key (`nodekey:…`), too

HTTP/1.1 (h11) with Tailscale's paths and forms, so what speaks to tailscaled speaks to us: `tailscale --socket=…
status`, its Go and Rust clients, `curl --unix-socket`. Everything here reads; nothing can be changed this way yet.

Who may ask: the socket is 0600 in a folder that is 0700, and the kernel says who connects (SO_PEERCRED): our own user,
and root. Whoever else got hold of a descriptor is cut off.

Limits, all ours: 16 connections, more are closed at once; a request has 16 KiB and comes within 30 seconds, or the
connection is closed; the answer is taken as quickly. The view is made in the node's own thread and is frozen; the JSON
of ten thousand peers is then made in another, so that packets do not wait for it.

Source: ipn/localapi of tailscale; unix(7).
"""

import json
import os
import re
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import h11
import trio

from ts4nsnet.control.node import Address
from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keeper.folder import socket_address
from ts4nsnet.keys import NODE_PREFIX, InvalidKey, PublicKey
from ts4nsnet.node.ipnstate import find, find_key, status_json, whois_json
from ts4nsnet.node.view import View

PREFIX = "/localapi/v0/"
# ours, all of these
MAX_CONNECTIONS = 16
MAX_REQUEST_BYTES = 16 << 10
REQUEST_TIME = 30.0  # seconds; until a request is there, and for taking the whole answer
_UCRED = struct.Struct("iII")  # pid, uid, gid
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[^]]*)\]|(?P<v4>[^:]*)):\d{1,5}", re.ASCII)
# as Go's strconv.ParseBool
_FALSE = frozenset(("0", "f", "F", "false", "FALSE", "False"))


class LocalApiError(Ts4nsnetError):
    """The socket cannot be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Response:
    """What a request is answered."""

    status: int
    body: bytes
    content_type: str = "application/json"


def answer(method: str, target: str, view: View) -> Response:
    """Answer one request about the node as it is.

    Args:
        method: of HTTP.
        target: path and query, not decoded.
        view: the node.
    """
    try:
        path, query = _split(target)
        handler = _HANDLERS.get(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
        if handler is None:
            return _text(404, f"not found; want one of {', '.join(PREFIX + name for name in _HANDLERS)}")
        if method not in ("GET", "HEAD"):
            return _text(405, "want GET")
        return handler(view, query)
    except _BadRequest as error:
        return _text(400, str(error))


async def serve(
    path: Path, view: Callable[[], View], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answer at a Unix socket until cancelled: `await nursery.start(serve, path, view)`.

    Args:
        path: of the socket; what is there is replaced. It stays behind: who owns the folder removes it.
        view: called for each request.
        task_status: told when the socket listens.

    Raises:
        LocalApiError: there is no socket to be had.
    """
    server = _Server(view)
    async with trio.SocketListener(_listen(path)) as listener:
        task_status.started()
        await trio.serve_listeners(server.handle, [listener])


class _Server:
    """All connections of a socket."""

    def __init__(self, view: Callable[[], View]) -> None:
        self._view = view
        self._connections = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, to its end."""
        self._connections += 1
        try:
            async with stream:
                if self._connections <= MAX_CONNECTIONS and _is_ours(stream.socket):
                    with suppress(trio.BrokenResourceError, trio.TooSlowError):
                        await self._converse(_Connection(stream))
        finally:
            self._connections -= 1

    async def _converse(self, connection: "_Connection") -> None:
        while (request := await connection.next_request()) is not None:
            method, target = request.method.decode("ascii"), request.target.decode("latin-1")
            response = await trio.to_thread.run_sync(answer, method, target, self._view(), abandon_on_cancel=True)
            if not await connection.respond(response, with_body=method != "HEAD"):
                return


class _Connection:
    """HTTP on a stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_BYTES)

    async def next_request(self) -> h11.Request | None:
        """The head of the next request; None when the client has gone, or was told that this is no HTTP."""
        try:
            with trio.fail_after(REQUEST_TIME):
                return await self._read()
        except h11.RemoteProtocolError as error:
            await self.respond(_text(error.error_status_hint, str(error)))
            return None

    async def respond(self, response: Response, *, with_body: bool = True) -> bool:
        """Answer; whether another request may come: not after one with a body, which nobody reads."""
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        if response.status == 405:
            headers.append(("Allow", "GET, HEAD"))
        if self._http.their_state is h11.SEND_BODY:
            headers.append(("Connection", "close"))
        head = h11.Response(status_code=response.status, headers=headers)
        events = (head, h11.Data(data=response.body if with_body else b""), h11.EndOfMessage())
        with trio.fail_after(REQUEST_TIME):
            await self._stream.send_all(b"".join(self._http.send(event) or b"" for event in events))
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _read(self) -> h11.Request | None:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self._stream.receive_some(MAX_REQUEST_BYTES)))
        if not isinstance(event, h11.Request):
            return None
        self._http.next_event()  # its end, where it has no body
        return event


def _status(view: View, query: Mapping[str, str]) -> Response:
    return _json(status_json(view, peers=query.get("peers") not in _FALSE))


def _whois(view: View, query: Mapping[str, str]) -> Response:
    text = query.get("addr", "")
    node = find_key(view, _key(text)) if text.startswith(NODE_PREFIX) else find(view, _address(text))
    found = whois_json(view, node) if node else None
    return _json(found) if found else _text(404, f"addr: no node of this tailnet has {text}")


_HANDLERS: Mapping[str, Callable[[View, Mapping[str, str]], Response]] = {"status": _status, "whois": _whois}


class _BadRequest(LocalApiError):
    """A parameter is not what it should be."""


def _split(target: str) -> tuple[str, Mapping[str, str]]:
    """Path and query of a request's target, decoded; the first of several values."""
    try:
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
    except ValueError as error:
        raise _BadRequest(f"request target: {error}") from None
    return unquote(parts.path), {name: values[0] for name, values in query.items()}


def _key(text: str) -> PublicKey:
    try:
        return PublicKey.from_text(text, NODE_PREFIX)
    except InvalidKey as error:
        raise _BadRequest(f"addr: {error}") from None


def _address(text: str) -> Address:
    match = _HOST_PORT.fullmatch(text)
    try:
        address = ip_address((match["v6"] or match["v4"]) if match else text)
    except ValueError:
        raise _BadRequest(f"addr: got {text!r}, want an address, address:port or nodekey:…") from None
    return getattr(address, "ipv4_mapped", None) or address


def _json(value: object) -> Response:
    # indented as Go's, and thereby made by the encoder in Python, which lets the node's thread run in between
    return Response(200, json.dumps(value, indent="\t").encode() + b"\n")


def _text(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(errors="replace"), "text/plain; charset=utf-8")


def _listen(path: Path) -> trio.socket.SocketType:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with socket_address(path) as address:
            sock.bind(address)
        path.chmod(0o600)
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        sock.close()
        raise LocalApiError(f"{path}: cannot listen there: {error.strerror}") from None
    return trio.socket.from_stdlib_socket(sock)


def _is_ours(sock: trio.socket.SocketType) -> bool:
    """Whether the other end was connected by our own user, or by root."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid in (0, os.geteuid())

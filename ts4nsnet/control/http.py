# SPDX-License-Identifier: BSD-3-Clause
"""One HTTP/1.1 request outside the channel, sans-I/O: the server's key, tokens, a ping's HEAD.

    HttpRequest ─► HttpExchange.data_to_send() ─► connection ─► HttpExchange.receive() ─► HttpResponse

By h11 and not by an HTTP client library: the adapter's `dial` already knows proxies, certificates and the race of
addresses, as the channel needs them anyway, so all our connections are trusted and routed by one piece of code; and the
same exchange runs over a test's bytes. One request a connection, no redirects, bodies of at most 1 MiB.

Requests and responses may hold secrets; neither shows headers or body.

Source: RFC 9110, RFC 9112.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import h11

from ts4nsnet.control.errors import ControlError

MAX_BODY_BYTES = 1 << 20
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an URL's server is."""

    tls: bool
    host: str
    port: int

    @property
    def authority(self) -> str:
        """`host`, or `host:port` where the port is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What to ask, and whom."""

    method: str
    url: str = field(repr=False)  # a token may be in it
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    timeout: float = 10.0  # seconds for all of it

    @property
    def origin(self) -> Origin:
        """The server of `url`; raises `ControlError`."""
        return parse_url(self.url)[0]


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What came back; header names in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The beginning of the body, for an error's text."""
        return self.body[:200].decode(errors="replace").strip()


def parse_url(url: str) -> tuple[Origin, str]:
    """An http(s) URL's server, and its path with the query; raises `ControlError`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ControlError("got an URL that cannot be read, want https://host[:port]/path") from None
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise ControlError(f"got an URL of kind {parts.scheme!r}, want https://host[:port]/path")
    if not (host.isascii() and host.isprintable()) or " " in host:
        raise ControlError("got an URL whose host has other characters than ASCII; write it as DNS does (xn--…)")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not (path.isascii() and path.isprintable()) or " " in path:
        raise ControlError("got an URL whose path has other characters than those of RFC 3986")
    return Origin(parts.scheme == "https", host, _DEFAULT_PORTS[parts.scheme] if port is None else port), path


class HttpExchange:
    """One request and its response over a connection of their own; raises `ControlError` for a bad URL or header."""

    __slots__ = ("_body", "_headers", "_http", "_out", "_status")

    def __init__(self, request: HttpRequest) -> None:
        origin, path = parse_url(request.url)
        self._http = h11.Connection(h11.CLIENT)
        headers = {"Host": origin.authority, "Connection": "close", **request.headers}
        if request.body or request.method not in ("GET", "HEAD"):
            headers["Content-Length"] = str(len(request.body))
        try:
            head = h11.Request(method=request.method, target=path, headers=list(headers.items()))
        except (h11.LocalProtocolError, UnicodeEncodeError):
            raise ControlError("HTTP: a header or URL of ours is not allowed; is a line break in a secret?") from None
        out = self._http.send(head) or b""
        if request.body:
            out += self._http.send(h11.Data(data=request.body)) or b""
        self._out = out + (self._http.send(h11.EndOfMessage()) or b"")
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body = bytearray()

    def data_to_send(self) -> bytes:
        """The request, once."""
        out, self._out = self._out, b""
        return out

    def receive(self, data: bytes) -> HttpResponse | None:
        """Take bytes, `b""` at the connection's end; the response when it is complete. Raises `ControlError`."""
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                match event:
                    case h11.Response():
                        self._status = event.status_code
                        self._headers = {
                            name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers
                        }
                    case h11.Data():
                        self._add(event.data)
                    case h11.EndOfMessage():
                        return HttpResponse(self._status, self._headers, bytes(self._body))
                    case h11.InformationalResponse():
                        pass
                    case h11.NEED_DATA:
                        return None
                    case _:  # h11 waits for ever where the server has changed the protocol
                        raise ControlError("HTTP: the server answers with something else than a response")
        except h11.RemoteProtocolError as error:
            raise ControlError(f"HTTP: the response cannot be read: {error}") from None

    def _add(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_BODY_BYTES:
            raise ControlError(f"HTTP: got a body of more than {MAX_BODY_BYTES} bytes")

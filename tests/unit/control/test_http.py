# SPDX-License-Identifier: BSD-3-Clause
"""One plain request: URLs, what is sent, what may come back."""

import pytest

from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.http import MAX_BODY_BYTES, HttpExchange, HttpRequest, HttpResponse, Origin, parse_url

GET = HttpRequest("GET", "https://h/p?q=1", {"Authorization": "hidden"})
HEAD_200 = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("url", "origin", "path", "authority"),
    [
        ("https://h", Origin(True, "h", 443), "/", "h"),
        ("http://H:8080/a?b=c#d", Origin(False, "h", 8080), "/a?b=c", "h:8080"),
        ("https://[fd00::1]/", Origin(True, "fd00::1", 443), "/", "[fd00::1]"),
        ("http://[fd00::1]:1/", Origin(False, "fd00::1", 1), "/", "[fd00::1]:1"),
        ("https://u:p@h:80/", Origin(True, "h", 80), "/", "h:80"),
    ],
)
def test_urls(url: str, origin: Origin, path: str, authority: str) -> None:
    assert parse_url(url) == (origin, path)
    assert origin.authority == authority


NO_URLS = ["", "h", "ftp://h", "https://", "http://h:x", "http://h:99999", "http://[", "http://h/ü", "http://ü/"]


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_of_ours(url: str) -> None:
    with pytest.raises(ControlError):
        parse_url(url)


def test_a_request_without_a_body() -> None:
    exchange = HttpExchange(GET)
    head = exchange.data_to_send()
    assert head.startswith(b"GET /p?q=1 HTTP/1.1\r\nHost: h\r\n")
    assert b"Content-Length" not in head
    assert exchange.data_to_send() == b""
    assert "hidden" not in repr(GET)


def test_a_request_with_a_body() -> None:
    data = HttpExchange(HttpRequest("POST", "http://h:1/", body=b"ask")).data_to_send()
    assert data.endswith(b"Content-Length: 3\r\n\r\nask")


@pytest.mark.parametrize("pieces", [1, 1000])
@pytest.mark.parametrize(
    ("stream", "body"),
    [
        (HEAD_200 + b"Content-Length: 4\r\n\r\ntell", b"tell"),
        (HEAD_200 + b"Transfer-Encoding: chunked\r\n\r\n4\r\ntell\r\n0\r\n\r\n", b"tell"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD_200 + b"Content-Length: 0\r\n\r\n", b""),
    ],
)
def test_a_response(stream: bytes, body: bytes, pieces: int) -> None:
    exchange = HttpExchange(GET)
    exchange.data_to_send()
    answers = [exchange.receive(stream[i : i + pieces]) for i in range(0, len(stream), pieces)]
    last = answers[-1]
    assert answers[:-1] == [None] * (len(answers) - 1)
    assert last is not None
    assert (last.status, last.body) == (200, body)


def test_a_response_that_ends_with_its_connection() -> None:
    exchange = HttpExchange(GET)
    exchange.data_to_send()
    assert exchange.receive(HEAD_200 + b"X-Y: z\r\n\r\nte") is None
    assert exchange.receive(b"ll") is None
    response = exchange.receive(b"")
    assert response is not None
    assert response.headers["x-y"] == "z"
    assert response.text == "tell"
    assert "tell" not in repr(response)


@pytest.mark.parametrize(
    ("stream", "end"),
    [
        (b"", True),
        (b"SSH-2.0\r\n\r\n", False),
        (HEAD_200 + b"Content-Length: 4\r\n\r\nte", True),
        (HEAD_200 + b"Content-Length: 9999999\r\n\r\n" + bytes(MAX_BODY_BYTES + 1), False),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", True),
    ],
)
def test_a_response_that_is_none(stream: bytes, end: bool) -> None:
    exchange = HttpExchange(GET)
    exchange.data_to_send()

    def receive() -> HttpResponse | None:
        if stream:
            exchange.receive(stream)
        return exchange.receive(b"") if end else None

    with pytest.raises(ControlError, match="HTTP"):
        receive()


@pytest.mark.parametrize("secret", ["hidden\nX: y", "hidden\u00fc"])
def test_a_secret_that_no_header_can_hold_is_not_sent(secret: str) -> None:
    with pytest.raises(ControlError, match="line break") as raised:
        HttpExchange(HttpRequest("GET", "https://h/", {"Authorization": secret}))
    assert "hidden" not in str(raised.value)


def test_a_server_that_changes_the_protocol_is_no_answer() -> None:
    exchange = HttpExchange(HttpRequest("CONNECT", "http://h/"))
    exchange.data_to_send()
    with pytest.raises(ControlError, match="something else"):
        exchange.receive(HEAD_200 + b"\r\n")


def test_where_a_request_goes() -> None:
    assert GET.origin == Origin(True, "h", 443)

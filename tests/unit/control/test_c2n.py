# SPDX-License-Identifier: BSD-3-Clause
"""What the server gets for a call to the node: the table of control.md 3.6."""

import pytest

from ts4nsnet.control.c2n import respond


def request(method: str, path: str, body: str = "", version: str = "1.1") -> bytes:
    return f"{method} {path} HTTP/{version}\r\nHost: node\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


CASES = [
    (request("POST", "/echo", "hi"), 200, b"hi"),
    (request("GET", "/echo?x=1", version="1.0"), 200, b""),
    (request("POST", "/logtail/flush"), 204, b""),
    (request("GET", "/update"), 200, b'{"Enabled":false,"Supported":false,"Started":false}'),
    (request("GET", "/posture/identity"), 200, b'{"PostureDisabled":true}'),
    (request("POST", "/ssh/usernames", "{}"), 200, b'{"Usernames":[]}'),
    (request("GET", "/vip-services"), 200, b'{"ServicesHash":""}'),
    (request("POST", "/update"), 405, b"bad method\n"),
    (request("GET", "/logtail/flush"), 405, b"bad method\n"),
    (request("GET", "/debug/goroutines"), 400, b"unknown c2n path\n"),
    (request("GET", "/remoteapi/localapi/v0/status"), 400, b"unknown c2n path\n"),
    (request("HEAD", "/echo"), 200, b""),
    (b"POST /echo HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 200, b"hi"),
]


@pytest.mark.parametrize(("payload", "status", "body"), CASES)
def test_calls(payload: bytes, status: int, body: bytes) -> None:
    head, _, data = respond(payload).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert data == body
    if status != 204 and not payload.startswith(b"HEAD"):
        assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize(
    "payload",
    [b"", b"x", b"GET /echo", request("POST", "/echo", "hi")[:-1], b"GET /echo HTTP/1.1\r\n\r\n", b"\x00\xff\r\n\r\n"],
)
def test_what_is_no_request_is_a_bad_one(payload: bytes) -> None:
    assert respond(payload).startswith(b"HTTP/1.1 400 Bad Request\r\n")

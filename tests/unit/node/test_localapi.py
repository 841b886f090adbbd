# SPDX-License-Identifier: BSD-3-Clause
"""The LocalAPI: its paths and errors, its socket, who may ask, and what a bad client costs."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.unit.node.views import BOB_KEY, OWN_KEY, view
from ts4nsnet.keys import NODE_PREFIX
from ts4nsnet.node.ipnstate import status_json
from ts4nsnet.node.localapi import (
    MAX_CONNECTIONS,
    MAX_REQUEST_BYTES,
    REQUEST_TIME,
    LocalApiError,
    Response,
    answer,
    serve,
)
from ts4nsnet.node.view import View

STATUS = "/localapi/v0/status"
WHOIS = "/localapi/v0/whois"


def text(response: Response) -> str:
    assert response.content_type == "text/plain; charset=utf-8"
    return response.body.decode()


# --- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "peers"),
    [
        (STATUS, 2),
        ("http://local-tailscaled.sock" + STATUS, 2),
        ("/localapi/v0/%73tatus", 2),
        (STATUS + "?peers=true", 2),
        (STATUS + "?peers=nonsense", 2),
        (STATUS + "?peers=", 2),
        (STATUS + "?other=false", 2),
        (STATUS + "?peers=false", 0),
        (STATUS + "?peers=0&peers=1", 0),
    ],
)
def test_status_with_and_without_peers(target: str, peers: int) -> None:
    response = answer("GET", target, view())
    assert (response.status, response.content_type) == (200, "application/json")
    assert json.loads(response.body) == status_json(view(), peers=peers > 0)
    assert len(json.loads(response.body)["Peer"]) == peers


@pytest.mark.parametrize(
    ("addr", "name"),
    [
        ("100.64.0.2", "bob"),
        ("100.64.0.2:80", "bob"),
        ("::ffff:100.64.0.2", "bob"),
        ("[::ffff:100.64.0.2]:80", "bob"),
        ("fd7a:115c:a1e0::1", "alice"),
        ("[fd7a:115c:a1e0::1]:65535", "alice"),
        ("100.64.0.9", "web"),
        (BOB_KEY.to_text(NODE_PREFIX), "bob"),
        (OWN_KEY.to_text(NODE_PREFIX), "web"),
    ],
)
def test_whois_takes_an_address_with_and_without_port_and_a_key(addr: str, name: str) -> None:
    response = answer("GET", f"{WHOIS}?addr={addr}", view())
    assert (response.status, response.content_type) == (200, "application/json")
    assert json.loads(response.body)["Node"]["Name"] == f"{name}.tail.example."


@pytest.mark.parametrize("addr", ["100.64.0.7", "192.0.2.1:80", "fe80::1%25eth0", NODE_PREFIX + "77" * 32])
def test_whois_of_a_stranger_is_not_found(addr: str) -> None:
    response = answer("GET", f"{WHOIS}?addr={addr}", view())
    assert response.status == 404
    assert text(response).startswith("addr: no node of this tailnet has ")


@pytest.mark.parametrize(
    "addr", ["", "alice", "100.64.0.1:", "100.64.0.1:x", "[100.64.0.1", "100.64.0.300", "[]:1", ":1", NODE_PREFIX + "7"]
)
def test_whois_of_what_is_no_address_is_a_bad_request(addr: str) -> None:
    response = answer("GET", f"{WHOIS}?addr={addr}", view())
    assert response.status == 400
    assert text(response).startswith("addr: ")
    assert answer("GET", WHOIS, view()).status == 400


@pytest.mark.parametrize("target", ["", "*", "/", "/localapi/v0/", "/localapi/v0/prefs", "/localapi/v0/status/", "//["])
def test_other_paths_are_not_there(target: str) -> None:
    response = answer("GET", target, view())
    assert response.status == (400 if target == "//[" else 404)
    assert text(response)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get"])
def test_nothing_can_be_changed(method: str) -> None:
    assert answer(method, STATUS, view()).status == 405
    assert answer(method, "/localapi/v0/logout", view()).status == 404


# --- the socket -----------------------------------------------------------------------------------------------------


class Client:
    """One connection of a test."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)
        self.headers: dict[bytes, bytes] = {}  # of the last answer

    async def ask(self, target: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
        """The answer's status and body."""
        headers = [("Host", "local-tailscaled.sock"), ("Content-Length", str(len(body)))]
        events = [h11.Request(method=method, target=target, headers=headers), h11.Data(data=body), h11.EndOfMessage()]
        await self.stream.send_all(b"".join(self.http.send(event) or b"" for event in events))
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        """The next answer's status and body."""
        status, found = 0, b""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.stream.receive_some())
            elif isinstance(event, h11.Response):
                status, self.headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                found += event.data
            else:
                if self.http.their_state is h11.DONE and self.http.our_state is h11.DONE:
                    self.http.start_next_cycle()
                return status, found


def connected(path: Path) -> AbstractAsyncContextManager[Client]:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        async with await trio.open_unix_socket(path) as stream:
            yield Client(stream)

    return connect()


@pytest.fixture
async def path(tmp_path: Path, nursery: trio.Nursery) -> Path:
    """A socket that answers."""
    await nursery.start(serve, tmp_path / "localapi.sock", view)
    return tmp_path / "localapi.sock"


async def test_a_connection_serves_many_requests(path: Path) -> None:
    async with connected(path) as client:
        for _ in range(3):
            status, body = await client.ask(STATUS)
            assert (status, json.loads(body)) == (200, status_json(view()))
            assert await client.ask(STATUS, "HEAD") == (200, b"")
            assert (await client.ask("/localapi/v0/prefs"))[0] == 404
            assert (await client.ask(STATUS, "DELETE"))[0] == 405


async def test_every_answer_shows_the_node_as_it_is_now(tmp_path: Path, nursery: trio.Nursery) -> None:
    names = iter(("one", "two"))
    await nursery.start(serve, tmp_path / "s", lambda: View(0.0, next(names)))
    async with connected(tmp_path / "s") as client:
        shown = [json.loads((await client.ask(STATUS))[1])["Self"]["HostName"] for _ in range(2)]
    assert shown == ["one", "two"]


async def test_a_body_is_not_read_and_ends_the_connection(path: Path) -> None:
    async with connected(path) as client:
        assert (await client.ask(STATUS, "POST", b"x" * 1000))[0] == 405
        assert (client.headers[b"allow"], client.headers[b"connection"]) == (b"GET, HEAD", b"close")
        assert await client.stream.receive_some() == b""


async def test_only_we_can_open_the_socket_and_an_old_one_is_replaced(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    await nursery.start(serve, path, view)
    assert path.stat().st_mode & 0o777 == 0o600
    async with connected(path) as client:
        assert (await client.ask(STATUS))[0] == 200


async def test_a_socket_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LocalApiError, match="missing/s: cannot listen there: No such file or directory"):
        await serve(tmp_path / "missing/s", view)


STRANGER = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setgroups([])
os.setresgid(12345, 12345, 12345)
os.setresuid(12345, 12345, 12345)
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(10)
    sock.connect("localapi.sock")
    print(sock.recv(1))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_cut_off_even_where_the_modes_are_wrong(path: Path) -> None:
    os.chmod(path.parent, 0o711)  # noqa: S103
    os.chmod(path, 0o666)  # noqa: S103
    command = [sys.executable, "-c", STRANGER, str(path.parent)]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.STDOUT, check=False)
    assert done.stdout == b"b''\n"


# --- bad clients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x00\xa5", 400),
        (b"GET /localapi/v0/status HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: ".ljust(2 * MAX_REQUEST_BYTES, b"y"), 431),
        (b"GET /localapi/v0/whois?addr=\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    ],
)
async def test_what_is_no_request_is_told_so(path: Path, sent: bytes, status: int) -> None:
    async with connected(path) as client:
        await client.stream.send_all(sent)
        client.http.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        assert (await client.answer())[0] == status
        assert await client.stream.receive_some() == b""
    async with connected(path) as client:
        assert (await client.ask(STATUS))[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
async def test_a_client_that_goes_away_costs_nothing(path: Path, sent: bytes) -> None:
    async with connected(path) as client:
        await client.stream.send_all(sent)
    async with connected(path) as client:
        assert (await client.ask(STATUS))[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
async def test_a_client_that_asks_nothing_is_cut(autojump_clock: MockClock, path: Path, sent: bytes) -> None:
    async with connected(path) as client:
        await client.stream.send_all(sent)
        assert await client.stream.receive_some() == b""
        assert autojump_clock.current_time() == pytest.approx(REQUEST_TIME)


async def test_a_client_that_takes_no_answer_is_cut(
    autojump_clock: MockClock, tmp_path: Path, nursery: trio.Nursery
) -> None:
    began_at = autojump_clock.current_time()
    health: Any = ("x" * 4_000_000,)  # more than a socket holds
    await nursery.start(serve, tmp_path / "s", lambda: View(0.0, "web", health=health))
    async with connected(tmp_path / "s") as client:
        await client.stream.send_all(b"GET /localapi/v0/status HTTP/1.1\r\nHost: x\r\n\r\n")
        received = len(await client.stream.receive_some(1))
        await trio.sleep(3 * REQUEST_TIME)
        while data := await client.stream.receive_some():
            received += len(data)
        assert 0 < received < 4_000_000
    assert autojump_clock.current_time() == pytest.approx(began_at + 3 * REQUEST_TIME)


async def test_too_many_connections_are_closed(path: Path) -> None:
    held = [Client(await trio.open_unix_socket(path)) for _ in range(MAX_CONNECTIONS)]
    for client in held:
        assert (await client.ask(STATUS))[0] == 200
    async with connected(path) as client:
        assert await client.stream.receive_some() == b""
    await held.pop().stream.aclose()
    await wait_all_tasks_blocked()
    async with connected(path) as client:
        assert (await client.ask(STATUS))[0] == 200
    for client in held:
        assert (await client.ask(STATUS))[0] == 200
        await client.stream.aclose()

# SPDX-License-Identifier: BSD-3-Clause
"""The API socket: its file, its clients, and the ports that they ask for."""

import json
import os
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ts4nsnet.node.hostfwd import KEPT, MAX_CLIENTS, MORE_TIME, REQUEST_TIME, ApiSocketError, serve
from ts4nsnet.node.statefile import Folder, StateError

GUEST = IPv4Address(f"127.81.{os.getpid() % 200}.100")
HOST = f"127.81.{os.getpid() % 200}.2"
PORT = 20081
LIST = b'{"execute":"list_hostfwd"}'
NONE = b'{"entries":[]}'
UNREADABLE = b'{"error":{"desc":"bad request: cannot parse JSON"}}'
TAKEN = b'{"error":{"desc":"bad request: add_hostfwd: slirp_add_hostfwd failed"}}'


async def open_socket(family: int, kind: int) -> socket.socket:
    """As if this were inside."""
    await trio.lowlevel.checkpoint()
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock


class Api:
    """The socket and what was said."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await serve(self.path, GUEST, open_socket, self.said.append, self.path.parent, task_status=task_status)

    async def ask(self, *segments: bytes, end: bool = True) -> bytes:
        """The answer to a request."""
        async with await trio.open_unix_socket(self.path) as stream:
            for segment in segments:
                await stream.send_all(segment)
                await wait_all_tasks_blocked()
            if end:
                await stream.send_eof()
            return b"".join([bytes(chunk) async for chunk in stream])

    async def execute(self, name: str, **arguments: object) -> Any:
        return json.loads(await self.ask(json.dumps({"execute": name, "arguments": arguments}).encode()))

    async def add(self, proto: str = "tcp", port: int = PORT) -> Any:
        return await self.execute("add_hostfwd", proto=proto, host_addr=HOST, host_port=port, guest_port=PORT)


@pytest.fixture
async def api(tmp_path: Path, nursery: trio.Nursery) -> Api:
    """A socket that answers."""
    made = Api(tmp_path / "api.sock")
    await nursery.start(made.run)
    return made


# --- ports ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("proto", ["tcp", "udp"])
async def test_a_port_from_its_beginning_to_its_end(api: Api, proto: str) -> None:
    assert await api.add(proto) == {"return": {"id": 1}}
    entry = {"id": 1, "proto": proto, "host_addr": HOST, "host_port": PORT, "guest_port": PORT}
    assert await api.execute("list_hostfwd") == {"entries": [entry | {"guest_addr": str(GUEST)}]}
    kind = socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
    with trio.socket.socket(socket.AF_INET, kind) as inner, trio.socket.socket(socket.AF_INET, kind) as client:
        inner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, proto == "tcp")
        await inner.bind((str(GUEST), PORT))
        if proto == "tcp":
            inner.listen()
        await client.connect((HOST, PORT))
        await client.send(b"hello")
        received = (await inner.accept())[0] if proto == "tcp" else inner
        assert await received.recv(100) == b"hello"
        received.close()
    assert await api.execute("remove_hostfwd", id=1) == {"return": {}}
    with socket.socket(socket.AF_INET, kind) as sock:  # free at once
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, proto == "tcp")
        sock.bind((HOST, PORT))
    assert (await api.execute("remove_hostfwd", id=1))["error"]["desc"].endswith(": bad arguments.id")
    assert await api.ask(LIST) == NONE


async def test_numbers_are_never_used_again(api: Api) -> None:
    assert [await api.add(port=PORT + n) for n in range(2)] == [{"return": {"id": 1}}, {"return": {"id": 2}}]
    await api.execute("remove_hostfwd", id=2)
    assert await api.add(port=PORT + 1) == {"return": {"id": 3}}
    listed = (await api.execute("list_hostfwd"))["entries"]
    assert [(entry["id"], entry["host_port"]) for entry in listed] == [(1, PORT), (3, PORT + 1)]


async def test_a_port_that_is_taken_is_refused_and_the_log_says_why(api: Api) -> None:
    await api.add()
    request = {"proto": "tcp", "host_addr": HOST, "host_port": PORT, "guest_port": PORT}
    assert await api.ask(json.dumps({"execute": "add_hostfwd", "arguments": request}).encode()) == TAKEN
    assert api.said == [f"publishing {HOST}:{PORT}/tcp to {GUEST}:{PORT}: Address already in use"]
    assert await api.add("udp") == {"return": {"id": 2}}


async def test_the_next_process_publishes_the_same(tmp_path: Path) -> None:
    """By the same numbers; what is taken meanwhile is left out, and it is said."""

    async def run(then: Callable[[Api], Awaitable[None]]) -> list[str]:
        async with trio.open_nursery() as nursery:
            api = Api(tmp_path / "s")
            await nursery.start(api.run)
            await then(api)
            nursery.cancel_scope.cancel()
        return api.said

    async def first(api: Api) -> None:
        for number in range(4):
            await api.add(port=PORT + number)
        for number in (4, 1):
            await api.execute("remove_hostfwd", id=number)

    async def second(api: Api) -> None:
        listed = (await api.execute("list_hostfwd"))["entries"]
        assert [(entry["id"], entry["host_port"]) for entry in listed] == [(2, PORT + 1)]
        assert await api.add(port=PORT) == {"return": {"id": 5}}

    assert await run(first) == []
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, PORT + 2))
        taken.listen()
        assert await run(second) == [f"publishing {HOST}:{PORT + 2}/tcp to {GUEST}:{PORT}: Address already in use"]


@pytest.mark.parametrize("data", [b"", b"[]", b'{"last":1}', b'{"last":1,"entries":[{"id":1}]}'])
async def test_a_file_of_somebody_else(tmp_path: Path, data: bytes) -> None:
    (tmp_path / KEPT).write_bytes(data)
    (tmp_path / KEPT).chmod(0o600)
    async with trio.open_nursery() as nursery:
        api = Api(tmp_path / "s")
        await nursery.start(api.run)
        assert await api.ask(LIST) == NONE
        nursery.cancel_scope.cancel()
    assert api.said[0].startswith("published ports are lost: ")
    assert len(api.said) == 1


async def test_a_full_disk_is_said_and_the_port_is_there(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StateError("no space left")

    monkeypatch.setattr(Folder, "write", full)
    assert await api.add() == {"return": {"id": 1}}
    assert api.said == ["published ports are lost if this process dies: no space left"]


# --- requests -------------------------------------------------------------------------------------------------------


async def test_no_end_is_needed(api: Api) -> None:
    assert await api.ask(LIST, end=False) == NONE


@pytest.mark.parametrize("size", [1, 2, 11])
async def test_a_request_may_come_in_pieces(api: Api, size: int) -> None:
    assert await api.ask(*(LIST[at : at + size] for at in range(0, len(LIST), size)), end=False) == NONE


@pytest.mark.parametrize("sent", [b"", b"{", LIST[:-1]])
async def test_what_ends_too_soon_is_answered(api: Api, sent: bytes) -> None:
    assert await api.ask(sent) == UNREADABLE


@pytest.mark.parametrize("sent", [b"x", b"{", LIST[:-1]])
async def test_what_does_not_go_on_is_answered(api: Api, autojump_clock: MockClock, sent: bytes) -> None:
    began = trio.current_time()
    assert await api.ask(sent, end=False) == UNREADABLE
    assert trio.current_time() - began == pytest.approx(MORE_TIME)


async def test_who_says_nothing_is_cut_off(api: Api, autojump_clock: MockClock) -> None:
    began = trio.current_time()
    assert await api.ask(end=False) == b""
    assert trio.current_time() - began == pytest.approx(REQUEST_TIME)


async def test_too_much_is_answered_without_its_end(api: Api) -> None:
    async with await trio.open_unix_socket(api.path) as stream:
        await stream.send_all(b"[" * 5000)
        assert await stream.receive_some() == b'{"error":{"desc":"bad request: too large message"}}'


async def test_a_silent_client_is_in_nobodys_way(api: Api) -> None:
    async with await trio.open_unix_socket(api.path):
        assert await api.ask(LIST) == NONE


async def test_a_client_that_goes_away_costs_nothing(api: Api) -> None:
    async with await trio.open_unix_socket(api.path) as stream:
        await stream.send_all(LIST)
    assert await api.ask(LIST) == NONE


async def test_too_many_clients_are_cut_off(api: Api) -> None:
    streams = [await trio.open_unix_socket(api.path) for _ in range(MAX_CLIENTS)]
    await wait_all_tasks_blocked()
    async with await trio.open_unix_socket(api.path) as stream:
        assert await stream.receive_some() == b""
    for stream in streams:
        await stream.aclose()
    await wait_all_tasks_blocked()
    assert await api.ask(LIST) == NONE


# --- the file -------------------------------------------------------------------------------------------------------


async def with_served(path: Path, then: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(Api(path).run)
        await then()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", ["socket", "file"])
async def test_what_was_there_is_replaced_and_at_the_end_nothing_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path)) if kind == "socket" else path.touch()

        async def look() -> None:
            assert path.stat().st_mode & 0o777 == 0o600
            assert await Api(path).ask(LIST) == NONE

        await with_served(path, look)
    assert not path.exists()


async def test_a_successors_socket_stays(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as successor:

        async def replace() -> None:
            (tmp_path / "s").unlink()
            successor.bind(str(tmp_path / "s"))

        await with_served(tmp_path / "s", replace)
        assert (tmp_path / "s").exists()


async def test_a_file_that_has_gone_is_no_trouble(tmp_path: Path) -> None:
    async def remove() -> None:
        (tmp_path / "s").unlink()

    await with_served(tmp_path / "s", remove)


async def test_a_socket_that_cannot_be_had_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ApiSocketError, match=r"missing/s: cannot listen there: No such file or directory"):
        await Api(tmp_path / "missing/s").run()
    with pytest.raises(ApiSocketError, match="cannot listen there: Is a directory"):
        await Api(tmp_path).run()

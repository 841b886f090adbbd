# SPDX-License-Identifier: BSD-3-Clause
"""The API socket against bytes from outside: an answer to whatever comes, and the next client is served as ever."""

import json
from collections.abc import Awaitable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from random import Random
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.node.hostfwd import serve
from ts4nsnet.node.hostfwd_requests import Add, BadRequest, List, Remove, is_complete, kept, parse, refused

GUEST = IPv4Address("10.0.2.100")
REQUESTS = (
    # of no protocol that there is: no port is ever published
    b'{"execute":"add_hostfwd","arguments":{"proto":"sctp","host_port":1,"guest_port":80}}',
    b'{"execute":"remove_hostfwd","arguments":{"id":1}}',
    b'{"execute":"list_hostfwd"}',
)
ARGUMENTS = ("execute", "arguments", "proto", "host_addr", "host_port", "guest_addr", "guest_port", "id")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(ARGUMENTS) | st.text(), values),
)


def check(data: bytes) -> None:
    """Any bytes are a request, or refused; and what is complete stays what it is."""
    try:
        request = parse(data, GUEST)
    except BadRequest as error:
        json.loads(refused(error))
        return
    assert isinstance(request, Add | List | Remove)
    assert is_complete(data)
    if len(data) < 4095:
        assert parse(data + b"x", GUEST) == request


@given(st.binary())
def test_any_bytes(data: bytes) -> None:
    check(data)


@given(JSON)
def test_any_json(value: object) -> None:
    check(json.dumps(value).encode())


@given(st.sampled_from(["add_hostfwd", "remove_hostfwd"]), st.dictionaries(st.sampled_from(ARGUMENTS), JSON))
def test_any_arguments(execute: str, arguments: dict[str, object]) -> None:
    check(json.dumps({"execute": execute, "arguments": arguments}).encode())
    check(json.dumps({"execute": execute, "arguments": {"proto": "tcp", **arguments}}).encode())


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_file(data: bytes) -> None:
    with suppress(ValueError):
        kept(data)


def mutant(random: Random) -> bytes:
    """A request with bytes changed, cut and put in."""
    data = bytearray(random.choice(REQUESTS))
    for _ in range(random.randint(0, 4)):
        at = random.randrange(len(data) + 1)
        match random.randrange(3):
            case 0:
                data[at : at + 1] = random.randbytes(1)
            case 1:
                del data[at : at + random.randint(1, 20)]
            case _:
                data[at:at] = random.choice((b"\0", b'"', b"{", b"1e9", b"\xff", bytes(data[:at])))
    return bytes(data)


def nothing(_family: int, _kind: int) -> Awaitable[Any]:
    raise AssertionError("nothing is published")


async def test_any_bytes_leave_the_server_well(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "s"
    await nursery.start(serve, path, GUEST, nothing, lambda _: None, tmp_path)
    random = Random(7)
    for _ in range(400):
        async with await trio.open_unix_socket(path) as stream:
            for part in cut(random, mutant(random)):
                try:
                    await stream.send_all(part)
                except trio.BrokenResourceError:  # it has its answer
                    break
            try:
                await stream.send_eof()
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(REQUESTS[2])
        assert await stream.receive_some() == b'{"entries":[]}'


def cut(random: Random, data: bytes) -> list[bytes]:
    """The same in two segments."""
    at = random.randint(0, len(data))
    return [data[:at], data[at:]]

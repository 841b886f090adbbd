# SPDX-License-Identifier: BSD-3-Clause
"""What a node may say to its keeper, and what it may not."""

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.keeper import messages
from ts4nsnet.keeper.messages import MAX_MEMORY_BYTES, MAX_TEXT_CHARACTERS, Malformed, parse, received_fds

GOOD: list[dict[str, Any]] = [
    {"do": "ready"},
    {"do": "failed", "text": "the key is spent"},
    {"do": "tun", "id": 0},
    {"do": "udp", "id": 1},
    {"do": "netns", "id": 2**53},
    {"do": "counters", "id": 4},
    *({"do": "worker", "engine": engine} for engine in ("auto", "epoll", "uring")),
    {"do": "memory", "id": 3, "size": 1},
    {"do": "memory", "id": 3, "size": MAX_MEMORY_BYTES},
]


@pytest.mark.parametrize("message", GOOD, ids=str)
def test_a_message_is_read_as_it_was_written_and_what_else_it_has_is_left_out(message: dict[str, Any]) -> None:
    assert parse(json.dumps(message).encode()) == message
    assert parse(json.dumps(message | {"more": 1}).encode()) == message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"null",
        b"{}",
        b'{"do": "stop"}',
        b'{"do": ["ready"]}',
        b'{"do": "failed"}',
        b'{"do": "failed", "text": 7}',
        b'{"do": "worker"}',
        b'{"do": "worker", "id": 1}',
        b'{"do": "worker", "engine": "python"}',
        b'{"do": "worker", "engine": ["auto"]}',
        b'{"do": "tun"}',
        b'{"do": "tun", "id": true}',
        b'{"do": "tun", "id": -1}',
        b'{"do": "tun", "id": 1.0}',
        b'{"do": "tun", "id": 9007199254740993}',
        b'{"do": "memory", "id": 1}',
        b'{"do": "memory", "id": 1, "size": 0}',
        b'{"do": "memory", "id": 1, "size": 268435457}',
        b'{"do": "memory", "id": 1, "size": true}',
    ],
    ids=lambda data: data[:40],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed, match="message of the node process: want "):
        parse(data)


def test_a_text_is_one_line_of_bounded_length() -> None:
    text = "two\nlines\x1b[31m" + "x" * MAX_TEXT_CHARACTERS
    said = parse(json.dumps({"do": "failed", "text": text}).encode())["text"]
    assert said.startswith("two lines [31m")
    assert len(said) <= MAX_TEXT_CHARACTERS
    assert said.isprintable()


@given(st.text())
def test_any_text_is_fit_for_a_terminal(text: str) -> None:
    said = parse(json.dumps({"do": "failed", "text": text}).encode())["text"]
    assert said.isprintable()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_message_is_received_as_one(pair: tuple[socket.socket, socket.socket]) -> None:
    keeper, node = pair
    messages.send(node, {"do": "ready"})
    messages.send(node, {"do": "udp", "id": 1})
    assert messages.receive(keeper) == {"do": "ready"}
    assert messages.receive(keeper) == {"do": "udp", "id": 1}
    node.close()
    assert messages.receive(keeper) is None


def test_fds_go_to_the_node_and_none_are_taken_from_it(pair: tuple[socket.socket, socket.socket]) -> None:
    keeper, node = pair
    before = sorted(os.listdir("/proc/self/fd"))
    messages.send(node, {"do": "ready"}, [node.fileno()] * 5)
    assert messages.receive(keeper) == {"do": "ready"}
    assert sorted(os.listdir("/proc/self/fd")) == before
    messages.send(keeper, {"id": 1}, [keeper.fileno()] * 2)
    data, rights, _, _ = node.recvmsg(messages.MAX_MESSAGE_BYTES, messages.ANCILLARY_BYTES)
    fds = received_fds(rights)
    assert (data, len(fds)) == (b'{"id": 1}', 2)
    for fd in fds:
        assert os.path.samestat(os.fstat(fd), os.fstat(keeper.fileno()))
        os.close(fd)

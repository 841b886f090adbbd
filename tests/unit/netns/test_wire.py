# SPDX-License-Identifier: BSD-3-Clause
"""Messages of any size and their fds cross the socket; what does not arrive leaves no fd behind."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ts4nsnet.netns import wire

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    before = os.listdir("/proc/self/fd")
    one, two = socket.socketpair()
    with one, two:
        yield one, two
    assert os.listdir("/proc/self/fd") == before


def soon() -> float:
    return time.monotonic() + 10


def test_a_message_and_its_fds(pair: Pair) -> None:
    sent = os.pipe()
    wire.send(pair[0], {"do": "ä\n"}, sent, soon())
    for fd in sent:
        os.close(fd)
    received = wire.receive(pair[1], soon())
    assert received is not None
    message, (reader, writer) = received
    assert message == {"do": "ä\n"}
    assert not os.get_inheritable(reader)
    assert not os.get_inheritable(writer)
    os.write(writer, b"hello")
    assert os.read(reader, 9) == b"hello"
    os.close(reader)
    os.close(writer)


def test_a_message_greater_than_the_sockets_buffers(pair: Pair) -> None:
    message = {"routes": ["100.64.0.0/10"] * 100_000}
    with open("/dev/null") as null:
        sender = threading.Thread(target=wire.send, args=(pair[0], message, [null.fileno()], soon()))
        sender.start()
        received = wire.receive(pair[1], soon())
        sender.join()
    assert received is not None
    assert received[0] == message
    (fd,) = received[1]
    os.close(fd)


def test_the_end_of_file_is_none_also_within_a_message(pair: Pair) -> None:
    reader, writer = os.pipe()
    socket.send_fds(pair[0], [b'{"do":'], [reader, writer])
    pair[0].close()
    os.close(reader)
    os.close(writer)
    assert wire.receive(pair[1], soon()) is None


def test_no_message_in_time(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        wire.receive(pair[1], time.monotonic() - 1)


def test_no_room_in_time(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        wire.send(pair[0], {"routes": "x" * 10_000_000}, (), time.monotonic() + 0.01)

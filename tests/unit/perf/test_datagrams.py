# SPDX-License-Identifier: BSD-3-Clause
"""sendmmsg and recvmmsg on a pair of sockets."""

import socket
import struct
from collections.abc import Iterator

import pytest

from perf.bench.datagrams import BATCH, Train

NO_TIME = struct.pack("@ll", 0, 1)  # one microsecond


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with a, b:
        for sock in (a, b):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, NO_TIME)
        yield a, b


@pytest.mark.parametrize("size", [8, 64, 1200])
def test_a_batch_with_its_numbers(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    a, b = pair
    train = Train(size)
    train.number(1 << 40)
    assert train.send(a.fileno()) == BATCH
    assert Train(size).receive(b.fileno()) == list(range(1 << 40, (1 << 40) + BATCH))


def test_each_is_a_datagram_of_its_own(pair: tuple[socket.socket, socket.socket]) -> None:
    a, b = pair
    train = Train(64)
    train.number(7)
    train.send(a.fileno())
    first, second = b.recv(1000), b.recv(1000)
    assert (len(first), first[:8]) == (64, struct.pack("=Q", 7))
    assert (len(second), second[:8]) == (64, struct.pack("=Q", 8))


def test_nothing_comes(pair: tuple[socket.socket, socket.socket]) -> None:
    assert Train(64).receive(pair[1].fileno()) == []


def test_that_the_source_has_ended_loses_nothing() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sink:
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, NO_TIME)
        sink.bind(("127.0.0.1", 0))
        with socket.socket(type=socket.SOCK_DGRAM) as source:
            source.connect(sink.getsockname())
            sink.connect(source.getsockname())
            train = Train(64)
            train.number(7)
            train.send(source.fileno())
        sink.send(b"an acknowledgement")  # nobody is there
        assert Train(64).receive(sink.fileno()) == list(range(7, 7 + BATCH))
        assert Train(64).receive(sink.fileno()) == []


def test_a_closed_socket_is_an_error(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(OSError, match="sendmmsg"):
        Train(64).send(pair[0].fileno())
    with pytest.raises(OSError, match="recvmmsg"):
        Train(64).receive(pair[0].fileno())


@pytest.mark.parametrize("size", [0, 7, 65])
def test_sizes_that_hold_no_number(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        Train(size)

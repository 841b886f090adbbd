# SPDX-License-Identifier: BSD-3-Clause
"""Our command line with each engine, by a direct path and by a relay: what containers do works, whoever is killed.

box-a ── keeper, node, worker (but for `python`) ── network ── the same for box-b
"""

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM

import pytest

from tests.system.probes import SOON, ask, refusal
from tests.system.product import Member, connection, opened, send
from tests.system.tailnet import SUFFIX, World, serving
from tests.waiting import until

TIME_LIMIT = 20.0  # seconds
PAYLOAD = os.urandom(3_000_000)
MORE = 2_000_000  # bytes, before and after something is killed
PAUSE = 10.0  # seconds that a transfer may stand still then; TCP waits longer each time

RING = "anon_inode:[io_uring]"
DISABLED = Path("/proc/sys/kernel/io_uring_disabled")


@dataclass(frozen=True)
class Pair:
    """Two members with the same engine."""

    engine: str
    way: str
    alice: Member
    bob: Member


@pytest.fixture(scope="module")
def tailnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One tailnet for all tests here."""
    with serving(tmp_path_factory.mktemp("engines")) as made:
        yield made


@pytest.fixture(scope="module", params=["uring", "epoll", "python"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that this machine has."""
    name: str = request.param
    if name != "python":
        pytest.importorskip("ts4nsnet.uring.pipeline", reason="the engine is not compiled")
    if name == "uring" and DISABLED.exists() and DISABLED.read_text().strip() != "0":
        pytest.skip("io_uring is off on this machine")
    return name


@pytest.fixture(scope="module", params=["direct", "relay"])
def pair(request: pytest.FixtureRequest, tailnet: World, engine: str) -> Iterator[Pair]:
    """Two containers that reach each other by this way."""
    way: str = request.param
    names = (f"{engine}-{way[0]}-{each}" for each in "ab")
    alice, bob = (Member(tailnet, name, udp=way == "direct", TS4NSNET_ENGINE=engine) for name in names)
    for member in (alice, bob):
        member.start()
    for member in (alice, bob):
        member.started.wait_until_ready()
    made = Pair(engine, way, alice, bob)
    settle(made)
    yield made
    for member in (alice, bob):
        assert member.started.leave() == 0


def settle(pair: Pair) -> None:
    """Wait until traffic goes the pair's way."""
    for one, other in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        one.ping(other.address)
        until_way_is(one, other, pair.way)


def until_way_is(one: Member, other: Member, way: str) -> None:
    def is_so() -> bool:
        peer = one.peer(other.name)  # nothing, while a node process is new
        return bool(peer) and bool(peer["CurAddr"]) is (way == "direct")

    until(is_so, TIME_LIMIT)


# --- what containers do -----------------------------------------------------------------------------------------------


def test_the_engine_is_the_one_that_was_asked_for(pair: Pair) -> None:
    for member in (pair.alice, pair.bob):
        assert bool(member.worker) is (pair.engine != "python")
        if member.worker:
            assert (RING in opened(member.worker)) is (pair.engine == "uring")


def test_ping(pair: Pair) -> None:
    pair.alice.ping(pair.bob.address)
    pair.bob.ping(pair.alice.address)


def test_a_stream_each_way(pair: Pair) -> None:
    with connection(pair.alice, pair.bob) as (ours, theirs):
        send(ours, theirs, PAYLOAD)
        send(theirs, ours, PAYLOAD)


def test_names(pair: Pair) -> None:
    for name in (pair.bob.name, f"{pair.bob.name}.{SUFFIX}"):
        answer = ask(pair.alice.box, "10.0.2.3", name)
        assert [str(record) for record in answer.answer[0]] == [pair.bob.address]


def test_what_has_no_way_fails_at_once(pair: Pair) -> None:
    for family in (AF_INET, AF_INET6):
        for kind in (SOCK_STREAM, SOCK_DGRAM):
            number, after = refusal(pair.alice.box, family, kind)
            assert number, "it was not refused"
            assert after < SOON


# --- what is killed meanwhile -----------------------------------------------------------------------------------------


class Stream:
    """Bytes that flow until told otherwise, from one socket to another."""

    def __init__(self, sender: socket.socket, receiver: socket.socket) -> None:
        self._sender, self._receiver = sender, receiver
        sender.settimeout(PAUSE)
        receiver.settimeout(PAUSE)
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._sent = self._pool.submit(self._send)
        self._digest = hashlib.sha256()

    def _send(self) -> bytes:
        digest = hashlib.sha256()
        while not self._enough.is_set():
            chunk = os.urandom(1 << 16)
            self._sender.sendall(chunk)
            digest.update(chunk)
        self._sender.shutdown(socket.SHUT_WR)
        return digest.digest()

    def flow(self, size: int) -> None:
        """Receive so many bytes more."""
        while size > 0:
            chunk = self._receiver.recv(1 << 16)
            assert chunk, "the stream has ended"
            self._digest.update(chunk)
            size -= len(chunk)

    def end(self) -> None:
        """End it; what was sent must have come."""
        self._enough.set()
        while chunk := self._receiver.recv(1 << 16):
            self._digest.update(chunk)
        assert self._sent.result() == self._digest.digest()
        self._pool.shutdown()


def test_a_transfer_survives_the_process_that_carries_it(pair: Pair) -> None:
    survives(pair, "receiver", lambda member: member.worker or member.node)


def test_a_transfer_survives_the_node_process(pair: Pair) -> None:
    survives(pair, "sender", lambda member: member.node)


def survives(pair: Pair, end: str, process: Callable[[Member], int]) -> None:
    """Kill a process of one end's during a transfer."""
    member = pair.alice if end == "sender" else pair.bob
    with connection(pair.alice, pair.bob) as ends:
        stream = Stream(*ends)
        stream.flow(MORE)
        killed = process(member)
        assert killed
        os.kill(killed, SIGKILL)
        stream.flow(MORE)
        until(lambda: process(member) not in (0, killed), TIME_LIMIT)
        stream.flow(MORE)
        stream.end()
    settle(pair)

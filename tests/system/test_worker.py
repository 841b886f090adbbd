# SPDX-License-Identifier: BSD-3-Clause
"""Worker and node as processes of their own: either may be killed or stopped, and established flows go on.

    box-alice ── worker ── alice (node) ── network ── bob (node) ── worker ── box-bob

The test is the keeper of both.
"""

import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest

from tests.interop.wireguard_peers import ALICE, BOB, Identity
from tests.processes import Process
from tests.topology import Host, Topology
from ts4nsnet.netns import Link, NetnsChild, Route, Target
from ts4nsnet.sockets import open_socket
from ts4nsnet.uring.counters import Counters, counters_in
from ts4nsnet.wireguard import SessionMemory

pipeline = pytest.importorskip("ts4nsnet.uring.pipeline", reason="the engine is not compiled")

OUTER = {"alice": "192.0.2.1", "bob": "192.0.2.2"}
TIME_LIMIT = 20.0  # seconds; catches a hang
KILLS = 20
COUNTERS_BYTES = 4096
# <linux/if_packet.h>, <linux/if_ether.h>, <asm-generic/socket.h>
SOL_PACKET, PACKET_STATISTICS, PACKET_VNET_HDR, ETH_P_IP = 263, 6, 15, 0x0800
SO_MAX_PACING_RATE = 47
DISABLED = Path("/proc/sys/kernel/io_uring_disabled")
_WORKER = "from ts4nsnet.uring.worker import main; main()"


@pytest.fixture(params=["epoll", "uring"])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "uring" and DISABLED.exists() and DISABLED.read_text().strip() != "0":
        pytest.skip("io_uring is off on this machine")
    return name


# --- two sides ------------------------------------------------------------------------------------------------------


class Side:
    """A node process, its worker, and what outlives both."""

    def __init__(self, topology: Topology, host: Host, own: Identity, other: Identity, engine: str) -> None:
        self.host = host
        self.own = own
        self.other = other
        self.engine = engine
        self.box = topology.container(f"box-{own.name}")
        with NetnsChild(Target(self.box.netns)) as child:
            self.tun = child.open_tun("tap0")
            addresses = (own.v4, own.v6)
            routes = (Route("10.9.0.0/24", mtu=1280), Route("fd09::/64", mtu=1280))
            child.configure(Link("tap0", addresses, routes, txqueuelen=1000))
        with host.entered():
            self.udp = open_socket(0)
        self.memory = os.memfd_create("sessions")
        os.ftruncate(self.memory, SessionMemory.size(16))
        self.counters = os.memfd_create("counters")
        os.ftruncate(self.counters, COUNTERS_BYTES)
        self.worker: Process
        self.node: Process
        self._sockets: list[socket.socket] = []

    @property
    def port(self) -> int:
        port: int = self.udp.getsockname()[1]
        return port

    def start_node(self, port: int, *, relay: bool = False) -> None:
        """Start a node process, which has no worker yet; the peer listens at `port`, or is behind a relay."""
        self._node, theirs = self._pair()
        config = {
            "private_key": b64encode(self.own.key.private_bytes()).decode(),
            "public_key": str(self.other.key.public),
            "allowed_ips": [f"{self.other.v4}/32", f"{self.other.v6}/128"],
            "endpoint": [OUTER[self.other.name], port],
            "relay": relay,
        }
        fds = [theirs.fileno(), self.memory, self.udp.fileno()]
        command = [sys.executable, "-m", "tests.programs.worker_node", *map(str, fds), json.dumps(config)]
        self.node = self.host.start(*command, pass_fds=fds)
        theirs.close()

    def start_worker(self) -> None:
        """Start a worker, and give the node its socket."""
        self._keeper, keepers = self._pair()
        node, workers = self._pair()
        fds = [workers.fileno(), keepers.fileno(), self.tun.fds[0], self.udp.fileno(), self.memory, self.counters]
        arguments = [*fds, int(self.tun.vnet_hdr), self.engine]
        self.worker = self.host.start(sys.executable, "-c", _WORKER, *map(str, arguments), pass_fds=fds)
        keepers.close()
        workers.close()
        self._give(self._node, node)

    def introduce(self) -> None:
        """Connect a new node with the worker that runs."""
        node, workers = self._pair()
        self._give(self._keeper, workers)
        self._give(self._node, node)

    def end_keeper(self) -> None:
        self._keeper.close()

    def statistics(self) -> Counters:
        with mmap.mmap(self.counters, COUNTERS_BYTES) as memory:
            return counters_in(memory)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
        self.udp.close()
        self.tun.close()
        os.close(self.memory)
        os.close(self.counters)

    def _pair(self) -> tuple[socket.socket, socket.socket]:
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sockets += pair
        return pair

    @staticmethod
    def _give(to: socket.socket, sock: socket.socket) -> None:
        socket.send_fds(to, [b"{}"], [sock.fileno()])
        sock.close()


@dataclass
class Pair:
    """Alice and bob, connected."""

    alice: Side
    bob: Side


@contextmanager
def connected(topology: Topology, engine: str, *, relay: bool = False) -> Iterator[Pair]:
    """Both sides, at work."""
    alice, bob = topology.host("alice"), topology.host("bob")
    topology.link(alice, "192.0.2.1/24", bob, "192.0.2.2/24")
    with ExitStack() as stack:
        made = Pair(Side(topology, alice, ALICE, BOB, engine), Side(topology, bob, BOB, ALICE, engine))
        stack.callback(made.alice.close)
        stack.callback(made.bob.close)
        made.alice.start_node(made.bob.port, relay=relay)
        made.bob.start_node(made.alice.port, relay=relay)
        made.alice.start_worker()
        made.bob.start_worker()
        for side in (made.alice, made.bob):
            side.node.wait_for("Hello(engine=")
        made.alice.box.run("ping", "-c", "1", "-w", "8", BOB.v4)
        yield made


@pytest.fixture
def pair(topology: Topology, engine: str) -> Iterator[Pair]:
    with connected(topology, engine) as made:
        yield made


# --- a flow that is under way ---------------------------------------------------------------------------------------


@dataclass
class Flow:
    """A TCP connection from alice's box to bob's that sends all the time."""

    received: int = 0
    longest_pause: float = 0.0  # seconds
    failure: BaseException | None = None
    _ends: threading.Event = field(default_factory=threading.Event)

    def wait_for(self, size: int) -> None:
        """Let so many more bytes come."""
        wanted, until = self.received + size, time.monotonic() + TIME_LIMIT
        while self.received < wanted and self.failure is None and time.monotonic() < until:
            select.select([], [], [], 0.002)
        assert self.failure is None, self.failure
        assert self.received >= wanted, f"got {self.received} bytes, want {wanted}"


@contextmanager
def flow(pair: Pair, rate: int) -> Iterator[Flow]:
    """Send at `rate` bytes a second for the length of the block; at its end all of it has arrived as it was."""
    made = Flow()
    listener, client = (side.box.socket(kind=socket.SOCK_STREAM) for side in (pair.bob, pair.alice))
    listener.bind((BOB.v4, 0))
    listener.listen()
    client.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)
    client.connect(listener.getsockname())
    server = listener.accept()[0]
    sent, got = sha256(), sha256()

    def send() -> None:
        random = Random(7)
        pieces = [random.randbytes(1 << 14) for _ in range(16)]
        try:
            while not made._ends.is_set():
                piece = pieces[random.randrange(16)]
                client.sendall(piece)
                sent.update(piece)
            client.shutdown(socket.SHUT_WR)
        except OSError as error:
            made.failure = error

    def receive() -> None:
        at = time.monotonic()
        try:
            while piece := server.recv(1 << 16):
                got.update(piece)
                made.received += len(piece)
                made.longest_pause = max(made.longest_pause, time.monotonic() - at)
                at = time.monotonic()
        except OSError as error:
            made.failure = error

    threads = [threading.Thread(target=run, daemon=True) for run in (send, receive)]
    with server:
        server.settimeout(TIME_LIMIT)
        for thread in threads:
            thread.start()
        yield made
        made._ends.set()
        for thread in threads:
            thread.join(TIME_LIMIT)
        assert made.failure is None, made.failure
        assert got.digest() == sent.digest()


# --- the wire -------------------------------------------------------------------------------------------------------


class Wire:
    """All that comes to a host over UDP: the receiver index and the counter of each transport message."""

    def __init__(self, host: Host) -> None:
        with host.entered():
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        # a superpacket stays whole then, and a header says how it is to be cut
        self._sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 20)
        self._sock.settimeout(0.2)
        self.seen: list[tuple[int, int]] = []
        self.missed = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        buffer = memoryview(bytearray(1 << 17))
        while True:
            try:
                size, _, _, address = self._sock.recvmsg_into([buffer])
            except TimeoutError:
                if self._ends.is_set():
                    return
                continue
            if address[2] != socket.PACKET_OUTGOING:
                self._take(buffer[:size])

    def _take(self, frame: memoryview) -> None:
        gso_size = struct.unpack_from("<H", frame, 4)[0] if frame[1] else 0
        packet = frame[10 + 14 :]  # behind that header and Ethernet's
        start = (packet[0] & 15) * 4
        length = int.from_bytes(packet[start + 4 : start + 6], "big")
        if packet[9] != 17:
            return
        datagrams = packet[start + 8 : max(start + length, len(packet))]
        step = gso_size or len(datagrams)
        for at in range(0, len(datagrams), step):
            if bytes(datagrams[at : at + 4]) == b"\4\0\0\0":
                self.seen.append(struct.unpack_from("<IQ", datagrams, at + 4))

    def close(self) -> None:
        """See what has come so far, and no more."""
        self._ends.set()
        self._thread.join()
        _, self.missed = struct.unpack("II", self._sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self._sock.close()


# --- what happens to processes --------------------------------------------------------------------------------------


def test_a_killed_worker_costs_a_moment_and_no_nonce(pair: Pair) -> None:
    wires = [Wire(side.host) for side in (pair.alice, pair.bob)]
    with closing(wires[0]), closing(wires[1]), flow(pair, 12_000_000) as running:
        running.wait_for(1_000_000)
        for number in range(KILLS):
            side = pair.bob if number % 4 == 3 else pair.alice
            side.worker.send_signal(signal.SIGKILL)
            side.worker.wait()
            side.start_worker()
            running.wait_for(500_000)
    for wire in wires:
        assert not wire.missed
        assert len(wire.seen) > 100
        assert len(set(wire.seen)) == len(wire.seen)
        assert len({index for index, _ in wire.seen}) == 1, "one session lasted"
    print(f"the longest pause was {running.longest_pause:.3f} s; {[len(wire.seen) for wire in wires]} messages")
    assert running.longest_pause < 3.0


def test_a_worker_is_at_work_again_within_a_moment(pair: Pair) -> None:
    pauses = []
    receiver, sender = pair.bob.box.socket(), pair.alice.box.socket()
    receiver.bind((BOB.v4, 5000))
    for _ in range(5):
        before = time.monotonic()
        pair.alice.worker.send_signal(signal.SIGKILL)
        pair.alice.worker.wait()
        pair.alice.start_worker()
        sender.sendto(b"x", (BOB.v4, 5000))
        receiver.recv(10)
        pauses.append(time.monotonic() - before)
    print("pauses:", [f"{each * 1000:.0f} ms" for each in pauses])
    assert min(pauses) < 1.0


def test_a_frozen_node_does_not_slow_what_is_established(pair: Pair) -> None:
    with flow(pair, 50_000_000) as running:
        running.wait_for(5_000_000)
        for side in (pair.alice, pair.bob):
            side.node.send_signal(signal.SIGSTOP)
        running.longest_pause = 0.0
        stranger = pair.bob.host.socket()
        for _ in range(10):  # more than all queues to the node hold
            for _ in range(300):
                stranger.sendto(bytes(1400), (OUTER["alice"], pair.alice.port))
            running.wait_for(2_000_000)
        assert running.longest_pause < 0.5
        for side in (pair.alice, pair.bob):
            side.node.send_signal(signal.SIGCONT)
        pair.alice.node.wait_for("Lost(events=")
    pair.alice.box.run("ping", "-c", "1", "-W", "5", BOB.v4)


def test_a_dead_node_is_followed_by_another(pair: Pair) -> None:
    with flow(pair, 10_000_000) as running:
        running.wait_for(1_000_000)
        pair.alice.node.send_signal(signal.SIGKILL)
        pair.alice.node.wait()
        running.wait_for(2_000_000)
        pair.alice.start_node(pair.bob.port)
        pair.alice.introduce()
        pair.alice.node.wait_for("Hello(engine=")
        running.wait_for(2_000_000)
        assert running.longest_pause < 0.5
    assert "handshake" not in pair.alice.node.output


def test_what_goes_by_a_relay_passes_the_node(topology: Topology, engine: str) -> None:
    with connected(topology, engine, relay=True) as pair:
        with flow(pair, 5_000_000) as running:
            running.wait_for(2_000_000)
        assert pair.bob.statistics().written_packets > 1000


def test_it_ends_with_its_keeper(pair: Pair) -> None:
    pair.alice.end_keeper()
    assert pair.alice.worker.wait(2.0) == 0
    assert pair.alice.statistics().sent_datagrams >= 1


def test_it_is_small_and_has_no_rights(pair: Pair) -> None:
    with flow(pair, 20_000_000) as running:
        running.wait_for(10_000_000)
    proc = Path(f"/proc/{pair.alice.worker.pid}")
    rollup = dict(line.split(":", 1) for line in (proc / "smaps_rollup").read_text().splitlines()[1:])
    assert int(rollup["Pss"].split()[0]) <= 25 * 1024
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    print("PSS:", rollup["Pss"].strip())


def test_a_deleted_tun_is_hopeless(pair: Pair) -> None:
    pair.alice.box.run("ip", "link", "del", "tap0")
    assert pair.alice.worker.wait(2.0) == 2
    assert "was it deleted?" in pair.alice.worker.output

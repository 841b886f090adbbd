# SPDX-License-Identifier: BSD-3-Clause
"""The `python` engine on networks as they are: loss, NAT, IPv6 outside, a slow uplink, a TUN that fails.

alice (ours) ── network ── bob (ours)       box-alice and box-bob hold the inner ends
"""

import errno
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from tests.filters import open_filter
from tests.interop.wireguard_peers import ALICE, BOB, Ours
from tests.processes import Namespace
from tests.topology import Container, Host, Topology
from tests.unit.packets import superpacket
from ts4nsnet.netns import Link, NetnsChild, Route, Target
from ts4nsnet.node.engine import PythonEngine, TunGone
from ts4nsnet.packet import UDP, IPv4
from ts4nsnet.sockets import open_socket
from ts4nsnet.uring.counters import Drop
from ts4nsnet.uring.offloads import IN_USE, MAX_REFUSALS, REFUSED, Offload
from ts4nsnet.uring.reference import Reference
from ts4nsnet.uring.segment import Gso
from ts4nsnet.wireguard import AllowedIPs, Device, SessionMemory, SessionTable

TIME_LIMIT = 15.0  # seconds; catches a hang
ETH_P_IP = 0x0800  # <linux/if_ether.h>
KEEPALIVE_BYTES = 20 + 8 + 32  # with the outer headers


# --- two nodes and what is between them -----------------------------------------------------------------------


class Tunnel:
    """Alice and Bob, both ours, on hosts that the test has connected."""

    def __init__(self, topology: Topology, alice: Host, bob: Host) -> None:
        self.alice, self.bob = Ours(topology, alice, ALICE, BOB), Ours(topology, bob, BOB, ALICE)
        self.alice.start()
        self.bob.start()

    def ping(self, *options: str) -> str:
        """Let alice ping bob through the tunnel, once unless `options` say otherwise."""
        command = ("ping", "-c", "1", "-W", "5", *options, BOB.v4)
        return self.alice.inside.run(*command, timeout=TIME_LIMIT).stdout

    def close(self) -> None:
        self.alice.stop()
        self.bob.stop()


@contextmanager
def tunnel(topology: Topology, alice: Host, bob: Host) -> Iterator[Tunnel]:
    made = Tunnel(topology, alice, bob)
    yield made
    made.close()


def transfer(sender: Namespace, receiver: Namespace, address: str, size: int) -> None:
    """Send `size` random bytes over TCP and compare what arrives."""
    data = Random(7).randbytes(size)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener, client = (each.socket(family, socket.SOCK_STREAM) for each in (receiver, sender))
    listener.bind((address, 0))
    listener.listen()

    def receive() -> bytes:
        digest = sha256()
        with listener.accept()[0] as connection:
            connection.settimeout(TIME_LIMIT)
            while piece := connection.recv(1 << 18):
                digest.update(piece)
        return digest.digest()

    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(receive)
        client.settimeout(TIME_LIMIT)
        client.connect(listener.getsockname()[:2])
        client.sendall(data)
        client.close()
        assert received.result(TIME_LIMIT) == sha256(data).digest()


def direct(topology: Topology, **options: Any) -> tuple[Host, Host]:
    """Alice and Bob on one link."""
    alice, bob = topology.host("alice"), topology.host("bob")
    topology.link(alice, "192.0.2.1/24 fd02::1/64", bob, "192.0.2.2/24 fd02::2/64", **options)
    return alice, bob


def test_a_transfer_over_a_lossy_link_is_complete(topology: Topology) -> None:
    alice, bob = direct(topology, loss=0.02)
    with tunnel(topology, alice, bob) as pair:
        pair.bob.know(None)
        pair.alice.know("192.0.2.2")
        transfer(pair.alice.inside, pair.bob.inside, BOB.v4, 5_000_000)
        transfer(pair.bob.inside, pair.alice.inside, ALICE.v6, 5_000_000)


@pytest.mark.parametrize("inner", [BOB.v4, BOB.v6], ids=["ipv4 inside", "ipv6 inside"])
def test_the_tunnel_runs_over_ipv6(topology: Topology, inner: str) -> None:
    alice, bob = direct(topology)
    alice.ip("address del 192.0.2.1/24 dev bob")
    bob.ip("address del 192.0.2.2/24 dev alice")
    with tunnel(topology, alice, bob) as pair:
        pair.bob.know(None)
        pair.alice.know("fd02::2")
        transfer(pair.alice.inside, pair.bob.inside, inner, 10_000_000)


def test_a_host_without_ipv6_is_reached_by_ipv4(topology: Topology) -> None:
    alice, bob = topology.host("alice"), topology.host("bob")
    topology.link(alice, "192.0.2.1/24", bob, "192.0.2.2/24")
    with alice.entered():
        for name in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
    with tunnel(topology, alice, bob) as pair:
        pair.bob.know(None)
        pair.alice.know("192.0.2.2")
        pair.ping()


def test_a_persistent_keep_alive_holds_the_way_through_a_nat(topology: Topology) -> None:
    internet, home = topology.router("internet"), topology.router("home", nat="hard")
    alice, bob = topology.host("alice"), topology.host("bob")
    topology.link(alice, "10.1.0.2/24", home, "10.1.0.1/24")
    topology.link(home, "198.51.100.2/24", internet, "198.51.100.1/24")
    topology.link(bob, "192.0.2.2/24", internet, "192.0.2.1/24")
    home.run(
        "sysctl", "-w", "net.netfilter.nf_conntrack_udp_timeout=2", "net.netfilter.nf_conntrack_udp_timeout_stream=2"
    )
    with tunnel(topology, alice, bob) as pair:
        pair.bob.know(None)
        pair.alice.know("192.0.2.2", keepalive=1)
        pair.ping()
        with arrivals(bob) as packets:
            sizes = [len(packets.recv(2000)) for _ in range(4)]
        assert sizes == [KEEPALIVE_BYTES] * 4
        # the NAT would have forgotten alice by now, and lets nobody in who was not asked for
        pair.bob.inside.run("ping", "-c", "1", "-W", "2", ALICE.v4)


@contextmanager
def arrivals(host: Host) -> Iterator[socket.socket]:
    """A socket that sees each IPv4 packet that comes to, or leaves, a host."""
    with host.entered():
        packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    packets.settimeout(TIME_LIMIT)
    with packets:
        yield packets


def test_who_only_receives_says_after_ten_seconds_that_it_lives(topology: Topology) -> None:
    alice, bob = direct(topology)
    with tunnel(topology, alice, bob) as pair:
        pair.bob.know(None)
        pair.alice.know("192.0.2.2")
        listener = pair.bob.inside.socket()
        listener.bind((BOB.v4, 5000))
        pair.alice.inside.socket().sendto(b"one way", (BOB.v4, 5000))
        assert listener.recv(100) == b"one way"
        sent_at = boottime()
        with arrivals(alice) as packets:
            assert len(packets.recv(2000)) == KEEPALIVE_BYTES
            assert 9.9 < boottime() - sent_at < 11.5
            packets.settimeout(2)
            with pytest.raises(TimeoutError):
                packets.recv(2000)


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@pytest.mark.parametrize("address", [BOB.v4, BOB.v6], ids=["ipv4 inside", "ipv6 inside"])
def test_datagrams_of_all_sizes_arrive(topology: Topology, address: str) -> None:
    """The container's kernel makes fragments of what is longer than the route's MTU."""
    alice, bob = direct(topology)
    data = Random(7).randbytes(65507)
    with tunnel(topology, alice, bob) as pair:
        pair.bob.know(None)
        pair.alice.know("192.0.2.2")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sender, receiver = pair.alice.inside.socket(family), pair.bob.inside.socket(family)
        receiver.bind((address, 5000))
        for size in (0, 1, 15, 16, 17, 1371, 1372, 1373, 1391, 1392, 1393, 2000, 9000, 30_000, 65_507):
            sender.sendto(data[:size], (address, 5000))
            assert receiver.recv(1 << 16) == data[:size]


def test_packets_arrive_while_the_uplink_takes_no_more(topology: Topology) -> None:
    alice, bob = direct(topology)
    with tunnel(topology, alice, bob) as pair:
        pair.bob.know("192.0.2.1")
        pair.alice.know("192.0.2.2")
        pair.ping()
        alice.run(
            "tc", "qdisc", "add", "dev", "bob", "root", "tbf", "rate", "256kbit", "burst", "10kb", "limit", "100mb"
        )
        fill_up(pair.alice)
        source, sink = pair.bob.inside.socket(), pair.alice.inside.socket()
        sink.bind((ALICE.v4, 5000))
        for number in range(50):
            source.sendto(bytes([number]) * 1000, (ALICE.v4, 5000))
            assert sink.recv(2000) == bytes([number]) * 1000
        assert Drop.SEND_FAILED not in pair.alice.statistics()["engine"]["dropped"]


def fill_up(peer: Ours) -> None:
    """Send from the container until the engine reads no more; what is too much the TUN drops."""
    sock = peer.inside.socket()
    before, now = -1, 0
    while now > before:
        for _ in range(1000):
            sock.sendto(bytes(1300), (BOB.v4, 5001))
        before, now = now, peer.statistics()["engine"]["read_frames"]


# --- the TUN --------------------------------------------------------------------------------------------------


class Prepared(Reference):
    """A pipeline that writes the frames that it was given once anything has arrived."""

    def __init__(self, sessions: SessionTable, routes: AllowedIPs, frames: Sequence[bytes]) -> None:
        super().__init__(sessions, routes, open_filter(), mtu=1420, vnet_hdr=True)
        self.taken = trio.Event()  # others see it set after the engine has written the frames, as it does not wait
        self._frames_to_write = list(frames)

    def frames_to_write(self) -> list[bytes]:
        self.taken.set()
        frames, self._frames_to_write = self._frames_to_write, []
        return frames


class Engine:
    """An engine of this process, without peers, attached to a container."""

    def __init__(self, box: Container, frames: Sequence[bytes] = ()) -> None:
        with NetnsChild(Target(box.netns)) as child:
            self.tun = child.open_tun("tap0")
            child.configure(Link("tap0", (ALICE.v4,), (Route("10.9.0.0/24", mtu=1420),)))
        memory = SessionMemory(bytearray(SessionMemory.size(1)))
        device = Device(ALICE.key, memory, os.urandom, time.time_ns)
        self.pipeline = Prepared(SessionTable(memory), device.routes, frames)
        self._sock = open_socket(0)
        self._engine = PythonEngine(device, self.pipeline, self.tun, self._sock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the engine for the length of the block, which a datagram begins with."""
        with trio.fail_after(TIME_LIMIT), closing(self.tun), self._sock:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"?", ("::1", self._sock.getsockname()[1]))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._engine.run)
                yield
                nursery.cancel_scope.cancel()

    @property
    def failed_writes(self) -> int:
        return self.pipeline.counters.statistics().dropped.get(Drop.WRITE_FAILED, 0)


def udp_superpacket(payload: bytes, hdr_len: int = 0) -> bytes:
    """A frame for alice with `payload` in datagrams of 1000 bytes, for port 5000."""
    ip = IPv4(socket.inet_aton(BOB.v4), socket.inet_aton(ALICE.v4), 0)
    return superpacket(ip, UDP(1, 5000, payload), Gso.UDP_L4, 1000, hdr_len)


@pytest.mark.parametrize("hdr_len", [0, 0xFFFF], ids=["taken", "refused"])
async def test_a_superpacket_that_the_kernel_refuses_is_written_by_the_packet(topology: Topology, hdr_len: int) -> None:
    # a header length beyond the frame's end is what all kernels refuse with EINVAL
    box = topology.container("box")
    payload = Random(7).randbytes(2500)
    engine = Engine(box, [udp_superpacket(payload, hdr_len)] * MAX_REFUSALS)
    receiver = box.socket()
    receiver.bind((ALICE.v4, 5000))
    async with engine.running():
        await engine.pipeline.taken.wait()
        for _ in range(MAX_REFUSALS):
            assert [receiver.recv(2000) for _ in range(3)] == [payload[:1000], payload[1000:2000], payload[2000:]]
    assert engine.failed_writes == 0
    state = engine.pipeline.counters.statistics().offloads[Offload.TUN_UDP_GRO]
    assert state == (REFUSED + errno.EINVAL if hdr_len else IN_USE)


async def test_what_comes_while_the_container_s_link_is_down_is_counted(topology: Topology) -> None:
    box = topology.container("box")
    engine = Engine(box, [udp_superpacket(bytes(2500))])
    box.run("ip", "link", "set", "tap0", "down")
    async with engine.running():
        await engine.pipeline.taken.wait()
    assert engine.failed_writes == 1


async def test_a_deleted_tun_ends_the_engine(topology: Topology) -> None:
    box = topology.container("box")
    engine = Engine(box)
    with pytest.RaisesGroup(pytest.RaisesExc(TunGone, match="was it deleted"), flatten_subgroups=True):
        async with engine.running():
            await engine.pipeline.taken.wait()
            box.run("ip", "link", "del", "tap0")
            await trio.sleep_forever()

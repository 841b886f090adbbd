# SPDX-License-Identifier: BSD-3-Clause
"""The compiled engines on networks as they are: what the `python` engine's tests ask of two nodes, of each of them."""

import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from tests.filters import open_filter
from tests.interop.wireguard_peers import ALICE, BOB, Ours
from tests.system import test_engine as twin
from tests.topology import Container, Topology
from ts4nsnet.endpoint import to_endpoint
from ts4nsnet.netns import Link, NetnsChild, Route, Target
from ts4nsnet.node.compiled import CompiledEngine
from ts4nsnet.node.engine import TunGone
from ts4nsnet.packet import UDP, IPv4, carry
from ts4nsnet.sockets import open_socket
from ts4nsnet.uring.backends import open_port
from ts4nsnet.uring.counters import Drop
from ts4nsnet.wireguard import AllowedIPs, Device, Keypair, Seal, SessionMemory
from ts4nsnet.wireguard.handshake import TransportKeys
from ts4nsnet.wireguard.sessions import Roamed

pipeline = pytest.importorskip("ts4nsnet.uring.pipeline", reason="the engine is not compiled")
sessions = pytest.importorskip("ts4nsnet.uring.sessions", reason="the engine is not compiled")

DISABLED = Path("/proc/sys/kernel/io_uring_disabled")

test_a_transfer_over_a_lossy_link_is_complete = twin.test_a_transfer_over_a_lossy_link_is_complete
test_the_tunnel_runs_over_ipv6 = twin.test_the_tunnel_runs_over_ipv6
test_a_host_without_ipv6_is_reached_by_ipv4 = twin.test_a_host_without_ipv6_is_reached_by_ipv4
test_datagrams_of_all_sizes_arrive = twin.test_datagrams_of_all_sizes_arrive
test_packets_arrive_while_the_uplink_takes_no_more = twin.test_packets_arrive_while_the_uplink_takes_no_more


@pytest.fixture(params=["epoll", "uring"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "uring" and DISABLED.exists() and DISABLED.read_text().strip() != "0":
        pytest.skip("io_uring is off on this machine")
    monkeypatch.setattr(Ours, "engine", name)
    return name


def test_a_path_that_is_narrower_than_its_messages(topology: Topology) -> None:
    """What is too long for the link goes by the datagram, in fragments of IP."""
    alice, bob = twin.direct(topology, mtu=1300)
    with twin.tunnel(topology, alice, bob) as pair:
        pair.bob.know(None)
        pair.alice.know("192.0.2.2")
        twin.transfer(pair.alice.inside, pair.bob.inside, BOB.v4, 2_000_000)
        sent = pair.alice.statistics()["engine"]
        assert sent["dropped"].keys() <= {Drop.FILTERED_OUT, Drop.NO_ROUTE}


class Engine:
    """An engine of this process, without peers, attached to a container."""

    def __init__(self, box: Container, name: str) -> None:
        with NetnsChild(Target(box.netns)) as child:
            self.tun = child.open_tun("tap0")
            child.configure(Link("tap0", (ALICE.v4,), (Route("10.9.0.0/24", mtu=1420),)))
        memory = SessionMemory(bytearray(SessionMemory.size(1)))
        device = Device(ALICE.key, memory, os.urandom, time.time_ns)
        self.pipeline = pipeline.Pipeline(
            sessions.Sessions(memory), device.routes, open_filter(), mtu=1420, vnet_hdr=True
        )
        self._sock = open_socket(0)
        self.port = open_port(name, self.pipeline, self.tun.fds[0], self._sock, print)
        self._engine = CompiledEngine(device, self.port, self.tun, self._sock)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the engine for the length of the block."""
        with trio.fail_after(twin.TIME_LIMIT), closing(self.tun), self._sock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._engine.run)
                yield
                nursery.cancel_scope.cancel()


async def test_packets_of_the_node_reach_the_container(topology: Topology, engine: str) -> None:
    box = topology.container("box")
    mine = Engine(box, engine)
    receiver = box.socket()
    receiver.bind((ALICE.v4, 5000))
    packet = carry(IPv4(socket.inet_aton(BOB.v4), socket.inet_aton(ALICE.v4), 0), UDP(1, 5000, b"hello"))
    async with mine.running():
        mine.port.write([packet])
        assert receiver.recv(100) == b"hello"
        box.run("ip", "link", "set", "tap0", "down")
        mine.port.write([packet])
    assert mine.pipeline.counters.statistics().dropped[Drop.WRITE_FAILED] == 1


async def test_a_deleted_tun_ends_the_engine(topology: Topology, engine: str) -> None:
    box = topology.container("box")
    mine = Engine(box, engine)
    with pytest.RaisesGroup(pytest.RaisesExc(TunGone, match="was it deleted"), flatten_subgroups=True):
        async with mine.running():
            box.run("ip", "link", "del", "tap0")
            await trio.sleep_forever()


def test_what_the_node_has_sealed_while_the_uplink_takes_no_more_is_bounded(topology: Topology, engine: str) -> None:
    alice, _ = twin.direct(topology)
    alice.run("tc", "qdisc", "add", "dev", "bob", "root", "tbf", "rate", "256kbit", "burst", "10kb", "limit", "100mb")
    tun, container = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with alice.entered():
        sock = open_socket(0)
    with tun, container, sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        table = sessions.Sessions(SessionMemory(bytearray(SessionMemory.size(2))))
        made = pipeline.Pipeline(table, AllowedIPs(), open_filter(), mtu=1280, vnet_hdr=True)
        port = open_port(engine, made, tun.fileno(), sock, print)
        keys, now = TransportKeys(bytes(32), bytes(32)), time.clock_gettime(time.CLOCK_BOOTTIME)
        port.apply(Keypair(1, 7, 8, keys, initiator=True, created_at=now), now)
        port.apply(Roamed(1, to_endpoint(("::ffff:192.0.2.2", 51820, 0, 0))), now)
        for _ in range(300):
            port.apply(Seal(1, (bytes(1280),) * 32), now)
        assert port.blocked
        waiting = 300 * 32 - port.counters.dropped[Drop.SEND_FAILED]
        assert 1000 < waiting < 5000

# SPDX-License-Identifier: BSD-3-Clause
"""Paths and the kernel: routes through overlays, and addresses that come and go; two nodes on a network of ours."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import TypeVar

import pytest
import trio

from tests.topology import Host, Topology
from tests.unit.magicsock.net import PORT, at
from ts4nsnet.endpoint import Endpoint, from_endpoint, to_endpoint
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.magicsock import Conn, Event, OwnEndpointsChanged, PathChanged, PeerPaths
from ts4nsnet.magicsock.adapter import Adapter, Routes
from ts4nsnet.sockets import open_socket

TIME_LIMIT = 20.0
T = TypeVar("T", OwnEndpointsChanged, PathChanged)


@pytest.fixture
def host(topology: Topology) -> Host:
    """A host at home, whose own tailnet and WireGuard lead to two private networks."""
    home, alice = topology.router("home"), topology.host("alice")
    topology.link(alice, "192.0.2.2/24 fd01::2/64", home, "192.0.2.1/24 fd01::1/64")
    alice.ip(
        "tuntap add dev tailscale0 mode tun",
        "address add 100.101.102.103/32 dev tailscale0",
        "link set tailscale0 up",
        "route add 10.5.0.0/16 dev tailscale0",
        "tuntap add dev wg0 mode tun",
        "address add 10.9.0.1/24 dev wg0",
        "link set wg0 up",
    )
    return alice


@pytest.fixture
def routes(host: Host) -> Iterator[Routes]:
    with host.entered():
        made = Routes()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("address", "is_direct"),
    [
        ("192.0.2.1", True),
        ("203.0.113.9", True),  # by the default route
        ("fd01::1", True),
        ("192.0.2.2", True),  # ourselves, as another container on this host is
        ("10.5.1.2", False),
        ("100.101.102.103", True),  # by the loopback; but nobody is sought at such an address
        ("10.9.0.7", False),
    ],
)
def test_the_way_to_a_candidate_leads_through_no_overlay(routes: Routes, address: str, is_direct: bool) -> None:
    assert routes.is_direct(at(address)) == is_direct


def test_an_overlay_that_comes_later_is_noticed_and_no_way_is_none(host: Host, routes: Routes) -> None:
    assert routes.is_direct(at("10.7.0.1"))
    host.ip("tuntap add dev wg7 mode tun", "link set wg7 up", "route add 10.7.0.0/16 dev wg7")
    assert not routes.is_direct(at("10.7.0.1"))
    host.ip("route add unreachable 10.8.0.0/16", "route add prohibit 10.8.1.0/24", "route add blackhole 10.8.2.0/24")
    assert not any(routes.is_direct(at(f"10.8.{n}.1")) for n in range(3))


class HostRoutes(Routes):
    """Those of a host that this process is not in."""

    def __init__(self, host: Host) -> None:
        self._host = host
        with host.entered():
            super().__init__()

    def notifications(self) -> socket.socket | None:
        with self._host.entered():
            return super().notifications()


class Node:
    """A conn with its adapter and a socket, in a host; there is no relay, so all must go by UDP."""

    def __init__(self, host: Host, seed: int) -> None:
        with host.entered():
            self.sock = open_socket(PORT)
        self.routes = HostRoutes(host)
        self.key = PrivateKey(bytes([seed] * 32)).public
        self.disco_key = PrivateKey(bytes([seed + 1] * 32))
        self.conn = Conn(self.disco_key, Random(seed).randbytes, self.routes.is_direct)
        self.conn.set_node_key(self.key)
        self.events: list[Event] = []
        self._news = trio.Event()
        self.adapter = Adapter(self.conn, self.routes, PORT, ipv6=True, send=self._send, deliver=self._take)

    def _send(self, datagram: bytes, endpoint: Endpoint, key: PublicKey | None) -> None:
        assert key is None
        with suppress(OSError):
            self.sock.sendto(datagram, from_endpoint(endpoint, socket.AF_INET6))

    def _take(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.adapter.run)
                while True:
                    await trio.lowlevel.wait_readable(self.sock)
                    datagram, address = self.sock.recvfrom(2000)
                    self.conn.receive(datagram, to_endpoint(address), trio.current_time())
                    self.adapter.wake()
        finally:
            self.sock.close()
            self.routes.close()

    async def until(self, kind: type[T], *endpoints: Endpoint) -> T:
        """The next event of this kind, which names at least these endpoints."""
        with trio.fail_after(TIME_LIMIT):
            while True:
                for number, event in enumerate(self.events):
                    if isinstance(event, kind) and set(endpoints) <= named(event):
                        del self.events[: number + 1]
                        return event
                self._news = trio.Event()
                await self._news.wait()

    def meet(self, other: "Node", *, known: bool = True) -> None:
        """Learn of the other, and have traffic for it."""
        endpoints = other.conn.own_endpoints if known else ()
        paths = PeerPaths(other.key, other.disco_key.public, 0, endpoints)
        self.conn.set_peer(paths, trio.current_time())
        self.conn.note_sent(other.key, trio.current_time())
        self.adapter.wake()


def named(event: Event) -> set[Endpoint]:
    return set(event.endpoints) if isinstance(event, OwnEndpointsChanged) else {event.endpoint}


async def test_two_nodes_find_each_other_and_again_after_a_move(topology: Topology) -> None:
    internet = topology.router("internet")
    alice, bob = topology.host("alice"), topology.host("bob")
    topology.link(alice, "192.0.2.2/24", internet, "192.0.2.1/24")
    topology.link(bob, "198.51.100.2/24 2001:db8::2/64", internet, "198.51.100.1/24 2001:db8::1/64")
    ours, theirs = Node(alice, 1), Node(bob, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.run)
        nursery.start_soon(theirs.run)
        await ours.until(OwnEndpointsChanged, at("192.0.2.2"))
        await theirs.until(OwnEndpointsChanged, at("198.51.100.2"), at("2001:db8::2"))

        theirs.meet(ours, known=False)  # no relay: it pings back once it is pinged
        ours.meet(theirs)
        found = await ours.until(PathChanged, at("198.51.100.2"))
        assert found.latency is not None
        assert found.latency < 1
        await theirs.until(PathChanged, at("192.0.2.2"))

        bob.set_address("198.51.100.2/24", "198.51.100.9/24")
        await theirs.until(OwnEndpointsChanged, at("198.51.100.9"))
        ours.meet(theirs)
        await ours.until(PathChanged, at("198.51.100.9"))
        nursery.cancel_scope.cancel()

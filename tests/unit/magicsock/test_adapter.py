# SPDX-License-Identifier: BSD-3-Clause
"""The adapter on a simulated clock, with interfaces that the test changes; and what the kernel of whatever machine this
is says of its loopback."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_interface
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.unit.magicsock.net import PORT, REGION, at
from ts4nsnet import derp
from ts4nsnet.endpoint import Endpoint, to_endpoint
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.magicsock import Conn, Event, OwnEndpointsChanged, PathChanged, PeerPaths
from ts4nsnet.magicsock.adapter import SETTLE_TIME, Adapter, Routes
from ts4nsnet.magicsock.endpoints import Interface
from ts4nsnet.magicsock.paths import SESSION_TIME

KEY = PrivateKey(bytes([1] * 32)).public
PEER = PeerPaths(
    PrivateKey(bytes([2] * 32)).public, PrivateKey(bytes([3] * 32)).public, REGION, (at("192.0.2.2"), at("192.0.2.3"))
)
RELAY = derp.to_endpoint(REGION, PEER.key)


def ethernet(*addresses: str) -> Interface:
    return Interface(2, "eth0", addresses=tuple(map(ip_interface, addresses)))


class Networks(Routes):
    """What the test says of this host."""

    def __init__(self, *addresses: str) -> None:
        self.now = (ethernet(*addresses),)
        self._ours, self._theirs = socket.socketpair()

    def interfaces(self) -> tuple[Interface, ...]:
        return self.now

    def notifications(self) -> socket.socket:
        self._theirs.setblocking(False)
        return self._theirs

    def change(self, *addresses: str) -> None:
        self.now = (ethernet(*addresses),)
        self._ours.send(b"news")

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class Node:
    """Who has an adapter."""

    def __init__(self, networks: Routes) -> None:
        self.conn = Conn(PrivateKey(bytes([4] * 32)), Random(1).randbytes, lambda _: True)
        self.conn.set_node_key(KEY)
        self.sent: list[tuple[float, Endpoint, PublicKey | None]] = []
        self.events: list[Event] = []
        self.adapter = Adapter(self.conn, networks, PORT, ipv6=True, send=self._send, deliver=self.events.append)

    def _send(self, _: bytes, endpoint: Endpoint, key: PublicKey | None) -> None:
        self.sent.append((trio.current_time(), endpoint, key))


@asynccontextmanager
async def running(networks: Routes) -> AsyncIterator[Node]:
    node = Node(networks)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.adapter.run)
        await wait_all_tasks_blocked()
        yield node
        nursery.cancel_scope.cancel()


@pytest.fixture
def networks() -> Iterator[Networks]:
    made = Networks("192.0.2.1/24")
    yield made
    made.close()


async def test_own_endpoints_are_announced_at_the_start(networks: Networks) -> None:
    async with running(networks) as node:
        assert node.events == [OwnEndpointsChanged((at("192.0.2.1"),))]


async def test_a_change_is_announced_when_it_has_settled(networks: Networks, mock_clock: MockClock) -> None:
    async with running(networks) as node:
        networks.change("192.0.2.1/24", "192.0.2.9/24")
        await wait_all_tasks_blocked(0.05)
        assert len(node.events) == 1
        networks.change("192.0.2.9/24")
        mock_clock.jump(SETTLE_TIME)
        await wait_all_tasks_blocked(0.05)
        assert node.events[1:] == [OwnEndpointsChanged((at("192.0.2.9"),))]
        networks.change("198.51.100.1/24")
        await wait_all_tasks_blocked(0.05)
        mock_clock.jump(SETTLE_TIME)
        await wait_all_tasks_blocked(0.05)
        assert node.events[2:] == [OwnEndpointsChanged((at("198.51.100.1"),))]


async def test_what_a_conn_says_and_sends_is_passed_on_when_woken(networks: Networks) -> None:
    async with running(networks) as node:
        node.conn.set_peer(PEER, trio.current_time())
        node.conn.note_sent(PEER.key, trio.current_time())
        assert node.sent == []
        node.adapter.wake()
        await wait_all_tasks_blocked()
        assert node.events[1:] == [PathChanged(PEER.key, RELAY)]
        assert [item[1:] for item in node.sent] == [
            (at("192.0.2.2"), None),
            (at("192.0.2.3"), None),
            (RELAY, PEER.key),
        ]


async def test_what_a_conn_says_and_sends_can_be_had_at_once(networks: Networks) -> None:
    node = Node(networks)
    node.conn.set_peer(PEER, trio.current_time())
    node.conn.ping(PEER.key, trio.current_time())
    node.adapter.flush()
    assert node.events == [PathChanged(PEER.key, RELAY)]
    assert [item[1:] for item in node.sent] == [(RELAY, PEER.key), (at("192.0.2.2"), None), (at("192.0.2.3"), None)]


async def test_timers_are_kept_and_an_idle_node_sleeps(networks: Networks, autojump_clock: MockClock) -> None:
    async with running(networks) as node:
        began_at = autojump_clock.current_time()
        node.conn.set_peer(PEER, began_at)
        node.conn.note_sent(PEER.key, began_at)
        node.adapter.wake()
        await trio.sleep(100)
        invited = [round(when - began_at) for when, endpoint, _ in node.sent if endpoint == RELAY]
        assert invited == [*range(0, 45, 6)]
        assert max(when for when, *_ in node.sent) < began_at + SESSION_TIME
        assert node.conn.next_timer() is None


# --- the kernel ---


@pytest.fixture
def routes() -> Iterator[Routes]:
    made = Routes()
    yield made
    made.close()


def test_the_kernel_knows_the_loopback(routes: Routes) -> None:
    loopback = [interface for interface in routes.interfaces() if interface.is_loopback]
    assert [interface.name for interface in loopback] == ["lo"]
    assert not loopback[0].is_overlay
    assert routes.is_direct(at("127.0.0.1"))


def test_there_is_no_way_to_where_the_kernel_has_none(routes: Routes) -> None:
    assert not routes.is_direct(to_endpoint(("fe80::1", 1, 0, 2**31 - 1)))  # no such interface


def test_a_socket_for_news_does_not_block(routes: Routes) -> None:
    sock = routes.notifications()
    assert sock is not None
    with sock:
        assert not sock.getblocking()


def test_the_way_to_this_host_has_the_loopbacks_mtu(routes: Routes) -> None:
    (loopback,) = (each for each in routes.interfaces() if each.is_loopback)
    assert loopback.mtu > 0
    assert routes.mtu(at("127.0.0.1")) == loopback.mtu
    routes.close()
    assert routes.mtu(at("127.0.0.1")) == 0


def test_closed_routes_say_that_every_way_is_direct(routes: Routes) -> None:
    known = routes.interfaces()
    routes.close()
    routes.close()
    assert routes.is_direct(to_endpoint(("fe80::1", 1, 0, 2**31 - 1)))
    assert routes.interfaces() == known


async def test_without_netlink_there_are_no_endpoints_and_all_else_works(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def refuse(family: int = -1, *arguments: Any) -> socket.socket:
        if family == socket.AF_NETLINK:
            raise PermissionError("not here")
        return real(family, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        routes = Routes()
        async with running(routes) as node:
            assert (node.events, routes.is_direct(at("192.0.2.1"))) == ([], True)
            node.conn.set_peer(PEER, trio.current_time())
            node.adapter.wake()
            await wait_all_tasks_blocked()
            assert node.events == [PathChanged(PEER.key, RELAY)]

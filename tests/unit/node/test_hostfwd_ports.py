# SPDX-License-Identifier: BSD-3-Clause
"""Published ports: bytes both ways and how connections end, clients of UDP, and what there is room for.

The inside of the container is this machine's loopback network; each test has addresses of its own in it.
"""

import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from itertools import count

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ts4nsnet.netns import NetnsError
from ts4nsnet.node import hostfwd_ports
from ts4nsnet.node.hostfwd_ports import (
    CONNECT_TIME,
    IDLE_TIME,
    RETRY_TIME,
    STOCK_SOCKETS,
    Clients,
    PortError,
    Stock,
    TcpPort,
    UdpPort,
)
from ts4nsnet.node.hostfwd_requests import Forward

PORT = 20080
Socket = trio.socket.SocketType
RESET = struct.pack("ii", 1, 0)
_numbers = count(2)


def own_address() -> IPv4Address:
    """A loopback address that nothing else here uses."""
    return IPv4Address("127.80.0.0") + os.getpid() % 200 * 256 + next(_numbers)


class Container:
    """What a port needs, and sockets made."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.host, self.guest = own_address(), own_address()
        self.made: list[socket.socket] = []
        self.said: list[str] = []
        self.error: NetnsError | None = None
        self.room = trio.Semaphore(2)
        self.clients = Clients()
        self.streams = Stock(self.open_socket, socket.SOCK_STREAM, self.said.append)
        self.datagrams = Stock(self.open_socket, socket.SOCK_DGRAM, self.said.append)
        self._nursery = nursery
        nursery.start_soon(self.streams.run)
        nursery.start_soon(self.datagrams.run)

    async def open_socket(self, family: int, kind: int) -> socket.socket:
        await trio.lowlevel.checkpoint()
        if self.error:
            raise self.error
        sock = socket.socket(family, kind)
        sock.setblocking(False)
        self.made.append(sock)
        return sock

    def open(self) -> int:
        """How many of the sockets made are not closed."""
        return sum(sock.fileno() >= 0 for sock in self.made)

    def forward(self, proto: str) -> Forward:
        return Forward("udp" if proto == "udp" else "tcp", self.host, PORT, self.guest, PORT)

    def publish(self, proto: str = "tcp") -> trio.CancelScope:
        """Publish PORT; a cancellation ends it."""
        forward, scope = self.forward(proto), trio.CancelScope()
        port: TcpPort | UdpPort
        if proto == "udp":
            port = UdpPort(forward, self.datagrams, self.clients)
        else:
            port = TcpPort(forward, self.streams, self.room)

        async def run() -> None:
            with scope:
                await port.run(self._nursery)

        self._nursery.start_soon(run)
        return scope

    async def listen(self) -> trio.SocketListener:
        """What listens inside."""
        (listener,) = await trio.open_tcp_listeners(PORT, host=str(self.guest))
        return listener

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(str(self.host), PORT)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
        """A connection: the client's end, and that inside."""
        async with await self.listen() as listener, await self.connect() as client, await listener.accept() as inner:
            yield client, inner

    async def udp(self, address: IPv4Address, port: int = 0) -> Socket:
        sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        await sock.bind((str(address), port))
        return sock


@pytest.fixture
async def container(nursery: trio.Nursery) -> Container:
    return Container(nursery)


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(chunk) async for chunk in stream])


# --- TCP ------------------------------------------------------------------------------------------------------------


async def test_bytes_go_both_ways(container: Container) -> None:
    container.publish()
    data = os.urandom(3 << 20)
    async with container.connected() as (client, inner):

        async def talk(stream: trio.SocketStream) -> None:
            await stream.send_all(data)
            await stream.send_eof()

        async with trio.open_nursery() as nursery:
            for stream in (client, inner):
                nursery.start_soon(talk, stream)
            assert await read_all(client) == data
            assert await read_all(inner) == data


@pytest.mark.parametrize("client_first", [True, False])
async def test_the_end_of_one_direction_leaves_the_other_open(container: Container, client_first: bool) -> None:
    container.publish()
    async with container.connected() as ends:
        one, other = ends if client_first else reversed(ends)
        await one.send_all(b"question")
        await one.send_eof()
        assert await read_all(other) == b"question"
        await other.send_all(b"answer")
        await other.aclose()
        assert await read_all(one) == b"answer"
    await wait_all_tasks_blocked()
    assert container.open() == STOCK_SOCKETS


@pytest.mark.parametrize("client_first", [True, False])
async def test_a_reset_resets_the_other_side(container: Container, client_first: bool) -> None:
    container.publish()
    async with container.connected() as ends:
        one, other = ends if client_first else reversed(ends)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        await one.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await other.receive_some()


async def test_who_reads_nothing_stops_who_writes(container: Container, autojump_clock: MockClock) -> None:
    container.publish()
    async with container.connected() as (client, _):
        with pytest.raises(trio.TooSlowError):
            with trio.fail_after(3):
                await client.send_all(bytes(64 << 20))


async def test_where_nobody_listens_the_client_is_reset(container: Container) -> None:
    container.publish()
    async with await container.connect() as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
    async with container.connected() as (client, inner):  # and the next one is served
        await client.send_all(b"x")
        assert await inner.receive_some() == b"x"


async def test_more_connections_wait_for_room(container: Container, autojump_clock: MockClock) -> None:
    container.publish()
    async with await container.listen() as listener:
        clients = [await container.connect() for _ in range(3)]
        inner = [await listener.accept() for _ in range(2)]
        with trio.move_on_after(2) as waited:
            await listener.accept()
        assert waited.cancelled_caught
        for stream in (clients[0], inner[0]):
            await stream.aclose()
        inner.append(await listener.accept())
        for stream in (*clients, *inner):
            await stream.aclose()


async def test_a_port_that_ends_leaves_its_connections(container: Container) -> None:
    scope = container.publish()
    async with container.connected() as (client, inner):
        scope.cancel()
        await wait_all_tasks_blocked()
        with pytest.raises(OSError, match="connect to"):
            await container.connect()
        await client.send_all(b"x")
        assert await inner.receive_some() == b"x"


async def test_no_way_inside(container: Container, autojump_clock: MockClock) -> None:
    """Clients are reset in time; it is said why; and as soon as there is a way it is used."""
    container.error = NetnsError("opening the network namespace", "it", "gone", "advice")
    container.publish()
    async with await container.connect() as client:
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        assert trio.current_time() - began == pytest.approx(CONNECT_TIME, abs=2 * RETRY_TIME)
    assert 1 < len(container.said) <= CONNECT_TIME / RETRY_TIME + 2
    assert "a published port has no way into the container: " in container.said[0]


@pytest.mark.parametrize("proto", ["tcp", "udp"])
async def test_a_port_that_is_taken(container: Container, proto: str) -> None:
    container.publish(proto)
    with pytest.raises(PortError, match=rf"publishing {container.host}:{PORT}/{proto} to .*: Address already in use"):
        container.publish(proto)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
async def test_a_port_is_free_after_its_end(container: Container, proto: str) -> None:
    for _ in range(2):
        scope = container.publish(proto)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()


async def test_no_socket_is_made_before_there_is_a_port(container: Container) -> None:
    await wait_all_tasks_blocked()
    assert not container.made
    container.publish()
    await wait_all_tasks_blocked()
    assert len(container.made) == STOCK_SOCKETS


async def test_the_end_closes_everything() -> None:
    async with trio.open_nursery() as nursery:
        container = Container(nursery)
        container.publish("tcp")
        container.publish("udp")
        async with container.connected(), await container.connect():
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert container.made
    assert container.open() == 0


# --- UDP ------------------------------------------------------------------------------------------------------------


async def ask(client: Socket, container: Container, inner: Socket, text: bytes) -> tuple[str, int]:
    """A datagram there and its answer; where inside it came from."""
    await client.sendto(text, (str(container.host), PORT))
    received, source = await inner.recvfrom(1 << 16)
    assert received == text
    await inner.sendto(text[::-1], source)
    assert await client.recvfrom(1 << 16) == (text[::-1], (str(container.host), PORT))
    found: tuple[str, int] = source
    return found


async def test_datagrams_find_back(container: Container) -> None:
    container.publish("udp")
    with await container.udp(container.guest, PORT) as inner:
        clients = [await container.udp(container.host) for _ in range(2)]
        first = [await ask(client, container, inner, b"hello %d" % number) for number, client in enumerate(clients)]
        again = [await ask(client, container, inner, b"again") for client in clients]
        assert first == again
        assert len(set(first)) == 2
        assert await ask(clients[0], container, inner, bytes(60_000)) == first[0]
        await clients[0].sendto(b"", (str(container.host), PORT))
        assert (await inner.recvfrom(100)) == (b"", first[0])
        for client in clients:
            client.close()


async def test_a_silent_client_is_forgotten(container: Container, mock_clock: MockClock) -> None:
    container.publish("udp")
    with await container.udp(container.guest, PORT) as inner, await container.udp(container.host) as client:
        source = await ask(client, container, inner, b"1")
        mock_clock.jump(IDLE_TIME - 1)
        assert await ask(client, container, inner, b"2") == source
        mock_clock.jump(IDLE_TIME - 1)
        await inner.sendto(b"more", source)  # an answer counts, too
        assert (await client.recvfrom(10))[0] == b"more"
        mock_clock.jump(IDLE_TIME - 1)
        await wait_all_tasks_blocked()
        assert container.open() == STOCK_SOCKETS + 1
        mock_clock.jump(2)
        await wait_all_tasks_blocked()
        assert container.open() == STOCK_SOCKETS
        assert await ask(client, container, inner, b"3") != source


async def test_the_client_silent_for_longest_makes_room(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostfwd_ports, "MAX_CLIENTS", 2)
    container.publish("udp")
    with await container.udp(container.guest, PORT) as inner:
        one, two, three = [await container.udp(container.host) for _ in range(3)]
        first, second = await ask(one, container, inner, b"1"), await ask(two, container, inner, b"2")
        assert await ask(one, container, inner, b"1") == first
        await ask(three, container, inner, b"3")  # in the place of two
        await wait_all_tasks_blocked()
        assert container.open() == STOCK_SOCKETS + 2
        assert await ask(one, container, inner, b"1") == first
        assert await ask(two, container, inner, b"2") != second
        for client in (one, two, three):
            client.close()


async def test_datagrams_to_nobody_are_lost_and_the_next_ones_are_not(container: Container) -> None:
    container.publish("udp")
    with await container.udp(container.host) as client:
        for _ in range(3):
            await client.sendto(b"lost", (str(container.host), PORT))
            await wait_all_tasks_blocked()
        with await container.udp(container.guest, PORT) as inner:
            await ask(client, container, inner, b"hello")


async def test_a_guest_that_cannot_be_reached(container: Container) -> None:
    container.guest = IPv4Address("255.255.255.255")
    container.publish("udp")
    with await container.udp(container.host) as client:
        await client.sendto(b"x", (str(container.host), PORT))
        await wait_all_tasks_blocked()
        assert container.open() == STOCK_SOCKETS


async def test_udp_without_a_way_inside(container: Container, autojump_clock: MockClock) -> None:
    container.error = NetnsError("opening the network namespace", "it", "gone", "advice")
    container.publish("udp")
    with await container.udp(container.guest, PORT) as inner, await container.udp(container.host) as client:
        await client.sendto(b"x", (str(container.host), PORT))
        await trio.sleep(10 * RETRY_TIME)
        container.error = None
        await trio.sleep(2 * RETRY_TIME)
        await ask(client, container, inner, b"y")

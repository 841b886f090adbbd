# SPDX-License-Identifier: BSD-3-Clause
"""Published ports: what comes to the host's is carried into the container, and back.

    client ──► port on the host  ┆  socket in the container's network namespace ──► guest_addr:guest_port
               made by this process ┆ made in there, handed out (`Stock`), used by this process

Nothing of it touches the TUN or the tailnet: for the container it comes from itself, as with podman's own port handler.

**TCP.** Each connection is one inside. Bytes go both ways through one buffer each; the end of one direction is passed
on and leaves the other open; a reset resets the other side. Where nobody listens inside, the client is reset. There
are `MAX_CONNECTIONS` at once over all ports; the next ones wait in the kernel.

**UDP.** Each client, that is address and port, has a socket inside, so that the answers find back. It is forgotten
when nothing went either way for `IDLE_TIME`; there are `MAX_CLIENTS` over all ports, and the next one replaces the one
that has been silent for longest. A datagram that finds no room is lost, as everywhere.

A port that is removed takes no new connections; those that are there go on. UDP clients end with it.

Source: slirp4netns(1), add_hostfwd; the idle time is libslirp's SO_EXPIRE.
"""

import errno
import socket
import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.netns import NetnsError
from ts4nsnet.node.hostfwd_requests import Forward

IDLE_TIME = 240.0  # seconds; libslirp's
# ours, all of these
MAX_CONNECTIONS = 1024
MAX_CLIENTS = 512
CONNECT_TIME = 30.0  # seconds; for a socket, and for its connection
RETRY_TIME = 1.0  # seconds, after there was none to be had
STOCK_SOCKETS = 4
_KEEPALIVE_TIME = 60  # seconds; then the kernel asks whether a silent end is still there
_BACKLOG = 128
_CHUNK_BYTES = 1 << 16
_DATAGRAM_BYTES = 1 << 16
_BATCH_DATAGRAMS = 32  # read before others have their turn
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing is a reset
_NO_ROOM = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_Address = tuple[str, int]

# a socket inside the container, by family and kind; raises `NetnsError`
OpenSocket = Callable[[int, int], Awaitable[socket.socket]]


class PortError(Ts4nsnetError):
    """A port of the host cannot be had; the text says which and why."""


class Stock:
    """Sockets inside the container, made ahead: `STOCK_SOCKETS` of one kind, from the first one that is taken.

    One that has to be made first takes a tenth of a second when its maker, the netns child, has to be started.

    Args:
        open_socket: see `OpenSocket`.
        kind: SOCK_STREAM or SOCK_DGRAM.
        say: takes what a user should read.
    """

    def __init__(self, open_socket: OpenSocket, kind: int, say: Callable[[str], None]) -> None:
        self._open_socket = open_socket
        self._kind = kind
        self._say = say
        self._wanted = trio.Event()
        self._put, self._get = trio.open_memory_channel[socket.socket](STOCK_SOCKETS - 1)

    async def run(self) -> None:
        """Keep it full until cancelled, and close what is left."""
        await self._wanted.wait()
        try:
            while True:
                await self._add()
        finally:
            with suppress(trio.WouldBlock):
                while True:
                    self._get.receive_nowait().close()

    def prepare(self) -> None:
        """Fill it: sockets will be wanted."""
        self._wanted.set()

    async def take(self) -> socket.socket:
        """One of them; the caller closes it."""
        self.prepare()
        return await self._get.receive()

    async def _add(self) -> None:
        try:
            sock = await self._open_socket(socket.AF_INET, self._kind)
        except NetnsError as error:
            self._say(f"a published port has no way into the container: {error}")
            await trio.sleep(RETRY_TIME)
            return
        try:
            await self._put.send(sock)
        except trio.Cancelled:
            sock.close()
            raise


class TcpPort:
    """A TCP port of the host.

    Args:
        forward: where it is and leads to.
        stock: of stream sockets.
        room: one token for each connection, of all ports.

    Raises:
        PortError: it cannot be had.
    """

    def __init__(self, forward: Forward, stock: Stock, room: trio.Semaphore) -> None:
        self._guest = (str(forward.guest_addr), forward.guest_port)
        self._stock = stock
        self._room = room
        self._listener = _bound(forward, socket.SOCK_STREAM)
        stock.prepare()

    async def run(self, connections: trio.Nursery) -> None:
        """Take connections until cancelled; each is a task of `connections`."""
        with self._listener:
            while True:
                await trio.lowlevel.wait_readable(self._listener)
                await self._room.acquire()
                try:
                    client, _ = self._listener.accept()
                except OSError as error:  # one that has gone already, or no room for it
                    self._room.release()
                    if error.errno in _NO_ROOM:
                        await trio.sleep(RETRY_TIME)
                else:
                    connections.start_soon(self._carry, trio.socket.from_stdlib_socket(client))

    async def _carry(self, client: trio.socket.SocketType) -> None:
        try:
            async with _stream(client) as outer:
                try:
                    inner = await self._dial()
                except (OSError, trio.TooSlowError):
                    outer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return
                async with inner:
                    await splice(outer, inner)
        finally:
            self._room.release()

    async def _dial(self) -> trio.SocketStream:
        """A connection inside; raises OSError, TooSlowError."""
        with trio.fail_after(CONNECT_TIME):
            sock = trio.socket.from_stdlib_socket(await self._stock.take())
            try:
                await sock.connect(self._guest)
            except BaseException:
                sock.close()
                raise
        return _stream(sock)


async def splice(one: trio.SocketStream, other: trio.SocketStream) -> None:
    """Carry bytes both ways until both have ended; the reset of one resets the other. Closes neither."""
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry_on, one, other)
            nursery.start_soon(_carry_on, other, one)
    except* (trio.BrokenResourceError, OSError):
        for stream in (one, other):
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


async def _carry_on(source: trio.SocketStream, target: trio.SocketStream) -> None:
    while chunk := await source.receive_some(_CHUNK_BYTES):
        await target.send_all(chunk)
    await target.send_eof()


@dataclass(eq=False, slots=True)
class Client:
    """A client of a UDP port, by its socket inside.

    Attributes:
        key: the port, and where on it the client is.
        sock: connected; whoever answers owns it.
        scope: of who answers; its deadline is when the client is forgotten.
    """

    key: tuple["UdpPort", _Address]
    sock: socket.socket
    scope: trio.CancelScope


class Clients:
    """UDP clients of all ports, `MAX_CLIENTS` at most; the one that was silent for longest makes room."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[UdpPort, _Address], Client] = OrderedDict()

    def get(self, key: tuple["UdpPort", _Address]) -> Client | None:
        """The client, if it is known."""
        return self._known.get(key)

    def add(self, client: Client) -> None:
        """A new one, which takes the place of another if need be."""
        if len(self._known) >= MAX_CLIENTS:
            _, oldest = self._known.popitem(last=False)
            oldest.scope.cancel()
        self._known[client.key] = client
        self.touch(client)

    def touch(self, client: Client) -> None:
        """Something went from or to it."""
        if self._known.get(client.key) is client:
            self._known.move_to_end(client.key)
            client.scope.deadline = trio.current_time() + IDLE_TIME

    def remove(self, client: Client) -> None:
        """Forget it, if that has not happened yet."""
        if self._known.get(client.key) is client:
            del self._known[client.key]


class UdpPort:
    """A UDP port of the host.

    Args:
        forward: where it is and leads to.
        stock: of datagram sockets.
        clients: of all ports.

    Raises:
        PortError: it cannot be had.
    """

    def __init__(self, forward: Forward, stock: Stock, clients: Clients) -> None:
        self._guest = (str(forward.guest_addr), forward.guest_port)
        self._stock = stock
        self._clients = clients
        self._sock = _bound(forward, socket.SOCK_DGRAM)
        stock.prepare()

    async def run(self, _connections: trio.Nursery) -> None:
        """Carry datagrams until cancelled."""
        with self._sock:
            async with trio.open_nursery() as nursery:
                while True:
                    for datagram, address in await _datagrams(self._sock):
                        client = self._clients.get((self, address)) or await self._new(address, nursery)
                        if client is not None:
                            self._clients.touch(client)
                            with suppress(OSError):  # nobody listens inside, or not fast enough
                                client.sock.send(datagram)

    async def _new(self, address: _Address, nursery: trio.Nursery) -> Client | None:
        """A client that is not known yet; None when there is no way inside."""
        with trio.move_on_after(RETRY_TIME):  # the others wait meanwhile
            sock = await self._stock.take()
            try:
                sock.connect(self._guest)
            except OSError:
                sock.close()
                return None
            client = Client((self, address), sock, trio.CancelScope())
            self._clients.add(client)
            nursery.start_soon(self._answer, address, client)
            return client
        return None

    async def _answer(self, address: _Address, client: Client) -> None:
        """Carry what comes from inside to the client, until it is forgotten."""
        with client.sock, client.scope:
            try:
                while True:
                    for datagram, _ in await _datagrams(client.sock):
                        self._clients.touch(client)
                        with suppress(OSError):  # the client has gone, or the way to it is full
                            self._sock.sendto(datagram, address)
            finally:
                self._clients.remove(client)


async def _datagrams(sock: socket.socket) -> list[tuple[bytes, _Address]]:
    """What has come to a non-blocking socket, once something has; errors of what was sent before are none of it."""
    await trio.lowlevel.wait_readable(sock)
    found: list[tuple[bytes, _Address]] = []
    for _ in range(_BATCH_DATAGRAMS):
        try:
            found.append(sock.recvfrom(_DATAGRAM_BYTES))
        except BlockingIOError:
            break
        except OSError:
            continue
    return found


def _bound(forward: Forward, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:  # connections of before do not keep it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(forward.host_addr), forward.host_port))
        if kind == socket.SOCK_STREAM:
            sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise PortError(f"publishing {forward}: {error.strerror}") from None
    return sock


def _stream(sock: trio.socket.SocketType) -> trio.SocketStream:
    stream = trio.SocketStream(sock)
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_TIME)
    return stream

# SPDX-License-Identifier: BSD-3-Clause
"""slirp4netns' API socket (`--api-socket PATH`): container tools publish ports by it.

    podman, rootlesskit ──one connection, one request, one answer──► this ──► ports (hostfwd_ports.py)

A connection is read until the request is complete, or until its end, or for `MORE_TIME` if nothing more comes of what
was begun: some clients never say that they have written all. The answer is written and the connection closed.

The socket listens before the container tool is told that we are ready, for it may publish ports at once. An old one of
that name is replaced. At the end it is removed, unless a successor has put its own there already: a container that is
started anew may have the same path, and does not wait until its old node has logged out. For the same reason ports and
socket end first of all, when the node is told to leave.

What is published is also in a file of the node's folder. A node process that takes the place of one that has died
finds it there and publishes it again, by the same numbers; connections are lost.

Source: slirp4netns(1); container-tools.md 3.4, 7.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import trio

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keeper.folder import socket_address
from ts4nsnet.node.hostfwd_ports import MAX_CONNECTIONS, Clients, OpenSocket, PortError, Stock, TcpPort, UdpPort
from ts4nsnet.node.hostfwd_requests import (
    MAX_REQUEST_BYTES,
    Add,
    BadRequest,
    Forward,
    List,
    Remove,
    added,
    is_complete,
    kept,
    listed,
    parse,
    refused,
    removed,
    to_keep,
)
from ts4nsnet.node.statefile import Folder, StateError

# ours, all of these
KEPT = "ports.json"  # in the node's folder
MAX_CLIENTS = 16  # of the API socket; more are closed at once
REQUEST_TIME = 30.0  # seconds; for the first byte, and for taking the answer
MORE_TIME = 1.0  # seconds; between what is no request yet and its rest


class ApiSocketError(Ts4nsnetError):
    """The API socket cannot be had; the text says why."""


async def serve(
    path: Path,
    guest: IPv4Address,
    open_socket: OpenSocket,
    say: Callable[[str], None],
    folder: Path,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Publish ports as asked at a Unix socket, until cancelled: `await nursery.start(serve, …)`.

    Args:
        path: of the socket; what is there is replaced.
        guest: the container's own address, where ports lead that name no other.
        open_socket: see `OpenSocket`.
        say: takes what a user should read.
        folder: the node's own, where what is published is kept for a process after this one.
        task_status: told when the socket listens.

    Raises:
        ApiSocketError: there is no socket to be had.
        StateError: the folder cannot be used.
    """
    with _listening(path) as sock, closing(Folder.open(folder)) as state:
        async with trio.open_nursery() as nursery:
            forwards = HostForwards(nursery, open_socket, say, state)
            forwards.restore()
            server = _Server(forwards, guest)
            task_status.started()
            await trio.serve_listeners(server.handle, [trio.SocketListener(sock)])


class HostForwards:
    """The ports that are published, by number.

    Args:
        nursery: where they, and all connections through them, live.
        open_socket: see `OpenSocket`.
        say: takes what a user should read.
        state: where they are kept.
    """

    def __init__(
        self, nursery: trio.Nursery, open_socket: OpenSocket, say: Callable[[str], None], state: Folder
    ) -> None:
        self._state = state
        self._nursery = nursery
        self._say = say
        self._streams = Stock(open_socket, socket.SOCK_STREAM, say)
        self._datagrams = Stock(open_socket, socket.SOCK_DGRAM, say)
        self._room = trio.Semaphore(MAX_CONNECTIONS)
        self._clients = Clients()
        self._last = 0  # number
        self._ports: dict[int, _Published] = {}
        nursery.start_soon(self._streams.run)
        nursery.start_soon(self._datagrams.run)

    def restore(self) -> None:
        """Publish what a process before this one had published; what cannot be is said and forgotten."""
        try:
            data = self._state.read(KEPT)
            if data is None:
                return
            self._last, entries = kept(data)
        except (StateError, ValueError) as error:
            self._say(f"published ports are lost: {error}")
            return
        for number, forward in entries:
            with suppress(BadRequest):
                self._publish(number, forward)

    async def answer(self, data: bytes, guest: IPv4Address) -> bytes:
        """Do what a request says; it is done then, a removed port is free.

        Args:
            data: all that has come.
            guest: the container's own address.

        Returns:
            what is to be answered.
        """
        try:
            match parse(data, guest):
                case Add(forward):
                    return added(self._add(forward))
                case Remove(number):
                    await self._remove(number)
                    return removed()
                case List():
                    return listed(self._all())
        except BadRequest as error:
            return refused(error)

    def _all(self) -> list[tuple[int, Forward]]:
        return [(number, port.forward) for number, port in self._ports.items()]

    def _add(self, forward: Forward) -> int:
        self._publish(self._last + 1, forward)
        self._last += 1
        self._keep()
        return self._last

    def _publish(self, number: int, forward: Forward) -> None:
        try:
            port: TcpPort | UdpPort
            if forward.proto == "tcp":
                port = TcpPort(forward, self._streams, self._room)
            else:
                port = UdpPort(forward, self._datagrams, self._clients)
        except PortError as error:
            self._say(str(error))
            raise BadRequest("add_hostfwd: slirp_add_hostfwd failed") from None
        self._ports[number] = published = _Published(forward)
        self._nursery.start_soon(published.run, port, self._nursery)

    async def _remove(self, number: int) -> None:
        if number not in self._ports:
            raise BadRequest("remove_hostfwd: bad arguments.id")
        port = self._ports.pop(number)
        self._keep()
        await port.end()

    def _keep(self) -> None:
        try:
            self._state.write(KEPT, to_keep(self._last, self._all()))
        except StateError as error:
            self._say(f"published ports are lost if this process dies: {error}")


class _Published:
    """A port while it is published."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self._scope = trio.CancelScope()
        self._has_ended = trio.Event()

    async def run(self, port: TcpPort | UdpPort, connections: trio.Nursery) -> None:
        """Until `end`, or a cancellation."""
        with self._scope:
            await port.run(connections)
        self._has_ended.set()

    async def end(self) -> None:
        """Let go of the port."""
        self._scope.cancel()
        await self._has_ended.wait()


class _Server:
    """All connections of the API socket."""

    def __init__(self, forwards: HostForwards, guest: IPv4Address) -> None:
        self._forwards = forwards
        self._guest = guest
        self._connections = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, to its end."""
        self._connections += 1
        try:
            async with stream:
                if self._connections <= MAX_CLIENTS:
                    with suppress(trio.BrokenResourceError, trio.TooSlowError):
                        data = await _request(stream)
                        answer = await self._forwards.answer(data, self._guest)
                        with trio.fail_after(REQUEST_TIME):
                            await stream.send_all(answer)
        finally:
            self._connections -= 1


async def _request(stream: trio.SocketStream) -> bytes:
    """All that a client says; raises TooSlowError when it says nothing."""
    with trio.fail_after(REQUEST_TIME):
        data = chunk = bytes(await stream.receive_some(MAX_REQUEST_BYTES))
    with trio.move_on_after(MORE_TIME) as patience:
        while chunk and not is_complete(data):
            chunk = bytes(await stream.receive_some(MAX_REQUEST_BYTES - len(data)))
            data += chunk
            patience.deadline = trio.current_time() + MORE_TIME
    return data


@contextmanager
def _listening(path: Path) -> Iterator[trio.socket.SocketType]:
    """A socket that listens there, and its file; both are gone afterwards."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, socket_address(path) as address:
        try:
            path.unlink(missing_ok=True)
            sock.bind(address)
            ours = _identity(path)
            path.chmod(0o600)
            sock.listen(MAX_CLIENTS)
        except OSError as error:
            raise ApiSocketError(f"--api-socket {path}: cannot listen there: {error.strerror}") from None
        try:
            yield trio.socket.from_stdlib_socket(sock)
        finally:
            with suppress(OSError):  # removed by somebody else
                if _identity(path) == ours:
                    path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino

# SPDX-License-Identifier: BSD-3-Clause
"""What a node needs of the machine it runs on: a TUN, a link, sockets, memory.

A node that runs in a process of its own asks its keeper, which owns these things and outlives it; one that shares a
process with others, as in tests, makes them itself. The node does not know which.

Only a keeper has workers. One that dies is followed by another, so what the node has is a link: a socket at a time.
"""

import mmap
import socket
from typing import Protocol

import trio

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.netns import Configured, Link, Target, Tun, configure, open_tun
from ts4nsnet.netns import open_socket as open_container_socket
from ts4nsnet.sockets import open_socket


class WorkerError(Ts4nsnetError):
    """No worker can carry this node's packets; the text says why."""


class WorkerLink:
    """The node's link to its worker, whichever that is.

    Args:
        counters: what all workers of this node have counted, in one memory.

    Attributes:
        counters: as given.
        trouble: why the next worker is a while in coming; empty when it is not.
    """

    def __init__(self, counters: mmap.mmap) -> None:
        self.counters = counters
        self.trouble = ""
        self._sock: socket.socket | None = None  # the newest, until it is taken
        self._failure = ""
        self._changed = trio.Event()

    async def connection(self) -> socket.socket:
        """A socket to a worker: non-blocking, seqpacket, the caller's to close.

        The first one is the first worker's. When its end of file says that this one is gone, the next call waits for
        another.

        Raises:
            WorkerError: there will be none.
        """
        while self._sock is None:
            if self._failure:
                raise WorkerError(self._failure)
            await self._changed.wait()
        sock, self._sock = self._sock, None
        return sock

    def renew(self, sock: socket.socket) -> None:
        """There is another worker, or another socket to it; one that was not taken is closed."""
        self.close()
        self._sock, self.trouble, self._failure = sock, "", ""
        self._wake()

    def fail(self, why: str) -> None:
        """There will be no worker."""
        self.close()
        self._failure = why
        self._wake()

    def close(self) -> None:
        """Close the socket that was not taken, if there is one."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Surroundings(Protocol):
    """Each call may be cancelled at any time; what is returned belongs to the caller, who closes it."""

    async def open_tun(self) -> Tun:
        """The container's TUN; raises `NetnsError`."""

    async def configure(self, link: Link) -> Configured:
        """Make the container's link as asked; raises `NetnsError`."""

    async def udp_socket(self) -> socket.socket:
        """The socket under the tunnel, of the host; raises OSError."""

    async def session_memory(self, size: int) -> mmap.mmap:
        """Zeroed bytes for the WireGuard sessions, or those that the node before this one had; raises OSError."""

    async def worker(self, engine: str) -> WorkerLink | None:
        """Let a worker carry the packets between TUN and UDP socket, for which the node then does not ask; once.

        It works on the session memory, for which the node has to ask first. Its socket may be a while in coming.

        Args:
            engine: "uring", "epoll", or "auto" for the better one that works.

        Returns:
            None: these surroundings have none.
        """

    async def container_socket(self, family: int, kind: int) -> socket.socket:
        """A non-blocking socket inside the container's network namespace; raises `NetnsError`."""


class OwnSurroundings:
    """Makes everything in this process, which must have the rights for it.

    Args:
        target: the container's namespaces.
        interface: the name of the TUN.
        port: of UDP; 0 for any.
    """

    def __init__(self, target: Target, interface: str, port: int = 0) -> None:
        self._target = target
        self._interface = interface
        self._port = port

    async def open_tun(self) -> Tun:
        """See `Surroundings`; once begun it is not cancelled, for the TUN would stay."""
        return await trio.to_thread.run_sync(open_tun, self._target, self._interface)

    async def configure(self, link: Link) -> Configured:
        """See `Surroundings`."""
        return await trio.to_thread.run_sync(configure, self._target, link, abandon_on_cancel=True)

    async def udp_socket(self) -> socket.socket:
        """See `Surroundings`."""
        return open_socket(self._port)

    async def session_memory(self, size: int) -> mmap.mmap:
        """See `Surroundings`."""
        return mmap.mmap(-1, size)

    async def worker(self, engine: str) -> WorkerLink | None:  # noqa: ARG002  whichever, there is none
        """See `Surroundings`."""
        return None

    async def container_socket(self, family: int, kind: int) -> socket.socket:
        """See `Surroundings`; once begun it is not cancelled, for the socket would stay."""
        return await trio.to_thread.run_sync(open_container_socket, self._target, family, kind)

# SPDX-License-Identifier: BSD-3-Clause
"""What a node needs of the machine it runs on: a TUN, a link, sockets, memory.

A node that runs in a process of its own asks its keeper, which owns these things and outlives it; one that shares a
process with others, as in tests, makes them itself. The node does not know which.
"""

import mmap
import socket
from typing import Protocol

import trio

from ts4nsnet.netns import Configured, Link, Target, Tun, configure, open_tun
from ts4nsnet.netns import open_socket as open_container_socket
from ts4nsnet.sockets import open_socket


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

    async def container_socket(self, family: int, kind: int) -> socket.socket:
        """See `Surroundings`; once begun it is not cancelled, for the socket would stay."""
        return await trio.to_thread.run_sync(open_container_socket, self._target, family, kind)

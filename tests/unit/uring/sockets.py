# SPDX-License-Identifier: BSD-3-Clause
"""Sockets that behave as the test wants, where the kernel of a test machine would not.

`Wire` is a UDP socket on a network between two, made of a pair of Unix sockets: it carries trains, and can be full, as
a real one is whose device is slow. `OldKernel` has none of the newer options. `Refusing` refuses what it is told to.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from ts4nsnet.endpoint import Address
from ts4nsnet.sockets import SO_RCVBUFFORCE, SO_SNDBUFFORCE, UDP_GRO
from ts4nsnet.uring.udp import UDP_SEGMENT

_SEGMENT_BYTES = struct.Struct("=H")


class Wire(socket.socket):
    """One end of a network; `address` is this end's, `sent_to` where the last train was addressed to."""

    address: Address
    peer_address: Address
    sent_to: Address | None = None
    refusals = 0  # of the next sends: a socket that says it is writable may still lack the room for all of a train

    @classmethod
    def pair(cls) -> "tuple[Wire, Wire]":
        """Both ends; each holds some 200 KB that the other one has not taken yet."""
        one, two = (cls(fileno=end.detach()) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        one.address = two.peer_address = ("::ffff:192.0.2.1", 51820, 0, 0)
        two.address = one.peer_address = ("::ffff:192.0.2.2", 51820, 0, 0)
        for end in (one, two):
            end.setblocking(False)
        return one, two

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6

    def getsockopt(self, *_: Any) -> Any:
        return 0

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        if self.refusals:
            self.refusals -= 1
            raise _error(errno.EAGAIN)
        self.sent_to = address
        segment_bytes = next((data for _, kind, data in ancdata if kind == UDP_SEGMENT), bytes(2))
        return super().sendmsg([segment_bytes, *buffers], (), flags)

    def recvmsg_into(self, buffers: Iterable[Any], *_: Any) -> Any:
        received = self.recv(1 << 17)
        (view,) = buffers
        (segment_bytes,) = _SEGMENT_BYTES.unpack_from(received)
        view[: len(received) - 2] = received[2:]
        merged = [(socket.SOL_UDP, UDP_GRO, struct.pack("=i", segment_bytes))] if segment_bytes else []
        return len(received) - 2, merged, 0, self.peer_address


class OldKernel(socket.socket):
    """A UDP socket of a kernel that knows no trains, and of a process that may not force buffer sizes."""

    def setsockopt(self, level: int, optname: int, value: Any, *more: Any) -> None:
        if level == socket.SOL_SOCKET and optname in (SO_RCVBUFFORCE, SO_SNDBUFFORCE):
            raise _error(errno.EPERM)
        if (level, optname) == (socket.SOL_UDP, UDP_GRO):
            raise _error(errno.ENOPROTOOPT)
        super().setsockopt(level, optname, value, *more)

    def getsockopt(self, level: int, optname: int, *more: Any) -> Any:
        if (level, optname) == (socket.SOL_UDP, UDP_SEGMENT):
            raise _error(errno.ENOPROTOOPT)
        return super().getsockopt(level, optname, *more)


class WithoutIPv6(socket.socket):
    """The sockets of a kernel that was booted with ipv6.disable=1."""

    def __init__(self, family: int = -1, kind: int = -1, protocol: int = -1, fileno: int | None = None) -> None:
        if family == socket.AF_INET6:
            raise _error(errno.EAFNOSUPPORT)
        super().__init__(family, kind, protocol, fileno)


class WithoutFiles(socket.socket):
    """The sockets of a process that has too many files open."""

    def __init__(self, *_: Any) -> None:
        raise _error(errno.EMFILE)


class Refusing(socket.socket):
    """A UDP socket that asks `refuse` with what is in each call and raises the error that it returns, if any."""

    refuse: Callable[[list[Any]], int] = staticmethod(lambda _: 0)

    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        pieces = list(buffers)
        if number := self.refuse(pieces):
            raise _error(number)
        return super().sendmsg(pieces, ancdata, flags, address)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))

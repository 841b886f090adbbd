# SPDX-License-Identifier: BSD-3-Clause
"""Paths' I/O: what the kernel says of this host's networks, and one task that keeps a `Conn`'s time.

    netlink ── interfaces, addresses ──► own endpoints ──► Conn.set_own_endpoints      at the start, 1 s after a change
    netlink ── a route's interface and MTU ◄──► Routes.is_direct, mtu                  whenever Conn wants to know
    timers, wake() ──► Conn ──► datagrams, events to the node

Nothing is asked for at intervals: an idle node sleeps. Without netlink (some sandboxes) this host has no endpoints to
announce and every way counts as direct; peers that can be reached are still found.

Source: rtnetlink(7), netlink(7).
"""

import errno
import socket
from collections.abc import Callable
from contextlib import nullcontext, suppress
from math import inf
from typing import NoReturn

import trio

from ts4nsnet.endpoint import Endpoint
from ts4nsnet.keys import PublicKey
from ts4nsnet.magicsock import netlink
from ts4nsnet.magicsock.conn import Conn
from ts4nsnet.magicsock.endpoints import Interface, own_endpoints
from ts4nsnet.magicsock.events import Event

SETTLE_TIME = 1.0  # seconds after a change in which others belong to it; as the reference
ANSWER_TIME = 1.0  # ours: seconds; the kernel answers before `send` returns
READ_BYTES = 1 << 16
# what the kernel says instead of a route; the last two of prohibited and black-holed ones
NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)

Send = Callable[[bytes, Endpoint, PublicKey | None], None]
Deliver = Callable[[Event], None]


class Routes:
    """This host's interfaces, and which of them a datagram would leave by; `close` it in the end."""

    def __init__(self) -> None:
        self._sock = _open()
        if self._sock is not None:
            self._sock.settimeout(ANSWER_TIME)
        self._sequence = 0
        self._interfaces: dict[int, Interface] = {}
        self.interfaces()

    def close(self) -> None:
        """Every way counts as direct from now on."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def interfaces(self) -> tuple[Interface, ...]:
        """Ask for all interfaces and their addresses; the last ones known when there is no answer."""
        with suppress(OSError):
            messages = self._dump(netlink.Kind.GET_LINK) + self._dump(netlink.Kind.GET_ADDRESS)
            self._interfaces = {interface.index: interface for interface in netlink.interfaces(messages)}
        return tuple(self._interfaces.values())

    def is_direct(self, endpoint: Endpoint) -> bool:
        """Whether there is a way to this endpoint of UDP that leads through no overlay."""
        try:
            _, interface = self._route(endpoint)
        except OSError as problem:
            return problem.errno not in NO_WAY
        return interface is None or not interface.is_overlay

    def mtu(self, endpoint: Endpoint) -> int:
        """How long an IP packet to this endpoint of UDP may be so that it leaves in one piece; 0: unknown."""
        try:
            answer, interface = self._route(endpoint)
        except OSError:
            return 0
        known = netlink.route_mtu(answer), interface.mtu if interface is not None else 0
        return min(filter(None, known), default=0)

    def notifications(self) -> socket.socket | None:
        """A socket that is readable when an interface or an address has changed; None without netlink."""
        sock = _open()
        if sock is not None:
            sock.bind((0, netlink.GROUPS))
            sock.setblocking(False)
        return sock

    def _route(self, endpoint: Endpoint) -> tuple[netlink.Message, Interface | None]:
        """The kernel's route, and the interface it leads out by; raises OSError."""
        self._sequence += 1
        answer = self._ask(netlink.route_request(endpoint, self._sequence))[0]
        index = netlink.outgoing_interface(answer)
        if index not in self._interfaces:
            self.interfaces()
        return answer, self._interfaces.get(index)

    def _dump(self, kind: netlink.Kind) -> list[netlink.Message]:
        self._sequence += 1
        messages = self._ask(netlink.dump(kind, self._sequence))
        while messages[-1].kind != netlink.Kind.DONE:
            messages += self._read()
        return messages

    def _ask(self, request: bytes) -> list[netlink.Message]:
        if self._sock is None:
            raise OSError(errno.EBADF, "there is no netlink")
        self._sock.send(request)
        while not (messages := self._read()):
            pass  # an answer that came too late for an earlier question
        return messages

    def _read(self) -> list[netlink.Message]:
        """The next messages of the last question's answer; raises OSError, also for one that the kernel reports."""
        if self._sock is None:
            raise OSError(errno.EBADF, "there is no netlink")
        received = netlink.parse(self._sock.recv(READ_BYTES))
        messages = [message for message in received if message.sequence == self._sequence]
        for message in messages:
            if number := netlink.error(message):
                raise OSError(number, "the kernel's answer")
        return messages


class Adapter:
    """Runs a `Conn` on trio; `now` is trio's time.

    Args:
        conn: may be told things at any time; call `wake` then.
        routes: that the conn asks.
        port: of the UDP socket.
        ipv6: whether that socket can IPv6.
        send: takes a datagram, its endpoint, and for a relay's endpoint whose it is; drops it when there is no room.
        deliver: takes events in their order.
    """

    def __init__(self, conn: Conn, routes: Routes, port: int, *, ipv6: bool, send: Send, deliver: Deliver) -> None:
        self._conn = conn
        self._routes = routes
        self._port = port
        self._ipv6 = ipv6
        self._send = send
        self._deliver = deliver
        self._wake = trio.Event()

    def wake(self) -> None:
        """Look at the conn again: it may have datagrams, events or another timer."""
        self._wake.set()

    def flush(self) -> None:
        """Send and deliver what there is, now."""
        for datagram in self._conn.datagrams_to_send():
            self._send(*datagram)
        while (event := self._conn.next_event()) is not None:
            self._deliver(event)

    async def run(self) -> NoReturn:
        """Announce this host's endpoints, send and deliver, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                self._wake = trio.Event()
                self._conn.handle_timer(trio.current_time())
                self.flush()
                timer = self._conn.next_timer()
                with trio.move_on_at(inf if timer is None else timer):
                    await self._wake.wait()

    async def _watch(self) -> None:
        with self._routes.notifications() or nullcontext() as sock:
            while True:
                endpoints = own_endpoints(self._routes.interfaces(), self._port, ipv6=self._ipv6)
                self._conn.set_own_endpoints(endpoints, trio.current_time())
                self.wake()
                if sock is None:
                    return
                await trio.lowlevel.wait_readable(sock)
                await trio.sleep(SETTLE_TIME)
                _drain(sock)


def _open() -> socket.socket | None:
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except OSError:
        return None


def _drain(sock: socket.socket) -> None:
    """Take what is there: the news is that there is any, also when there was more than the socket could hold."""
    with suppress(OSError):
        while True:
            sock.recv(READ_BYTES)

# SPDX-License-Identifier: BSD-3-Clause
"""MagicDNS's I/O: queries in packets of the container, answers in packets to it, sockets to the servers.

    container's packet ─► handle ─► MagicDns ─► write ─► container
                                    │      ▲
                              queries     answers
                                    ▼      │
                        a line per server: a connected UDP socket

A **line** is made when the first query for its server is due. It takes queries for 2 s, or 64 of them, then the next
query makes another one, with another source port: who wants to slip in a false answer has to guess port and identifier
anew. Then it is closed, once all its queries are answered or nobody waits any more. So an idle node has no socket and
no timer, and a thousand queries a second need a few dozen sockets. Being connected, it takes datagrams of its server
alone, and says so at once when nobody listens there.

Where the way to a server leads through the container's own interface (an exit node, a resolver in the tailnet), the
query comes by here once more; `handle` knows it by its source and lets it pass.

The host's resolvers are looked up again when their files have changed; that is checked when queries come, at most once
a second.

Source: notes dns-filter.md A1, A6; new-features.md, trap 8; RFC 5452, 9.2.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Any, NoReturn

import trio

from ts4nsnet.dns.forwarder import GIVE_UP_TIME, Client
from ts4nsnet.dns.hostresolv import SOURCES, host_resolvers
from ts4nsnet.dns.resolver import MagicDns
from ts4nsnet.dns.upstream import DNS_PORT, Upstream
from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.packet import UDP, Buffer, IPv4, IPv6, Malformed, Protocol, carry, parse_ip

LINE_TIME = 2.0  # ours: seconds for which a line takes queries
MAX_LINE_QUERIES = 64  # ours: that a line takes
LOOK_TIME = 1.0  # ours: seconds between looking at the host's files
MAX_DATAGRAM_BYTES = 4096  # as in the reference; what is longer is cut for its client anyway

# takes whole IP packets for the container
Write = Callable[[Sequence[bytes]], None]
# gives a new, non-blocking socket of the address' family and this kind; raises OSError or Ts4nsnetError
UpstreamSocket = Callable[[Upstream, int], Awaitable[socket.socket]]


class HostFiles:
    """The host's resolvers, read again when one of the files has changed.

    Args:
        root: folder that the files are in.
    """

    def __init__(self, root: str = "/") -> None:
        self._paths = {path: Path(root, path.lstrip("/")) for path in SOURCES}
        self._seen: list[tuple[int, ...]] | None = None
        self._next_look_at = -inf

    def changed(self, now: float) -> tuple[Upstream, ...] | None:
        """The resolvers, if they may have changed since the last call; looks at most every `LOOK_TIME`."""
        if now < self._next_look_at:
            return None
        self._next_look_at = now + LOOK_TIME
        seen = [_stamp(path) for path in self._paths.values()]
        if seen == self._seen:
            return None
        self._seen = seen
        return host_resolvers(self._read)

    def _read(self, path: str) -> str | None:
        try:
            return self._paths[path].read_text("ascii", "replace")
        except OSError:
            return None


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


@dataclass(slots=True, eq=False)
class _Line:
    """A socket to one server, or one that is about to be."""

    upstream: Upstream
    until: float  # takes queries
    close_at: float  # nobody waits for answers any more
    sock: socket.socket | None = None
    outbox: list[bytes] = field(default_factory=list)  # what came before there was a socket
    taken: int = 0  # queries
    answered: int = 0


class Adapter:
    """Runs a `MagicDns` on trio; `now` is trio's time.

    Args:
        magic: its configuration may be set at any time.
        write: is called with answers for the container, also within `handle`.
        upstream_socket: makes the sockets.
        host: where the host's resolvers are read.
    """

    def __init__(
        self, magic: MagicDns, write: Write, upstream_socket: UpstreamSocket, host: HostFiles | None = None
    ) -> None:
        self._magic = magic
        self._write = write
        self._upstream_socket = upstream_socket
        self._host = HostFiles() if host is None else host
        self._wake = trio.Event()
        self._lines: dict[Upstream, _Line] = {}  # that take queries
        self._own: set[tuple[bytes, int]] = set()  # address and port of each socket

    def handle(self, packet: Buffer) -> bool:
        """Take a whole packet that the container has sent, whoever it is for.

        Returns:
            Whether it was for us. If not, it is no whole datagram to port 53, or a query of our own on its way.
        """
        try:
            ip = parse_ip(packet)
            if ip.protocol != Protocol.UDP or ip.is_fragment:
                return False
            udp = UDP.parse(ip.payload)
        except Malformed:
            return False
        if udp.destination_port != DNS_PORT or (ip.source, udp.source_port) in self._own:
            return False
        now = trio.current_time()
        if (resolvers := self._host.changed(now)) is not None:
            self._magic.set_upstreams(resolvers)
        client = Client(ip.source, udp.source_port, ip.destination, udp.destination_port)
        self._magic.receive(bytes(udp.payload), client, now)
        self._settle()
        return True

    async def run(self) -> NoReturn:
        """Ask servers and keep time, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                self._magic.handle_timer(now)
                self._answer()
                for upstream, query in self._magic.queries_to_send():
                    self._ask(upstream, query, now, nursery)
                timer = self._magic.next_timer()
                with trio.move_on_at(inf if timer is None else timer):
                    await self._wake.wait()

    def _settle(self) -> None:
        """Send answers, and have `run` do the rest."""
        self._answer()
        self._wake.set()

    def _answer(self) -> None:
        if answers := self._magic.answers_to_send():
            self._write([packet_for(client, answer) for answer, client in answers])

    # --- servers ------------------------------------------------------------------------------------------------------

    def _ask(self, upstream: Upstream, query: bytes, now: float, nursery: trio.Nursery) -> None:
        line = self._lines.get(upstream)
        if line is None or now >= line.until or line.taken >= MAX_LINE_QUERIES:
            line = self._lines[upstream] = _Line(upstream, now + LINE_TIME, inf)
            nursery.start_soon(self._keep, line)
        line.taken += 1
        line.close_at = now + GIVE_UP_TIME
        if line.sock is None:
            line.outbox.append(query)
        else:
            self._send(line, line.sock, query)

    async def _keep(self, line: _Line) -> None:
        """A line's life."""
        try:
            with trio.fail_after(GIVE_UP_TIME):
                sock = await self._upstream_socket(line.upstream, socket.SOCK_DGRAM)
            with sock:
                sock.connect(_socket_address(line.upstream))
                own = _own_address(sock)
                self._own.add(own)
                try:
                    await self._use(line, sock)
                finally:
                    self._own.discard(own)
        except (OSError, Ts4nsnetError, trio.TooSlowError):
            self._fail(
                line.upstream
            )  # no such socket, no way there, or nobody listens: to who waits it is all the same
        finally:
            line.sock = None
            if self._lines.get(line.upstream) is line:
                del self._lines[line.upstream]

    async def _use(self, line: _Line, sock: socket.socket) -> None:
        line.sock = sock
        for query in line.outbox:
            self._send(line, sock, query)
        while (end_at := line.close_at if line.answered < line.taken else line.until) > trio.current_time():
            with trio.move_on_at(end_at):
                await trio.lowlevel.wait_readable(sock)
                self._receive(line, sock)

    def _send(self, line: _Line, sock: socket.socket, query: bytes) -> None:
        try:
            sock.send(query)
        except BlockingIOError:
            pass  # lost, as on any full network
        except OSError:
            self._fail(line.upstream)  # nobody has taken an earlier one, or the way is gone

    def _fail(self, upstream: Upstream) -> None:
        self._magic.upstream_failed(upstream)
        self._settle()

    def _receive(self, line: _Line, sock: socket.socket) -> None:
        """What is there, so that others get their turn; raises OSError when nobody listens on the other side."""
        with suppress(BlockingIOError):
            for _ in range(MAX_LINE_QUERIES):
                answer = sock.recv(MAX_DATAGRAM_BYTES)
                line.answered += 1
                self._magic.receive_answer(answer, line.upstream)
        self._settle()


def _socket_address(upstream: Upstream) -> tuple[Any, ...]:
    """As `connect` wants it, with the number of an IPv6 address' zone; raises OSError where there is no such zone."""
    found = socket.getaddrinfo(str(upstream.address), upstream.port, flags=socket.AI_NUMERICHOST)
    return found[0][4]


def _own_address(sock: socket.socket) -> tuple[bytes, int]:
    host, port = sock.getsockname()[:2]
    return ip_address(host.partition("%")[0]).packed, port


def packet_for(client: Client, answer: bytes) -> bytes:
    """The IP packet that carries an answer to whom it is for."""
    if len(client.address) == 4:
        ip: IPv4 | IPv6 = IPv4(client.server, client.address, Protocol.UDP)
    else:
        ip = IPv6(client.server, client.address, Protocol.UDP)
    return carry(ip, UDP(client.server_port, client.port, answer))

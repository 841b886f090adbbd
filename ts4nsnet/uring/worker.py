# SPDX-License-Identifier: BSD-3-Clause
"""The worker: a process that carries the packets of established sessions, and does nothing else.

    node ── commands ──► worker ── events ──► node           `commands`, over a `link`
    keeper ── the next node's socket; end of file ──► worker
    TUN ◄── port ──► UDP                                     all day; it returns when there is something for Python

Nothing of a session is in this process but what it has made of session memory, so it may die at any time, and its
keeper starts another. What it goes by beside that (routes, filter, local traffic, offloads) the node tells each new
one; until then it leaves TUN and UDP alone, and the kernel's queues hold what comes: nothing passes unfiltered, nothing
is refused that has a way, nothing of a few milliseconds is lost. Only the filter's memory of UDP flows begins anew: an
answer comes in once the container has sent again.

It never waits for its node. One that is slow, stopped or dead costs those packets that it would have had to deal with,
while sessions live as long as their keys. It ends when its keeper does.

How it ends
  0   the keeper has closed its socket
  2   it can do nothing here, says its last line: the TUN is gone, or the engine that was asked for does not work

Nobody may look into it, as it has session keys; it has no rights but to use what it was given.

Limits: the numbers of peers that commands name must be in session memory, others are malformed. A worker that dies
takes with it what lay in its queues, as a network does.
"""

import errno
import mmap
import os
import select
import socket
import sys
import time
from typing import NoReturn, Protocol

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.filter import Filter
from ts4nsnet.packet import Malformed
from ts4nsnet.sandbox import give_up_rights, hide
from ts4nsnet.tailnet import TAILNET_MTU
from ts4nsnet.uring.commands import (
    TO_WORKER,
    Complete,
    FilterSet,
    Forward,
    Hello,
    Lost,
    Packets,
    Relayed,
    RoutesSet,
    ToWorker,
    Trains,
)
from ts4nsnet.uring.events import Event
from ts4nsnet.uring.judge import Judge
from ts4nsnet.uring.link import Link
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.offloads import OffloadsSet
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import AllowedIPs, Command, SessionMemory

HOPELESS = 2
MAX_DATAGRAMS, MAX_LISTEN_TIME = 32, 0.002  # ours, seconds; of the node's, before packets get their turn
_KEEPER_BYTES = 4096  # of one of its messages, of which only the socket counts


class Port(Protocol):
    """What the worker needs of a port; see the compiled `port`."""

    @property
    def judge(self) -> Judge:
        """What may pass."""

    def carry(self) -> bool:
        """Carry packets until there is an event, or the control fd is readable: True."""

    def apply(self, command: Command, now: float) -> None:
        """Do what the node says."""

    def set_mtu(self, peer: int, mtu: int) -> None:
        """Let packets for a peer be so long."""

    def switch(self, wanted: OffloadsSet) -> None:
        """Use these offloads from now on."""

    def from_udp(self, trains: tuple[Train, ...], now: float) -> None:
        """Take what has come by another way than UDP."""

    def write(self, packets: tuple[bytes, ...]) -> None:
        """Give packets to the container."""

    def next_event(self) -> Event | Train | None:
        """The next thing for the node, or a train for a relay."""


class Worker:
    """What is around a port: its node and its keeper.

    Args:
        port: returns from `carry` when `control` is readable.
        routes: which the port goes by.
        peers: how many there is room for.
        control: watches what this class gives it, and nothing else.
        keeper: a socket; its end is ours.
        hello: what each node hears first.
    """

    def __init__(
        self,
        port: Port,
        routes: AllowedIPs,
        peers: int,
        control: select.epoll,
        keeper: socket.socket,
        hello: Hello,
    ) -> None:
        self._port = port
        self._routes = routes
        self._peers = peers
        self._control = control
        self._keeper = keeper
        self._hello = hello
        self._link: Link[ToWorker] | None = None
        self._waits_for_room = False
        self._carries = False  # everything to go by is known
        self._routed: set[int] = set()  # peers with routes
        self._named: set[int] = set()  # those whose routes this node has told
        self._malformed = 0
        self._reported = Lost(0, 0)  # of this link, so far
        control.register(keeper, select.EPOLLIN)

    def meet(self, node: socket.socket) -> None:
        """Work for this node from now on; it will tell everything from the beginning."""
        self.part()
        self._link = Link(node, TO_WORKER)
        self._link.put(self._hello)
        self._named.clear()
        self._malformed, self._reported = 0, Lost(0, 0)
        self._control.register(node, select.EPOLLIN)

    def run(self) -> None:
        """Work until the keeper's end; raises OSError when TUN or io_uring fail."""
        while self._listen():
            self._report()
            if self._carries:
                self._port.carry()
            else:
                self._control.poll()

    # --- what is said to us -----------------------------------------------------------------------------------

    def _listen(self) -> bool:
        """Take what has come; False: the keeper has ended.

        A keypair is to be known before what comes with it, so all that is there is taken before packets are; but not
        for long, if there is ever more.
        """
        until = time.monotonic() + MAX_LISTEN_TIME
        for number in range(MAX_DATAGRAMS):
            ready = [fd for fd, events in self._control.poll(0) if events & ~select.EPOLLOUT]
            if not ready or (number and time.monotonic() > until):
                break
            if self._keeper.fileno() in ready and not self._hear_keeper():
                return False
            if self._link is not None and self._link.sock.fileno() in ready:
                self._hear_node(self._link)
        return True

    def _hear_keeper(self) -> bool:
        try:
            data, fds, _, _ = socket.recv_fds(self._keeper, _KEEPER_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        for surplus in fds[1:]:
            os.close(surplus)
        if fds:
            self.meet(socket.socket(fileno=fds[0]))
        return bool(data)

    def _hear_node(self, link: Link[ToWorker]) -> None:
        messages = link.receive()
        if messages is None:
            self.part()
            return
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        for message in messages:
            if getattr(message, "peer", 0) >= self._peers:
                self._malformed += 1
            else:
                self._take(message, now)

    def _take(self, message: ToWorker, now: float) -> None:
        match message:
            case RoutesSet():
                self._set_routes(message)
            case FilterSet():
                self._port.judge.set_rules(message.rules, message.local, message.sources_with, message.jailed)
            case LocalTraffic():
                self._port.judge.local = message
            case OffloadsSet():
                self._port.switch(message)
            case Complete():
                for peer in self._routed - self._named:
                    self._set_routes(RoutesSet(peer, frozenset()))
                self._carries = True
            case Trains():
                self._port.from_udp(message.trains, now)
            case Packets():
                self._port.write(message.packets)
            case Forward():
                self._forward(message.packet, now)
            case _:
                self._port.apply(message, now)

    def _set_routes(self, wanted: RoutesSet) -> None:
        if self._routes.prefixes(wanted.peer) != wanted.prefixes:
            self._routes.set(wanted.peer, wanted.prefixes)
        self._port.set_mtu(wanted.peer, wanted.mtu)
        self._named.add(wanted.peer)
        self._routed.add(wanted.peer)
        if not wanted.prefixes:
            self._routed.remove(wanted.peer)

    def _forward(self, packet: bytes, now: float) -> None:
        try:
            self._port.judge.forward(packet, now)
            self._port.write(())  # and send what that has sealed
        except Malformed:
            self._malformed += 1

    # --- what we say ------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Tell the node what there is for it; nobody hears it where there is none."""
        link = self._link
        while (event := self._port.next_event()) is not None:
            if link is not None:
                link.put(Relayed(event) if isinstance(event, Train) else event)
        if link is None:
            return
        all_sent = link.flush()
        lost = Lost(link.dropped, link.malformed + self._malformed)
        if all_sent and lost != self._reported:
            link.put(Lost(lost.events - self._reported.events, lost.malformed - self._reported.malformed))
            self._reported = lost
            all_sent = link.flush()
        if all_sent == self._waits_for_room:
            self._waits_for_room = not all_sent
            self._control.modify(link.sock, select.EPOLLIN | (select.EPOLLOUT if self._waits_for_room else 0))

    def part(self) -> None:
        """The node is gone, or there is another; sessions go on."""
        if self._link is not None:
            self._control.unregister(self._link.sock)
            self._link.sock.close()
            self._link = None
            self._waits_for_room = False


# --- the process --------------------------------------------------------------------------------------------------


def main() -> None:
    """Be the worker; ends the process.

    Arguments, of `sys.argv`: the fds of the socket to the node, the socket to the keeper, a TUN queue, the UDP socket,
    the session memory, the counters' memory; 1 or 0 for frames with or without virtio_net_hdr; an engine.
    """
    hide("ts4nsnet-worker")
    give_up_rights()
    try:
        worker = _make(*map(int, sys.argv[1:8]), engine=sys.argv[8])
    except (Ts4nsnetError, ImportError, OSError) as error:
        _end(f"the worker: {error}", HOPELESS)
    try:
        worker.run()
    except OSError as error:
        _end(f"the worker: {error}", HOPELESS if error.errno == errno.EBADFD else 1)


def _end(words: str, status: int) -> NoReturn:
    sys.stderr.write(words + "\n")
    sys.exit(status)


def _make(
    node: int, keeper: int, tun: int, udp: int, memory: int, counters: int, vnet_hdr: int, *, engine: str
) -> Worker:
    """Put the worker together."""
    # compiled code is not everywhere
    from ts4nsnet.uring.backends import open_port
    from ts4nsnet.uring.pipeline import Pipeline
    from ts4nsnet.uring.ring import RingPort
    from ts4nsnet.uring.sessions import Sessions

    notes: list[str] = []
    control = select.epoll()
    session_memory = SessionMemory(mmap.mmap(memory, 0))
    routes = AllowedIPs()
    pipeline = Pipeline(
        Sessions(session_memory, roaming=False),
        routes,
        Filter(),
        mtu=TAILNET_MTU,
        vnet_hdr=bool(vnet_hdr),
        counter_memory=mmap.mmap(counters, 0),
    )
    sock = socket.socket(fileno=udp)
    port = open_port(engine, pipeline, tun, sock, notes.append, control.fileno())
    sock.detach()  # the port has its number, and the process has it open to the end
    hello = Hello("uring" if isinstance(port, RingPort) else "epoll", "; ".join(notes))
    worker = Worker(port, routes, session_memory.peers, control, socket.socket(fileno=keeper), hello)
    worker.meet(socket.socket(fileno=node))
    return worker

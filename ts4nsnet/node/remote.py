# SPDX-License-Identifier: BSD-3-Clause
"""An engine in a process of its own: the node's end of the socket to the worker.

    device ── commands ──► worker ── facts, handshakes, packets without a session ──► device
    tailnet ── relayed datagrams, packets for the container ──► worker ── what is for a relay or the node ──► tailnet

The worker has the TUN, and reads UDP; the node sends on UDP, too. Sessions, and the times of a peer's traffic, are in
memory that both map. What passes between the two is never waited for: `Link` has a bounded queue either way.

A worker that dies is followed by another, and a node likewise; each new socket begins with the whole state, from here.
So what the worker was told is remembered: routes, filter, local traffic, offloads, endpoints, and each peer's last
keypair, which a worker may have taken along unread. A node that follows another says nothing until it has a netmap: its
worker goes on with what it knows.

Whether a peer is sent to directly the node sees in the peer's record, every `LOOK_TIME` as long as there is a direct
path; an idle node has none and sleeps.
"""

import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from math import inf
from mmap import mmap
from operator import attrgetter
from typing import NoReturn

import trio

from ts4nsnet.node.engine import Tailnet, TunGone
from ts4nsnet.node.surroundings import WorkerError, WorkerLink
from ts4nsnet.node.wiring import Admission, Prefix
from ts4nsnet.packet import Buffer
from ts4nsnet.tailnet import TAILNET_MTU
from ts4nsnet.uring import Counters, Drop, Local, LocalTraffic, Message, Slow, Train, UdpPort, Unsealed
from ts4nsnet.uring.commands import (
    TO_NODE,
    Complete,
    FilterSet,
    Forward,
    Hello,
    Lost,
    Packets,
    Relayed,
    RoutesSet,
    ToNode,
    ToWorker,
    Trains,
)
from ts4nsnet.uring.counters import EngineStatistics, counters_in
from ts4nsnet.uring.events import Refused
from ts4nsnet.uring.link import Link
from ts4nsnet.uring.offloads import OffloadRefused, Offloads, OffloadsSet
from ts4nsnet.wireguard import Device, Seal, SessionMemory
from ts4nsnet.wireguard.sessions import Keypair, KeysZeroed, Roamed

LOOK_TIME = 2.0  # ours: seconds; magicsock's own times are 3 (between pings) and 45 (until a path is idle)
KEYPAIRS = (1, 2, 3)  # slots of a peer; records.py


async def remote_engine(
    link: WorkerLink, memory: SessionMemory, sock: socket.socket, say: Callable[[str], None]
) -> Callable[[Device, Tailnet], "RemoteEngine"]:
    """What makes the engine that the worker of `link` is, once that has shown that it works.

    Raises:
        WorkerError: it does not, and there will be no other.
    """
    first: list[socket.socket] = []
    while not first:
        candidate = await link.connection()
        await trio.lowlevel.wait_readable(candidate)
        try:
            has_ended = not candidate.recv(1, socket.MSG_PEEK)
        except ConnectionResetError:
            has_ended = True
        if has_ended:
            candidate.close()
        else:
            first.append(candidate)

    async def connect() -> socket.socket:
        return first.pop() if first else await link.connection()

    return lambda device, tailnet: RemoteEngine(device, memory, sock, connect, link.counters, tailnet, say)


class RemoteEngine:
    """The engine that a worker is.

    Args:
        device: the node's WireGuard device.
        memory: of the sessions; the worker maps the same.
        sock: the UDP socket, of which only the worker reads.
        connect: the node's end of a socket to the worker, and when called again, to the next one; raises `WorkerError`.
        counted: the workers' counters.
        tailnet: what there is beside WireGuard.
        say: takes what a user should read.
    """

    def __init__(
        self,
        device: Device,
        memory: SessionMemory,
        sock: socket.socket,
        connect: Callable[[], Awaitable[socket.socket]],
        counted: Buffer | mmap,
        tailnet: Tailnet,
        say: Callable[[str], None],
    ) -> None:
        self.name = ""
        self.counters = Counters()
        self._device = device
        self._memory = memory
        self._udp = UdpPort(sock, self.counters, Offloads(lambda _: None))  # a datagram at a time
        self._counted = counted
        self._connect = connect
        self._tailnet = tailnet
        self._say = say
        self._link: Link[ToNode] | None = None
        self._filter: FilterSet | None = None
        self._is_follower = memory.is_used
        self._is_introduced = False
        self._local = LocalTraffic()
        self._offloads = OffloadsSet()
        self._routes: dict[int, frozenset[Prefix]] = {}
        self._owners: dict[Prefix, int] = {}  # the same, by prefix
        self._mtus: dict[int, int] = {}
        self._endpoints: dict[int, bytes] = {}
        self._keypairs: dict[int, Keypair] = {}
        self._looked_at: dict[int, float] = {}  # peers with a direct path: what their record said last
        self._direct = trio.Event()
        self._timer: float | None = None  # that `_keep_time` sleeps until
        self._wake = trio.Event()
        self._full = trio.Event()

    # --- what the node says -----------------------------------------------------------------------------------

    def set_filter(self, admission: Admission) -> None:
        """See `Engine`."""
        self._filter = FilterSet.of(*admission)
        self._put(self._filter)

    def set_local(self, traffic: LocalTraffic) -> None:
        """See `Engine`."""
        if traffic != self._local:
            self._local = traffic
            self._put(traffic)

    def set_offloads(self, wanted: OffloadsSet) -> None:
        """See `Engine`."""
        if wanted != self._offloads:
            self._offloads = wanted
            self._put(wanted)

    def set_routes(self, routes: Mapping[int, Collection[Prefix]]) -> None:
        """See `Engine`."""
        for number, prefixes in routes.items():
            self._own(number, frozenset(prefixes))
            if not prefixes:
                self._forget(number)
            self._put(RoutesSet(number, frozenset(prefixes), self._mtus.get(number, TAILNET_MTU)))

    def set_mtu(self, peer: int, mtu: int) -> None:
        """See `Engine`."""
        if peer in self._routes and self._mtus.get(peer, TAILNET_MTU) != mtu:
            self._mtus[peer] = mtu
            self._put(RoutesSet(peer, self._routes[peer], mtu))

    def device_changed(self) -> None:
        """See `Engine`."""
        self._settle(trio.current_time())

    def receive(self, trains: Sequence[Train]) -> None:
        """See `Engine`."""
        for _, of_one_peer in groupby(trains, attrgetter("endpoint")):
            self._put(Trains(tuple(of_one_peer)))
        self._flush()

    def write(self, packets: Sequence[bytes]) -> None:
        """See `Engine`."""
        self._put(Packets(tuple(packets)))
        self._flush()

    def seal(self, peer: int, packet: bytes) -> None:
        """See `Engine`."""
        self._put(Seal(peer, (packet,)))
        self._flush()

    def send(self, datagram: bytes, endpoint: bytes, *, whole: bool = False) -> None:
        """See `Engine`."""
        if whole:
            self._udp.send_whole(datagram, endpoint)
        elif self._udp.send(Train((datagram,), len(datagram), 1, endpoint)) is not None:
            self.counters.dropped[Drop.SEND_FAILED] += 1

    def statistics(self) -> EngineStatistics:
        """See `Engine`; what the node has sent itself and could not is among what was dropped."""
        counters = counters_in(self._counted)
        counters.dropped += self.counters.dropped
        return counters.statistics()

    def close(self) -> None:
        """See `Engine`: the TUN is the worker's, and the keeper ends that first of all."""
        if self._link is not None:
            self._link.sock.close()
            self._link = None

    # --- tasks ------------------------------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """See `Engine`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._serve)
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._look_for_traffic)
        raise AssertionError("the tasks of an engine never return")

    async def _serve(self) -> None:
        while True:
            try:
                sock = await self._connect()
            except WorkerError as error:
                raise TunGone(f"the engine's process has ended, and there will be no other: {error}") from None
            link = self._link = Link(sock, TO_NODE)
            self._is_introduced = False
            self._settle(trio.current_time())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_rest, link)
                await self._hear(link)
                nursery.cancel_scope.cancel()
            self.close()

    async def _hear(self, link: Link[ToNode]) -> None:
        """Take what the worker says, until its end."""
        while True:
            await trio.lowlevel.wait_readable(link.sock)
            if (messages := link.receive()) is None:
                return
            now = trio.current_time()
            for message in messages:
                self._take(message, now)
            self._settle(now)

    async def _send_rest(self, link: Link[ToNode]) -> None:
        """Send what the socket had no room for."""
        while True:
            self._full = trio.Event()
            while not link.flush():
                await trio.lowlevel.wait_writable(link.sock)
            await self._full.wait()

    async def _keep_time(self) -> None:
        while True:
            self._wake = trio.Event()
            self._timer = self._device.next_timer()
            with trio.move_on_at(inf if self._timer is None else self._timer):
                await self._wake.wait()
            now = trio.current_time()
            self._device.handle_timer(now)
            self._settle(now)

    async def _look_for_traffic(self) -> None:
        while True:
            await self._direct.wait()
            await trio.sleep(LOOK_TIME)
            now = trio.current_time()
            for number, before in self._looked_at.copy().items():
                sent_at = self._memory.peer(number).data_sent_at
                self._looked_at[number] = sent_at
                if sent_at > before:
                    self._tailnet.take_wanted(number, now)
            if not self._looked_at:
                self._direct = trio.Event()

    # --- between worker and device ----------------------------------------------------------------------------

    def _take(self, message: ToNode, now: float) -> None:
        match message:
            case Slow(datagram, source):
                if not self._tailnet.take_datagram(datagram, source, now):
                    self._device.receive(datagram, source, now)
            case Unsealed(peer, packets):
                self._tailnet.take_wanted(peer, now)
                self._device.send(peer, packets, now)
            case Relayed(train):  # in one piece; whoever sends it wants to have its datagrams
                self._tailnet.take_train(train._replace(payload=tuple(train.datagrams())), now)
            case Local(packet):
                if not self._tailnet.take_local(packet):
                    self._put(Forward(packet))
            case Message(peer, packet):
                self._tailnet.take_message(peer, packet)
            case Refused(destination):
                self._tailnet.take_refused(destination)
            case OffloadRefused():
                self._tailnet.take_offload_refused(message)
            case Hello(engine, note):
                self.name = engine
                if note:
                    self._say(note)
            case Lost(events, _):
                self.counters.dropped[Drop.NODE_BUSY] += events
            case _:
                self._device.notice(message, now)

    def _settle(self, now: float) -> None:
        """Pass the device's commands on, and send its handshakes."""
        self._introduce()
        while (command := self._device.next_event()) is not None:
            match command:
                case Keypair():
                    self._keypairs[command.peer] = command
                case KeysZeroed(peer):
                    self._keypairs.pop(peer, None)
                case Roamed(peer, endpoint):
                    self._moved(peer, endpoint)
            self._put(command)
        self._flush()  # a peer may use a keypair as soon as it has our response
        for datagram, endpoint in self._device.datagrams_to_send():
            train = Train((datagram,), len(datagram), 1, endpoint)
            if not self._tailnet.take_train(train, now):
                self.send(datagram, endpoint)
        self._flush()
        if self._device.next_timer() != self._timer:
            self._wake.set()

    def _moved(self, peer: int, endpoint: bytes) -> None:
        self._endpoints[peer] = endpoint
        if any(endpoint[16:18]):  # a port: it is one of UDP
            self._looked_at.setdefault(peer, self._memory.peer(peer).data_sent_at)
            self._direct.set()
        else:
            self._looked_at.pop(peer, None)

    def _own(self, peer: int, prefixes: frozenset[Prefix]) -> None:
        """Give a peer its prefixes; the last one to get one has it."""
        for prefix in self._routes.pop(peer, ()):
            del self._owners[prefix]
        for prefix in prefixes:
            if (other := self._owners.get(prefix)) is not None:
                self._routes[other] -= {prefix}
            self._owners[prefix] = peer
        if prefixes:
            self._routes[peer] = prefixes

    def _forget(self, peer: int) -> None:
        self._mtus.pop(peer, None)
        self._endpoints.pop(peer, None)
        self._keypairs.pop(peer, None)
        self._looked_at.pop(peer, None)

    def _introduce(self) -> None:
        """Tell a new worker all there is, once that is something to go by."""
        if self._link is None or self._is_introduced or (self._is_follower and self._filter is None):
            return
        self._is_introduced = True
        for message in self._state():
            self._link.put(message)

    def _state(self) -> Iterator[ToWorker]:
        """All that a worker has to be told."""
        yield from (Roamed(peer, endpoint) for peer, endpoint in self._endpoints.items())
        yield from (
            RoutesSet(peer, prefixes, self._mtus.get(peer, TAILNET_MTU)) for peer, prefixes in self._routes.items()
        )
        if self._filter is not None:
            yield self._filter
        yield self._local
        yield self._offloads
        yield from (keypair for keypair in self._keypairs.values() if not self._is_installed(keypair))
        yield Complete()

    def _is_installed(self, keypair: Keypair) -> bool:
        records = (self._memory.keypair(keypair.peer, slot) for slot in KEYPAIRS)
        return any(record.generation and record.local_index == keypair.local_index for record in records)

    def _put(self, message: ToWorker) -> None:
        if self._link is not None and self._is_introduced:
            self._link.put(message)

    def _flush(self) -> None:
        if self._link is not None and not self._link.flush():
            self._full.set()

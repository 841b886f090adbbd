# SPDX-License-Identifier: BSD-3-Clause
"""The `python` engine: the reference pipeline and the WireGuard device, run on trio within the node.

    TUN ─► pipeline.from_tun ─► UDP          three tasks: TUN readable, UDP readable, a timer due;
    TUN ◄─ pipeline.from_udp ◄─ UDP          each does one batch, then `_settle`s what it caused
                 │      ▲
           events▼      │commands
               device (handshakes, timers)     tailnet (relays, disco, names)

A batch is read until there is no more, or enough for the other direction to wait for. A UDP socket that is full stops
the reading of the TUN, so that the kernel's queues fill up and drop there, and none of ours grows; what arrives is
taken all the same. What that causes to be sealed (packets that waited for a handshake, keep-alives, answers of the
filter) is sent by the timer's task. Handshake messages that find the socket full are dropped, like on any full network:
their timers repeat them.

It needs no compiled code and is the slowest of the engines; what it does is what the others must do.
"""

import errno
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import inf
from typing import NoReturn, Protocol

import trio

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.netns import Tun
from ts4nsnet.node.wiring import Admission, Prefix
from ts4nsnet.uring import (
    Drop,
    Local,
    LocalTraffic,
    Message,
    Reference,
    Slow,
    Train,
    UdpPort,
    Unsealed,
    VnetHeader,
    segment,
)
from ts4nsnet.uring.counters import EngineStatistics
from ts4nsnet.uring.events import Refused
from ts4nsnet.uring.offloads import Offload, OffloadRefused, OffloadsSet
from ts4nsnet.uring.segment import Gso
from ts4nsnet.wireguard import Device, Seal

FRAME_BYTES = 10 + 65536  # a vnet header and the longest packet; a shorter buffer would cut it without a word
# ours: of one batch, so that the other direction gets its turn after some milliseconds
MAX_BATCH_FRAMES = 64
MAX_BATCH_BYTES = 64 << 10


class Tailnet(Protocol):
    """What a tailnet has beside WireGuard. The calls return at once; they may speak to the engine before that."""

    def take_train(self, train: Train, now: float) -> bool:
        """A train is about to leave; True: it has left by another way than UDP."""

    def take_wanted(self, peer: int, now: float) -> None:
        """Packets for a peer wait for a handshake."""

    def take_datagram(self, datagram: bytes, source: bytes, now: float) -> bool:
        """A datagram came that is no transport data; True: it is no handshake either, and has been taken."""

    def take_local(self, packet: bytes) -> bool:
        """The container sent a packet that the node answers itself; False: it does not, and the packet goes on."""

    def take_refused(self, destination: bytes) -> None:
        """The container was told that there is no way to this address."""

    def take_message(self, peer: int, packet: bytes) -> None:
        """A peer sent a packet of the tailnet's own protocol (TSMP)."""

    def take_offload_refused(self, refused: OffloadRefused) -> None:
        """The kernel does not do this for the engine any more."""


class Engine(Protocol):
    """What carries a node's packets, in whatever process. Calls return at once.

    Attributes:
        name: which it is: `python`, `epoll`, `uring`.
    """

    name: str

    def set_filter(self, admission: Admission) -> None:
        """Let pass what a netmap allows."""

    def set_local(self, traffic: LocalTraffic) -> None:
        """Show the tailnet these packets of the container."""

    def set_offloads(self, wanted: OffloadsSet) -> None:
        """Use these offloads from now on, if they work."""

    def set_routes(self, routes: Mapping[int, Collection[Prefix]]) -> None:
        """Know what belongs to these peers of the device now; nothing for one that is gone."""

    def set_mtu(self, peer: int, mtu: int) -> None:
        """Let packets for a peer of the device be so long, bytes; until then they are as long as all paths carry."""

    def device_changed(self) -> None:
        """Do what the device wants done after somebody else spoke to it: added or removed a peer, say."""

    def receive(self, trains: Sequence[Train]) -> None:
        """Take what has come for this node by another way than UDP."""

    def write(self, packets: Sequence[bytes]) -> None:
        """Give packets to the container."""

    def seal(self, peer: int, packet: bytes) -> None:
        """Send a peer a packet of the node's own; the filter is not asked."""

    def send(self, datagram: bytes, endpoint: bytes, *, whole: bool = False) -> None:
        """Send a datagram that is no transport data; one that finds no room is dropped, like on any full network.

        Args:
            whole: nobody on the way may take it to pieces.
        """

    def statistics(self) -> EngineStatistics:
        """What has been counted so far."""

    async def run(self) -> NoReturn:
        """Carry packets until cancelled; raises TunGone, in an exception group as all that trio's nurseries raise."""

    def close(self) -> None:
        """Let go of the TUN, so that the container sees at once that nothing goes any more; nothing is carried then."""


class TunGone(Ts4nsnetError):
    """The TUN device was deleted. Its container's end does not do that: an open TUN holds the network namespace."""


class PythonEngine:
    """One TUN queue, one UDP socket, one device.

    Args:
        device: the node's WireGuard device.
        pipeline: over the same session memory and routes.
        tun: its first queue is used.
        sock: non-blocking, of `sockets.open_socket`.
        tailnet: None for WireGuard alone.
    """

    name = "python"

    def __init__(
        self, device: Device, pipeline: Reference, tun: Tun, sock: socket.socket, tailnet: Tailnet | None = None
    ) -> None:
        self._device = device
        self._pipeline = pipeline
        self._tun = tun.fds[0]
        self.close = tun.close
        self._vnet_hdr = tun.vnet_hdr
        self._sock = sock
        self._udp = UdpPort(sock, pipeline.counters, pipeline.offloads)
        self._udp.use_offloads()
        self._tailnet = tailnet
        self._frame = bytearray(FRAME_BYTES)
        self._sending = trio.Lock()
        self._wake = trio.Event()

    def set_filter(self, admission: Admission) -> None:
        """See `Engine`."""
        self._pipeline.judge.set_rules(*admission)

    def set_local(self, traffic: LocalTraffic) -> None:
        """See `Engine`."""
        self._pipeline.judge.local = traffic

    def set_offloads(self, wanted: OffloadsSet) -> None:
        """See `Engine`."""
        self._pipeline.switch(wanted)
        self._udp.use_offloads()

    def set_routes(self, routes: Mapping[int, Collection[Prefix]]) -> None:
        """See `Engine`: the pipeline looks at the device's own table."""
        for number, prefixes in routes.items():
            if not prefixes:
                self._pipeline.set_mtu(number, 0)

    def set_mtu(self, peer: int, mtu: int) -> None:
        """See `Engine`."""
        self._pipeline.set_mtu(peer, mtu)

    def device_changed(self) -> None:
        """See `Engine`."""
        self._settle(trio.current_time())
        self._wake.set()

    def receive(self, trains: Sequence[Train]) -> None:
        """See `Engine`."""
        now = trio.current_time()
        self._pipeline.from_udp(trains, now)
        self._settle(now)

    def write(self, packets: Sequence[bytes]) -> None:
        """See `Engine`."""
        self._pipeline.write(packets)
        self._write_frames()

    def seal(self, peer: int, packet: bytes) -> None:
        """See `Engine`."""
        now = trio.current_time()
        self._pipeline.apply(Seal(peer, (packet,)), now)
        self._settle(now)

    def send(self, datagram: bytes, endpoint: bytes, *, whole: bool = False) -> None:
        """See `Engine`."""
        train = Train((datagram,), len(datagram), 1, endpoint)
        if whole:
            self._udp.send_whole(datagram, endpoint)
        elif self._udp.send(train) is not None:
            self._pipeline.counters.dropped[Drop.SEND_FAILED] += 1

    def statistics(self) -> EngineStatistics:
        """See `Engine`."""
        return self._pipeline.counters.statistics()

    async def run(self) -> NoReturn:
        """See `Engine`."""
        self.device_changed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_from_tun)
            nursery.start_soon(self._carry_from_udp)
            nursery.start_soon(self._keep_time)
        raise AssertionError("the tasks of an engine never return")

    # --- the three tasks --------------------------------------------------------------------------------------

    async def _carry_from_tun(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._tun)
            now = trio.current_time()
            self._pipeline.from_tun(self._read_frames(), now)
            self._settle(now)
            await self._transmit()

    async def _carry_from_udp(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            now = trio.current_time()
            self._pipeline.from_udp(self._udp.receive(), now)
            self._settle(now)

    async def _keep_time(self) -> None:
        while True:
            timer = self._device.next_timer()
            with trio.move_on_at(inf if timer is None else timer):
                await self._wake.wait()
            self._wake = trio.Event()
            now = trio.current_time()
            self._device.handle_timer(now)
            self._settle(now)
            await self._transmit()

    # --- between pipeline and device --------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Hand events and commands to and fro until there are none, and give the container what is for it."""
        timer = self._device.next_timer()
        commanded = False
        busy = True
        while busy:
            busy = False
            while (event := self._pipeline.next_event()) is not None:
                busy = True
                match event:
                    case Slow():
                        self._take_slow(event, now)
                    case Unsealed():
                        if self._tailnet is not None:
                            self._tailnet.take_wanted(event.peer, now)
                        self._device.send(event.peer, event.packets, now)
                    case Local():
                        if self._tailnet is None or not self._tailnet.take_local(event.packet):
                            self._pipeline.judge.forward(event.packet, now)
                    case Refused():
                        if self._tailnet is not None:
                            self._tailnet.take_refused(event.destination)
                    case Message():
                        if self._tailnet is not None:
                            self._tailnet.take_message(event.peer, event.packet)
                    case OffloadRefused():
                        if self._tailnet is not None:
                            self._tailnet.take_offload_refused(event)
                    case _:
                        self._device.notice(event, now)
            while (command := self._device.next_event()) is not None:
                busy = commanded = True
                self._pipeline.apply(command, now)
        for datagram, endpoint in self._device.datagrams_to_send():
            if self._send(Train((datagram,), len(datagram), 1, endpoint), now) is not None:
                self._pipeline.counters.dropped[Drop.SEND_FAILED] += 1
        self._write_frames()
        if commanded or self._pipeline.has_trains or self._device.next_timer() != timer:
            self._wake.set()

    def _take_slow(self, slow: Slow, now: float) -> None:
        if self._tailnet is None or not self._tailnet.take_datagram(slow.datagram, slow.source, now):
            self._device.receive(slow.datagram, slow.source, now)

    # --- system calls -----------------------------------------------------------------------------------------

    def _read_frames(self) -> Iterator[memoryview]:
        """What the TUN has, at most a batch; each frame is overwritten by the next."""
        view = memoryview(self._frame)
        size = 0
        for _ in range(MAX_BATCH_FRAMES):
            try:
                length = os.readv(self._tun, [view])
            except BlockingIOError:
                return
            except OSError as error:
                raise TunGone(f"reading the TUN device: {error.strerror}; was it deleted?") from error
            yield view[:length]
            size += length
            if size > MAX_BATCH_BYTES:
                return

    def _write_frames(self) -> None:
        for frame in self._pipeline.frames_to_write():
            self._write(frame)

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self._tun, frame)
        except OSError as error:
            gso_type = VnetHeader.parse(frame).gso_type if self._vnet_hdr else Gso.NONE
            if error.errno != errno.EINVAL or gso_type == Gso.NONE:
                self._pipeline.counters.dropped[Drop.WRITE_FAILED] += 1
                return
            # some kernels refuse superpackets with a short tail; one by one they are the same packets
            udp = gso_type == Gso.UDP_L4
            self._pipeline.offloads.frame_refused(Offload.TUN_UDP_GRO if udp else Offload.TUN_TCP_GRO)
            for packet in segment(frame):
                self._write(VnetHeader().emit() + packet)

    def _send(self, train: Train, now: float) -> Train | None:
        """Send a train its way; what is left of it when the socket is full."""
        if self._tailnet is not None and self._tailnet.take_train(train, now):
            return None
        return self._udp.send(train)

    async def _transmit(self) -> None:
        """Send what the pipeline has, waiting for room where there is none."""
        async with self._sending:
            for train in self._pipeline.trains_to_send():
                left = self._send(train, trio.current_time())
                while left is not None:
                    await trio.lowlevel.wait_writable(self._sock)
                    left = self._udp.send(left)

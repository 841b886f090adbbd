# SPDX-License-Identifier: BSD-3-Clause
"""The reference pipeline: a packet's way between TUN and UDP, in plain code that is easy to check.

    from_tun   frame ─► segment ─► filter ─► whose is the destination? ─► seal ─► trains_to_send
                                      │           │ the node's own: Local     │ no keypair: Unsealed, to the node
                                      dropped     │ nobody's: refused, at once and with a reason
    from_udp   train ─► datagrams ─► transport data? ─► open ─► the sender's? ─► filter ─► coalesce ─► frames_to_write
                                      │ no: Slow, to the node    │ no: dropped    │ no: dropped; TSMP: Message

It is the `python` engine, and the oracle of the compiled pipeline: the same input must give the same packets. So it is
written for clarity; that each call takes a whole batch is what makes it fast enough to use.

The node speaks to a pipeline, whichever it is, in commands (`apply`) and hears from it in events (`next_event`). A
pipeline alone owns the session table.

Rules
  * A batch is done to its end within one call; nothing is held back for a later one. What comes out is taken by the
    adapter before the next batch, so no queue here outlives a batch, nor is longer than what a batch yields.
  * Packets of one peer leave in the order in which they were read.
  * Padding reaches up to the path's MTU and not beyond, so all datagrams of a train but the last are equally long.
  * A packet is for the container only if its source belongs to the peer whose key sealed it, and the filter agrees.
  * What the container sends has a way, or gets an answer that says it has none: nothing hangs.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ts4nsnet.filter import Filter, Verdict, answers, tsmp
from ts4nsnet.packet import Buffer, Inner, Malformed, clamp_mss
from ts4nsnet.uring.coalesce import coalesce
from ts4nsnet.uring.counters import Counters, Drop
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.segment import segment
from ts4nsnet.uring.trains import Train, form_trains
from ts4nsnet.wireguard import AllowedIPs, Command, Fact, Seal, SessionTable

_TRANSPORT = b"\4\0\0\0"  # the first word of transport data


@dataclass(frozen=True, slots=True)
class Unsealed:
    """Packets for a peer that has no keypair to seal them with, oldest first."""

    peer: int
    packets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Slow:
    """A datagram that is no transport data: handshakes, and whatever else comes to our port."""

    datagram: bytes
    source: bytes  # the endpoint, 32 opaque bytes


@dataclass(frozen=True, slots=True)
class Local:
    """A packet of the container's that the node answers itself."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Message:
    """A packet of the tailnet's own protocol (TSMP), from a peer to this node."""

    peer: int
    packet: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The container was told that it has no way to an address, 4 or 16 bytes."""

    destination: bytes


# what a pipeline tells the node; facts are those of its session table
Event = Unsealed | Slow | Local | Message | Refused | Fact


class Reference:
    """The pipeline between one TUN queue and one UDP socket.

    Args:
        sessions: the session table, which nobody else may use from now on.
        routes: whose an address is.
        packet_filter: what may pass.
        mtu: of all paths, bytes of inner packet.
        vnet_hdr: whether frames begin with a virtio_net_hdr, so that superpackets can be read and written.

    Attributes:
        filter: as given; its rules may be changed between two calls.
        local: what of the container's traffic is for the node itself; likewise.
    """

    def __init__(
        self, sessions: SessionTable, routes: AllowedIPs, packet_filter: Filter, *, mtu: int, vnet_hdr: bool
    ) -> None:
        self.counters = Counters()
        self.local = LocalTraffic()
        self._sessions = sessions
        self._routes = routes
        self.filter = packet_filter
        self._mtu = mtu
        self._vnet_hdr = vnet_hdr
        self._trains: list[Train] = []
        self._frames: list[bytes] = []
        self._events: deque[Event] = deque()

    # --- what passes ------------------------------------------------------------------------------------------

    def from_tun(self, frames: Iterable[Buffer], now: float) -> None:
        """Take what was read from the TUN: for each peer, seal what is for it.

        A frame is used up before the next one is asked for, so all of them may lie in one buffer.
        """
        batches: dict[int, list[bytes]] = {}
        for frame in frames:
            self.counters.read_frames += 1
            try:
                packets = segment(frame) if self._vnet_hdr else [bytes(frame)]
                inner = Inner.parse(packets[0])
            except Malformed:
                self.counters.dropped[Drop.FRAME_MALFORMED] += 1
                continue
            self.counters.read_packets += len(packets)
            peer = self._peer_for(inner, packets)
            if peer is not None:
                batches.setdefault(peer, []).extend(packets)
        for peer, packets in batches.items():
            self._seal(peer, packets, now)

    def _peer_for(self, inner: Inner, packets: list[bytes]) -> int | None:
        """Whose the packets of one frame, of which `inner` is the first, are; None when all is done with them."""
        peer = self._routes.lookup(inner.destination)
        if not self.local.has(inner, packets[0], peer):
            return self._admitted(peer, inner, packets)
        self._events.extend(map(Local, packets))
        return None

    def _admitted(self, peer: int | None, inner: Inner, packets: list[bytes]) -> int | None:
        """`peer`, if these packets may go to it."""
        first = packets[0]
        if self.filter.outbound(first) is not Verdict.ACCEPT:
            self.counters.dropped[Drop.FILTERED_OUT] += len(packets)
        elif peer is None:
            self._answer(answers.refusal(first), Drop.NO_ROUTE, len(packets))
            self._events.append(Refused(inner.destination))
        elif inner.length > self._mtu and (answer := answers.too_big(first, self._mtu)) is not None:
            self._answer(answer, Drop.TOO_BIG, len(packets))
        else:
            packets[0] = clamp_mss(first, self._mtu)
            return peer
        return None

    def _answer(self, answer: bytes | None, reason: Drop, dropped: int) -> None:
        self.counters.dropped[reason] += dropped
        if answer is not None:
            self.write([answer])

    def forward(self, packet: bytes, now: float) -> None:
        """Take a packet that was reported as `Local` and is not the node's after all."""
        packets = [packet]
        inner = Inner.parse(packet)
        peer = self._admitted(self._routes.lookup(inner.destination), inner, packets)
        if peer is not None:
            self._seal(peer, packets, now)

    def from_udp(self, trains: Iterable[Train], now: float) -> None:
        """Take what was received: open what is transport data, and merge what is for the container.

        A train is used up before the next one is asked for, so all of them may lie in one buffer.
        """
        packets: list[bytes] = []
        for train in trains:
            self.counters.received_trains += 1
            self.counters.received_datagrams += train.datagram_count
            for datagram in train.datagrams():
                if datagram[:4] == _TRANSPORT:
                    packets.extend(self._opened(datagram, train.endpoint, now))
                else:
                    self._events.append(Slow(bytes(datagram), train.endpoint))
        self.write(packets)

    def write(self, packets: Sequence[bytes]) -> None:
        """Take packets for the container, in their order."""
        frames = coalesce(packets) if self._vnet_hdr else packets
        self.counters.written_packets += len(packets)
        self.counters.written_frames += len(frames)
        self._frames.extend(frames)

    def _seal(self, peer: int, packets: Sequence[bytes], now: float) -> None:
        endpoint = self._sessions.endpoint(peer)
        messages = self._sessions.seal(peer, packets, self._mtu, now)
        if messages is None:
            self._events.append(Unsealed(peer, tuple(packets)))
        elif not any(endpoint):
            self.counters.dropped[Drop.NO_ENDPOINT] += len(messages)
        else:
            trains = form_trains(messages, endpoint)
            self.counters.sent_trains += len(trains)
            self.counters.sent_datagrams += len(messages)
            self._trains.extend(trains)

    def _opened(self, datagram: Buffer, source: bytes, now: float) -> Iterable[bytes]:
        """The packet in a transport message: one, or none when there is none for the container."""
        opened = self._sessions.open(datagram, source, now)
        if opened is None or not opened[1]:
            return ()  # refused and counted there, or a keep-alive
        peer, plaintext = opened
        try:
            inner = Inner.parse(plaintext)
        except Malformed:
            self.counters.dropped[Drop.INNER_MALFORMED] += 1
            return ()
        if self._routes.lookup(inner.source) != peer:
            self.counters.dropped[Drop.SOURCE_NOT_ALLOWED] += 1
            return ()
        packet = plaintext[: inner.length]
        match self.filter.inbound(packet):
            case Verdict.ACCEPT:
                return (packet,)
            case Verdict.TSMP:
                self._events.append(Message(peer, packet))
            case verdict:
                self.counters.dropped[Drop.FILTERED_IN] += 1
                if (answer := tsmp.reject(packet, verdict)) is not None:
                    self._seal(peer, [answer], now)
        return ()

    # --- what the node says and hears -------------------------------------------------------------------------

    def apply(self, command: Command, now: float) -> None:
        """Do what the node says."""
        if not isinstance(command, Seal):
            self._sessions.apply(command)
        else:
            self._seal(command.peer, command.packets, now)

    def next_event(self) -> Event | None:
        """The next thing for the node, or None."""
        return self._events.popleft() if self._events else self._sessions.next_event()

    # --- what comes out ---------------------------------------------------------------------------------------

    @property
    def has_trains(self) -> bool:
        """Whether there is something to send."""
        return bool(self._trains)

    def trains_to_send(self) -> list[Train]:
        """What the UDP socket is to send now, in this order."""
        trains, self._trains = self._trains, []
        return trains

    def frames_to_write(self) -> list[bytes]:
        """What is to be written to the TUN now, in this order."""
        frames, self._frames = self._frames, []
        return frames

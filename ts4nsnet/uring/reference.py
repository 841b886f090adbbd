# SPDX-License-Identifier: BSD-3-Clause
"""The reference pipeline: a packet's way between TUN and UDP, in plain code that is easy to check.

    from_tun   frame ─► segment ─► whose is the destination? ─► judge ─► seal ─► trains_to_send
                                                                 │ not to go │ no keypair: Unsealed, to the node
    from_udp   train ─► datagrams ─► transport data? ─► open ─► the sender's? ─► judge ─► coalesce ─► frames_to_write
                                      │ no: Slow, to the node    │ no: dropped    │ not to pass

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

from ts4nsnet.filter import Filter
from ts4nsnet.packet import Buffer, Inner, Malformed
from ts4nsnet.uring.coalesce import coalesce
from ts4nsnet.uring.counters import Counters, Drop
from ts4nsnet.uring.events import Event, Slow, Unsealed
from ts4nsnet.uring.judge import Judge
from ts4nsnet.uring.offloads import Offload, Offloads, OffloadsSet
from ts4nsnet.uring.segment import VNET_HEADER_BYTES, VnetHeader, segment
from ts4nsnet.uring.trains import MAX_TRAIN_DATAGRAMS, Train, form_trains
from ts4nsnet.wireguard import AllowedIPs, Command, Seal, SessionTable

_TRANSPORT = b"\4\0\0\0"  # the first word of transport data
# what Tailscale's nodes append to a train of equal datagrams, for the sake of broken kernels; net/batching
_SENTINEL = b"\7"


class Reference:
    """The pipeline between one TUN queue and one UDP socket.

    Args:
        sessions: the session table, which nobody else may use from now on.
        routes: whose an address is.
        packet_filter: what may pass.
        mtu: of a path of which nothing else is said, bytes of inner packet.
        vnet_hdr: whether frames begin with a virtio_net_hdr, so that superpackets can be read and written.

    Attributes:
        judge: says what may pass; what it goes by may be changed between two calls.
        offloads: which are used, likewise.
    """

    def __init__(
        self, sessions: SessionTable, routes: AllowedIPs, packet_filter: Filter, *, mtu: int, vnet_hdr: bool
    ) -> None:
        self._events: deque[Event] = deque()
        self.offloads = Offloads(self.emit, vnet_hdr=vnet_hdr)
        self.counters = Counters(offloads=self.offloads.states)
        self.judge = Judge(self, routes, packet_filter)
        self._sessions = sessions
        self._routes = routes
        self._mtu = mtu
        self._mtus: dict[int, int] = {}
        self._vnet_hdr = vnet_hdr
        self._trains: list[Train] = []
        self._frames: list[bytes] = []

    # --- what passes ------------------------------------------------------------------------------------------

    def from_tun(self, frames: Iterable[Buffer], now: float) -> None:
        """Take what was read from the TUN: for each peer, seal what is for it.

        A frame is used up before the next one is asked for, so all of them may lie in one buffer.
        """
        batches: dict[int, list[bytes]] = {}
        for frame in frames:
            self.counters.read_frames += 1
            try:
                owner, packets = self._cut(frame)
            except Malformed:
                self.counters.dropped[Drop.FRAME_MALFORMED] += 1
                continue
            self.counters.read_packets += len(packets)
            peer = self.judge.outbound(packets, owner, now)
            if peer is not None:
                batches.setdefault(peer, []).extend(packets)
        for peer, packets in batches.items():
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
                elif datagram != _SENTINEL:
                    self._events.append(Slow(bytes(datagram), train.endpoint))
        self.write(packets)

    def _cut(self, frame: Buffer) -> tuple[int | None, list[bytes]]:
        """Whose a frame of the container's is, and its packets as the way there carries them; raises `Malformed`."""
        if not self._vnet_hdr:
            frame = VnetHeader().emit() + frame
        packet = memoryview(frame)[VNET_HEADER_BYTES:]
        owner = self._routes.lookup(Inner.parse(packet).destination)
        mtu = self.mtu_to(owner)
        return owner, segment(frame, mtu, coarse=mtu > self._mtu)

    def write(self, packets: Sequence[bytes]) -> None:
        """Take packets for the container, in their order."""
        frames = packets
        if self._vnet_hdr:
            uses = self.offloads.uses
            frames = coalesce(packets, mtu=self._mtu, tcp=uses(Offload.TUN_TCP_GRO), udp=uses(Offload.TUN_UDP_GRO))
        self.counters.written_packets += len(packets)
        self.counters.written_frames += len(frames)
        self._frames.extend(frames)

    def _seal(self, peer: int, packets: Sequence[bytes], now: float) -> None:
        endpoint = self._sessions.endpoint(peer)
        messages = self._sessions.seal(peer, packets, self.mtu_to(peer), now)
        if messages is None:
            self._events.append(Unsealed(peer, tuple(packets)))
        elif not any(endpoint):
            self.counters.dropped[Drop.NO_ENDPOINT] += len(messages)
        else:
            trains = self._form_trains(messages, endpoint)
            self.counters.sent_trains += len(trains)
            self.counters.sent_datagrams += len(messages)
            self._trains.extend(trains)

    def _form_trains(self, messages: Sequence[bytes], endpoint: bytes) -> list[Train]:
        if not any(endpoint[16:18]):  # no UDP port: a relay's
            return form_trains(messages, endpoint)
        longest = MAX_TRAIN_DATAGRAMS if self.offloads.uses(Offload.UDP_GSO) else 1
        return form_trains(messages, endpoint, longest=longest, equal_tails=self.offloads.equal_tails)

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
        return (packet,) if self.judge.inbound(packet, peer, now) else ()

    # --- what the node says and hears -------------------------------------------------------------------------

    def apply(self, command: Command, now: float) -> None:
        """Do what the node says."""
        if not isinstance(command, Seal):
            self._sessions.apply(command)
        else:
            self._seal(command.peer, command.packets, now)

    def set_mtu(self, peer: int, mtu: int) -> None:
        """Let packets for a peer be so long, bytes; never shorter than for all."""
        self._mtus[peer] = mtu

    def mtu_to(self, peer: int | None) -> int:
        """How long packets for a peer may be."""
        return self._mtu if peer is None else max(self._mtu, self._mtus.get(peer, 0))

    def switch(self, wanted: OffloadsSet) -> None:
        """Use these offloads from now on."""
        self.offloads.switch(wanted)

    def drop(self, reason: Drop, packets: int = 1) -> None:
        """Count packets that go nowhere."""
        self.counters.dropped[reason] += packets

    def emit(self, event: Event) -> None:
        """Tell the node something."""
        self._events.append(event)

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

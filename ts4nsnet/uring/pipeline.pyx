# SPDX-License-Identifier: BSD-3-Clause
"""The pipeline, compiled: the twin of `reference.Reference`, with the same calls, events and rules.

    TUN ─► frame ─► plan ─► whose? ─► segments in the send arena ─► seal in place ─► trains ─► UDP
    UDP ─► train ─► open in place ─► whose? ─► groups of pieces of what was received ─► TUN

A packet is a record in an array and bytes at a place, never an object (`arena`).

What may pass says `judge.Judge`, in Python; without one, everything of which is known whose it is. Of most packets
it is not asked (see `classify.Accepted`). Asked it is of whole frames and single packets:

    outbound(packets, peer, now)   of one frame of the container's; peer None: nobody's. Returns whose they are to be;
                                   None: it has dealt with them (`drop`, `emit`, `write`). It may change `packets`
    inbound(packet, peer, now)     of a peer, and from an address of that peer's. Returns whether it may pass
    version                        another number after each change of what it goes by

There are two ways to use it. The ports (`epoll`, `ring`) call the C functions: take_frame for each frame, seal_batches,
send the arena's trains, reset it; take_train for each train, write what the coalescer has, close_frames. The calls for
Python are the twin's; what comes out is then copied into objects.

Limits: a frame that would become more than `ROOM_BYTES` of messages is malformed (it needs segments of a few bytes,
which no kernel makes).
"""

from array import array
from collections import deque

from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from ts4nsnet.uring.arena cimport OVERHEAD_BYTES, ROOM_BYTES, ROOM_MESSAGES, Arena, Batch, Message, OutTrain
from ts4nsnet.uring.classify cimport IN, OUT, Accepted
from ts4nsnet.uring.fit cimport fit
from ts4nsnet.uring.offload cimport Cut, emit_segment, iovec, plan, segment_size
from ts4nsnet.uring.wire cimport le32, look_inner

from ts4nsnet.uring.classify import flat
from ts4nsnet.uring.counters import COUNTER_WORDS, DROPS, FIELDS, OFFLOADS_AT, counters_in
from ts4nsnet.uring.events import Slow, Unsealed
from ts4nsnet.uring.judge import Judge
from ts4nsnet.uring.offloads import Offload, Offloads
from ts4nsnet.uring.trains import MAX_TRAIN_DATAGRAMS, Train
from ts4nsnet.wireguard import Seal

cdef enum:
    MAX_DATAGRAMS = 2048
    SENTINEL = 7  # see `reference`

cdef uint32_t max_train_datagrams = MAX_TRAIN_DATAGRAMS
cdef uint8_t nowhere[32]
memset(nowhere, 0, 32)


cdef class Pipeline:
    """The pipeline between one TUN queue and one UDP socket.

    Args:
        sessions: the compiled session table, which nobody else may use from now on.
        allowed_ips: whose an address is; looked at again when its version is another.
        packet_filter: of a `judge.Judge`; None: there is no judge yet.
        mtu: of a path of which nothing else is said, bytes of inner packet.
        vnet_hdr: whether frames begin with a virtio_net_hdr.
        counter_memory: where to count, COUNTER_WORDS of 64 bits; None for memory of its own.

    Attributes:
        judge: see above; may be set between two calls.
    """

    def __cinit__(
        self,
        Sessions sessions not None,
        allowed_ips,
        packet_filter=None,
        *,
        uint32_t mtu,
        bint vnet_hdr,
        counter_memory=None,
    ):
        if not 0 < mtu <= 65535:
            raise ValueError(f"mtu: got {mtu}, want 1 to 65535")
        self.sessions = sessions
        self.counter_memory = array("Q", bytes(8 * COUNTER_WORDS)) if counter_memory is None else counter_memory
        self._counters = memoryview(self.counter_memory).cast("B").cast("Q")
        if self._counters.shape[0] < COUNTER_WORDS:
            raise ValueError(f"counters: got {self._counters.shape[0]} words, want {COUNTER_WORDS}")
        self.counts = &self._counters[0]
        self._allowed_ips = allowed_ips
        self.routes = Routes()
        self.accepted = Accepted()
        self.mtu = mtu
        self.vnet_hdr = vnet_hdr
        self.coalescer = Coalescer(vnet_hdr=vnet_hdr, mtu=mtu)
        self._events = deque()
        self.offloads = Offloads(self.emit, vnet_hdr=vnet_hdr)
        self._trains = []
        self._frames = []
        self.arena = Arena()
        self.mtus = <uint32_t*>malloc(sessions.peers * sizeof(uint32_t))
        if not self.mtus:
            raise MemoryError
        for number in range(sessions.peers):
            self.mtus[number] = mtu
        if packet_filter is not None:
            self.judge = Judge(self, allowed_ips, packet_filter)
        self.use_offloads()

    def __dealloc__(self):
        free(self.mtus)

    cdef int use_offloads(self) except -1:
        """Do as `offloads` says now, and have it seen in the counters."""
        self.arena.longest_train = max_train_datagrams if self.offloads.uses(Offload.UDP_GSO) else 1
        self.arena.equal_tails = self.offloads.equal_tails
        self.coalescer.tcp = self.offloads.uses(Offload.TUN_TCP_GRO)
        self.coalescer.udp = self.offloads.uses(Offload.TUN_UDP_GRO)
        for place, offload in enumerate(Offload, start=OFFLOADS_AT):
            self.counts[<int>place] = self.offloads.states[offload]
        return 0

    cdef int refresh(self) except -1:
        """Take the routes and the judge as they are now."""
        if self.judge is not None and self.judge.version != self._judge_version:
            self._judge_version = self.judge.version
            self.accepted.clear()
        if self._allowed_ips.version != self._routes_version:
            self._routes_version = self._allowed_ips.version
            self.routes.load(*flat(self._allowed_ips))
        return 0

    # --- the way out --------------------------------------------------------------------------------------------------

    cdef int take_frame(self, const uint8_t* frame, size_t size, double now) except -1:
        """Put the packets of a frame into the arena; only if there is room. The frame is used up."""
        cdef Cut cut
        cdef uint32_t number, length, full_size, mtu
        cdef int32_t peer
        self.counts[READ_FRAMES] += 1
        if not plan(frame, size, self.vnet_hdr, &cut) or (
            not cut.protocol and not look_inner(cut.packet, cut.size, &length)
        ):
            self.counts[FRAME_MALFORMED] += 1
            return 0
        peer = self.routes.destination(cut.packet)
        mtu = self.mtu if peer < 0 else self.mtus[peer]
        fit(&cut, mtu, mtu > self.mtu)
        full_size = OVERHEAD_BYTES + segment_size(&cut, 0) + 15
        if cut.count > ROOM_MESSAGES or <size_t>cut.count * full_size > ROOM_BYTES:
            self.counts[FRAME_MALFORMED] += 1
            return 0
        self.counts[READ_PACKETS] += cut.count
        if self.judge is not None and (
            peer < 0
            or segment_size(&cut, 0) > mtu
            or not self.accepted.has(cut.packet, cut.size, OUT, now)
        ):
            return self._ask(&cut, peer, now)
        if peer < 0:
            self.counts[NO_ROUTE] += cut.count
            return 0
        for number in range(cut.count):
            emit_segment(&cut, number, self.arena.stage(peer, segment_size(&cut, number), mtu))
        return 0

    cdef int _ask(self, const Cut* cut, int32_t peer, double now) except -1:
        """Let the judge say what becomes of the packets of a frame."""
        cdef uint32_t number
        cdef bytearray whole
        packets = []
        for number in range(cut.count):
            whole = bytearray(segment_size(cut, number))
            emit_segment(cut, number, <uint8_t*>whole)
            packets.append(bytes(whole))
        owner = self.judge.outbound(packets, None if peer < 0 else peer, now)
        if owner is None:
            return 0
        self.accepted.note(cut.packet, cut.size, OUT, now)
        for packet in packets:
            self._stage_copy(owner, packet)
        return 0

    def _stage_copy(self, uint32_t peer, packet):
        cdef const uint8_t[::1] view
        cdef uint8_t* place = self.arena.stage(peer, <uint32_t>len(packet), self.mtus[peer])
        if packet:
            view = packet
            memcpy(place, &view[0], view.shape[0])

    cdef int seal_batches(self, double now) except -1:
        """Seal what was taken; then it is in `trains`, or with the node."""
        cdef uint32_t number
        for number in range(self.arena.batch_count):
            self._seal_batch(&self.arena.batches[number], now)
        self.arena.batch_count = 0
        return 0

    cdef int _seal_batch(self, Batch* batch, double now) except -1:
        cdef Session session = self.sessions.sender(batch.peer, batch.count, now)
        cdef Message* message
        cdef int32_t number = batch.first
        cdef uint64_t counter, size = 0
        cdef bint data = False
        if session is None:
            packets = []
            while number >= 0:
                message = &self.arena.messages[number]
                packets.append(<bytes>(self.arena.memory + message.at + 16)[: message.packet])
                number = message.next
            self._events.append(Unsealed(batch.peer, tuple(packets)))
            return 0
        counter = session.record.send_counter - batch.count
        while number >= 0:
            message = &self.arena.messages[number]
            self.sessions.seal_message(session, self.arena.memory + message.at, message.size - OVERHEAD_BYTES, counter)
            counter += 1
            size += message.size
            data = data or message.packet != 0
            number = message.next
        self.sessions.note_sent(session, size, data, now)
        if memcmp(session.peer.endpoint, nowhere, 32) == 0:
            self.counts[NO_ENDPOINT] += batch.count
        else:
            number = self.arena.train_count
            self.arena.form_trains(batch, session.peer.endpoint)
            self.counts[SENT_TRAINS] += self.arena.train_count - number
            self.counts[SENT_DATAGRAMS] += batch.count
        return 0

    # --- the way in ---------------------------------------------------------------------------------------------------

    cdef bint frames_full(self) noexcept:
        """Whether what the coalescer has must be written before the next train is taken."""
        return self.coalescer.part_count > MAX_DATAGRAMS

    cdef int take_train(
        self, uint8_t* data, uint32_t size, uint32_t segment, const uint8_t* source, double now
    ) except -1:
        """Open what was received in one call; it stays where it is until the frames are written.

        Args:
            segment: bytes of each datagram but the last; 0 for a lone one.
        """
        cdef uint32_t start = 0
        self.counts[RECEIVED_TRAINS] += 1
        if not segment or segment > size:
            segment = size
        while True:
            self.counts[RECEIVED_DATAGRAMS] += 1
            self._take_datagram(data + start, segment if segment < size - start else size - start, source, now)
            start += segment
            if start >= size:
                return 0

    cdef int _take_datagram(self, uint8_t* datagram, uint32_t size, const uint8_t* source, double now) except -1:
        cdef int32_t room
        cdef uint32_t length
        cdef uint8_t* packet = datagram + 16
        if size == 1 and datagram[0] == SENTINEL:
            return 0
        if size < 4 or le32(datagram) != 4:
            self._events.append(Slow(<bytes>datagram[:size], <bytes>source[:32]))
            return 0
        room = self.sessions.open_message(datagram, size, source, now)
        if room <= 0:
            return 0  # refused and counted there, or a keep-alive
        if not look_inner(packet, room, &length):
            self.counts[INNER_MALFORMED] += 1
        elif self.routes.source(packet) != <int32_t>self.sessions.opened_by:
            self.counts[SOURCE_NOT_ALLOWED] += 1
        elif self.judge is None or self.accepted.has(packet, length, IN, now):
            self.coalescer.add(packet, length)
        elif self.judge.inbound(<bytes>packet[:length], self.sessions.opened_by, now):
            self.accepted.note(packet, length, IN, now)
            self.coalescer.add(packet, length)
        return 0

    cdef void close_frames(self) noexcept:
        """All frames have been written: begin a new batch."""
        self.counts[WRITTEN_PACKETS] += self.coalescer.part_count
        self.counts[WRITTEN_FRAMES] += self.coalescer.group_count
        self.coalescer.clear()

    # --- the twin's calls ---------------------------------------------------------------------------------------------

    def from_tun(self, frames, double now):
        """Take what was read from the TUN: for each peer, seal what is for it."""
        cdef const uint8_t[::1] view
        self.refresh()
        for frame in frames:
            if not self.arena.has_room():
                self.seal_batches(now)
                self._collect()
            if not frame:
                frame = b"\0"  # as malformed, and it has an address
            view = frame
            self.take_frame(&view[0], view.shape[0], now)
        self.seal_batches(now)

    def from_udp(self, trains, double now):
        """Take what was received: open what is transport data, and merge what is for the container."""
        cdef bytearray copy
        cdef const uint8_t[::1] endpoint
        self.refresh()
        copies = []
        for train in trains:
            copy = bytearray(b"".join(train.payload))
            size = len(copy)
            copy.append(0)
            copies.append(copy)
            endpoint = train.endpoint
            if self.frames_full():
                self._collect_frames()
            self.take_train(<uint8_t*>copy, size, train.segment_bytes, &endpoint[0], now)
        self._collect_frames()

    def apply(self, command, double now):
        """Do what the node says."""
        if not isinstance(command, Seal):
            self.sessions.apply(command)
            return
        for number, packet in enumerate(command.packets):
            if not self.arena.has_room():
                self.seal_batches(now)
                if self.has_port:  # whose socket is full, or there would be room
                    self.counts[SEND_FAILED] += len(command.packets) - number
                    return
                self._collect()
            self._stage_copy(command.peer, packet)
        self.seal_batches(now)

    def set_mtu(self, uint32_t peer, uint32_t mtu):
        """Let packets for a peer be so long, bytes; never shorter than for all."""
        self.mtus[peer] = max(mtu, self.mtu)

    def mtu_to(self, uint32_t peer):
        """How long packets for a peer may be."""
        return self.mtus[peer]

    def switch(self, wanted):
        """Use these offloads from now on."""
        self.offloads.switch(wanted)
        self.use_offloads()

    def drop(self, reason, uint32_t packets=1):
        """Count what the judge has dropped."""
        self.counts[len(FIELDS) + DROPS.index(reason)] += packets

    def emit(self, event):
        """Let the node hear something."""
        self._events.append(event)

    def write(self, packets):
        """Take packets for the container, in their order, each for itself."""
        for packet in packets:
            self._frames.append(bytes(10) + packet if self.vnet_hdr else bytes(packet))
            self.counts[WRITTEN_PACKETS] += 1
            self.counts[WRITTEN_FRAMES] += 1

    def next_event(self):
        """The next thing for the node, or None."""
        return self._events.popleft() if self._events else self.sessions.next_event()

    def trains_to_send(self):
        """What the UDP socket is to send now, in this order."""
        self._collect()
        trains, self._trains = self._trains, []
        return trains

    def frames_to_write(self):
        """What is to be written to the TUN now, in this order."""
        frames, self._frames = self._frames, []
        return frames

    @property
    def counters(self):
        """The counters at this moment."""
        return counters_in(self.counter_memory)

    cdef _collect(self):
        """Copy the trains into objects."""
        cdef uint32_t number
        cdef OutTrain* train
        for number in range(self.arena.train_count):
            train = &self.arena.trains[number]
            self._trains.append(
                Train(self.arena.payload(train), train.segment, train.count, <bytes>train.endpoint[:32])
            )
        self.arena.reset()

    cdef _collect_frames(self):
        """Copy the frames into objects."""
        cdef iovec vectors[1024]
        cdef uint32_t number
        cdef int piece, count
        for number in range(self.coalescer.group_count):
            count = self.coalescer.finish(number, vectors)
            self._frames.append(b"".join([
                (<uint8_t*>vectors[piece].iov_base)[: vectors[piece].iov_len] for piece in range(count)
            ]))
        self.close_frames()

# SPDX-License-Identifier: BSD-3-Clause
"""What the compiled backends have in common: a pipeline's trains and frames become system calls.

A train becomes one sendmsg; messages that lie behind one another in the arena are one piece of it. A frame becomes one
writev. What the kernel refuses is dealt with here, as `udp.UdpPort` and `node.engine` do:

    sendmsg   EAGAIN                    the socket is full: the rest waits, in its order; `blocked` until it is writable,
                                        and until then nothing is read from the TUN
              EIO, EINVAL, EMSGSIZE     of a train: its datagrams go one by one; after EIO trains are given up for good
              anything else             dropped and counted: EPERM (a firewall's) and ENOBUFS apart from others
    writev    EINVAL of a superpacket   its packets are written one by one (some kernels refuse a short tail); after
                                        some of these no more such superpackets are made
              anything else             dropped and counted

A train whose endpoint is no UDP address is a relay's: it goes to `relay`, or is an event for the node.

What the kernel does for us can be switched off at any time, and is seen in the counters (`offloads`). A switched UDP_GRO
counts for what the socket still holds, too: datagrams that were merged before come without their size then, and are
lost.

To the node a port is its pipeline: it takes the same commands and gives the same events, and what they cause to be sent
or written is sent and written at once.
"""

import os
import socket

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EINVAL, EIO, EMSGSIZE, ENOBUFS, EPERM, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from ts4nsnet.uring.arena cimport Arena, Message
from ts4nsnet.uring.pipeline cimport SEND_FAILED, SEND_FORBIDDEN, SEND_NO_BUFFERS, SEND_TOO_BIG, WRITE_FAILED
from ts4nsnet.uring.system cimport (
    AF_INET,
    AF_INET6,
    CLOCK_BOOTTIME,
    MSG_DONTWAIT,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
    clock_gettime,
    read,
    sendmsg,
    setsockopt,
    sockaddr_in,
    timespec,
    writev,
)
from ts4nsnet.uring.wire cimport be16, be32, put_be32

from ts4nsnet.uring.offload import segment
from ts4nsnet.uring.offloads import Offload
from ts4nsnet.uring.trains import Train


cdef enum:
    GSO_UDP_L4 = 5


cdef uint8_t ipv4_mapped[12]
memset(ipv4_mapped, 0, 10)
memset(ipv4_mapped + 10, 0xFF, 2)


cdef class Port:
    """A TUN queue and a UDP socket under a pipeline; a backend adds when to read.

    Args:
        pipeline: nobody else uses it from now on but for `apply` and `next_event`.
        tun: the queue's fd, non-blocking.
        sock: of `uring.udp.open_socket`; both stay the caller's.

    Attributes:
        relay: takes a train whose endpoint is no UDP address; None: such trains are events.
        blocked: whether the UDP socket is full.
    """

    def __cinit__(self, Pipeline pipeline not None, int tun, sock, *arguments, **options):
        self.pipeline = pipeline
        pipeline.has_port = True
        self.tun = tun
        self.sock = sock.fileno()
        self.ipv6 = sock.family == socket.AF_INET6
        self.frame = <uint8_t*>malloc(FRAME_BYTES)
        if not self.frame:
            raise MemoryError
        try:
            sock.getsockopt(socket.SOL_UDP, UDP_SEGMENT)
        except OSError as error:
            pipeline.offloads.lack(Offload.UDP_GSO, error.errno)
        self.use_offloads()

    def __dealloc__(self):
        free(self.frame)

    # --- offloads -----------------------------------------------------------------------------------------------------

    def switch(self, wanted):
        """Use these offloads (`OffloadsSet`) from now on, if they work."""
        self.pipeline.offloads.switch(wanted)
        self.use_offloads()

    cdef int lose(self, offload, int error) except -1:
        """The kernel has refused what it seemed to know."""
        self.pipeline.offloads.lose(offload, error)
        return self.use_offloads()

    cdef int use_offloads(self) except -1:
        """Use what is to be used."""
        cdef int merges = self.pipeline.offloads.uses(Offload.UDP_GRO)
        if setsockopt(self.sock, SOL_UDP, UDP_GRO, &merges, sizeof(merges)) < 0 and merges:
            self.pipeline.offloads.lack(Offload.UDP_GRO, errno)
        self.segments = self.pipeline.offloads.uses(Offload.UDP_GSO)
        self.pipeline.use_offloads()
        return 0

    cdef double now(self) noexcept:
        cdef timespec time
        clock_gettime(CLOCK_BOOTTIME, &time)
        return time.tv_sec + time.tv_nsec * 1e-9

    # --- addresses ----------------------------------------------------------------------------------------------------

    cdef bint addressed(self, const uint8_t* endpoint, Sending* sending) noexcept:
        """Address a send; False for an IPv6 endpoint on an IPv4 socket."""
        cdef sockaddr_in6* six = &sending.address
        cdef sockaddr_in* four = <sockaddr_in*>six
        sending.message.msg_name = six
        if self.ipv6:
            memset(six, 0, sizeof(sockaddr_in6))
            six.sin6_family = AF_INET6
            memcpy(&six.sin6_port, endpoint + 16, 2)
            memcpy(&six.sin6_addr, endpoint, 16)
            six.sin6_scope_id = be32(endpoint + 20)
            sending.message.msg_namelen = sizeof(sockaddr_in6)
            return True
        if memcmp(endpoint, ipv4_mapped, 12):
            return False
        memset(four, 0, sizeof(sockaddr_in))
        four.sin_family = AF_INET
        memcpy(&four.sin_port, endpoint + 16, 2)
        memcpy(&four.sin_addr, endpoint + 12, 4)
        sending.message.msg_namelen = sizeof(sockaddr_in)
        return True

    cdef int endpoint_of(self, const sockaddr_in6* address, uint8_t* endpoint) noexcept:
        """The 32 bytes for where something came from; the leaf that `udp.to_endpoint` is, for this socket's family."""
        cdef const sockaddr_in* four = <const sockaddr_in*>address
        memset(endpoint, 0, 32)
        if self.ipv6:
            memcpy(endpoint, &address.sin6_addr, 16)
            memcpy(endpoint + 16, &address.sin6_port, 2)
            put_be32(endpoint + 20, address.sin6_scope_id)
        else:
            memcpy(endpoint, ipv4_mapped, 12)
            memcpy(endpoint + 12, &four.sin_addr, 4)
            memcpy(endpoint + 16, &four.sin_port, 2)
        return 0

    cdef bint relayed(self, const OutTrain* train) except -1:
        """Whether a train's endpoint is no UDP address; then the node has the train now."""
        if be16(train.endpoint + 16):
            return False
        whole = Train(self.pipeline.arena.payload(train), train.segment, train.count, <bytes>train.endpoint[:32])
        if self.relay is not None:
            self.relay(whole)
        else:
            self.pipeline._events.append(whole)
        return True

    # --- UDP ----------------------------------------------------------------------------------------------------------

    cdef bint prepare(self, const OutTrain* train, uint32_t first, uint32_t count, Sending* sending) except -1:
        """Make one sendmsg of `count` datagrams of a train, from number `first` on; False if it cannot be addressed."""
        cdef int32_t place = train.first
        cdef Arena arena = self.pipeline.arena
        cdef const Message* message
        cdef iovec* piece = sending.pieces
        cdef uint32_t end = <uint32_t>-1  # of the last piece
        cdef uint32_t number
        memset(&sending.message, 0, sizeof(msghdr))
        if not self.addressed(train.endpoint, sending):
            return False
        for number in range(first):
            place = arena.messages[place].next
        for number in range(count):
            message = &arena.messages[place]
            if message.at == end:
                piece.iov_len += message.size
            else:
                if end != <uint32_t>-1:
                    piece += 1
                piece.iov_base = arena.memory + message.at
                piece.iov_len = message.size
            end = message.at + message.size
            place = message.next
        sending.message.msg_iov = sending.pieces
        sending.message.msg_iovlen = piece - sending.pieces + 1
        if count > 1:
            sending.control.cmsg_len = sizeof(size_t) + 8 + 2
            sending.control.cmsg_level = SOL_UDP
            sending.control.cmsg_type = UDP_SEGMENT
            sending.control.segment = <uint16_t>train.segment
            sending.message.msg_control = &sending.control
            sending.message.msg_controllen = sizeof(Segmented)
        return True

    cdef int send_trains(self) except -1:
        """Send what the pipeline has, as far as the socket takes it; then the arena is free again."""
        while self.next_train < self.pipeline.arena.train_count:
            if not self.send_train(&self.pipeline.arena.trains[self.next_train]):
                self.blocked = True
                return 0
            self.next_train += 1
        self.next_train = 0
        self.blocked = False
        self.pipeline.arena.reset()
        return 0

    cdef int send_train(self, OutTrain* train) except -1:
        """Send a train; False if the socket is full, then the rest of it waits."""
        cdef Sending sending
        cdef uint32_t count
        sending.pieces = self.pieces
        if not self.train_sent and self.relayed(train):
            return True
        if train.count > 1 and not self.segments:
            self.singly = True
        while self.train_sent < train.count:
            count = 1 if self.singly else train.count
            if not self.prepare(train, self.train_sent, count, &sending):
                self.pipeline.counts[SEND_FAILED] += train.count
                break
            if sendmsg(self.sock, &sending.message, MSG_DONTWAIT) >= 0:
                self.train_sent += count
            elif errno == EAGAIN:
                return False
            elif errno == EINTR:
                PyErr_CheckSignals()
            elif count > 1 and errno in (EIO, EINVAL, EMSGSIZE):
                self.singly = True
                if errno == EIO:
                    self.lose(Offload.UDP_GSO, EIO)
            else:
                self.refused(errno, count)
                self.train_sent += count
        self.train_sent = 0
        self.singly = False
        return True

    cdef int refused(self, int error, uint32_t datagrams) except -1:
        cdef int reason = SEND_FAILED
        if error == EMSGSIZE:
            reason = SEND_TOO_BIG
        elif error == EPERM:
            reason = SEND_FORBIDDEN
        elif error == ENOBUFS:
            reason = SEND_NO_BUFFERS
        self.pipeline.counts[reason] += datagrams
        return 0

    # --- the TUN ------------------------------------------------------------------------------------------------------

    cdef bint read_frames(self, double now) except -1:
        """Take frames, as many as make a batch; True if there are no more."""
        cdef ssize_t size
        cdef size_t batch_bytes = 0
        for _ in range(MAX_BATCH_FRAMES):
            size = read(self.tun, self.frame, FRAME_BYTES)
            if size < 0:
                if errno == EAGAIN:
                    return True
                if errno == EINTR:
                    continue
                raise OSError(errno, f"reading the TUN device: {os.strerror(errno)}; was it deleted?")
            self.pipeline.take_frame(self.frame, size, now)
            batch_bytes += size
            if batch_bytes > MAX_BATCH_BYTES or not self.pipeline.arena.has_room():
                break
        return False

    cdef int write_frames(self) except -1:
        """Write what the coalescer has."""
        cdef uint32_t number
        cdef int count
        for number in range(self.pipeline.coalescer.group_count):
            count = self.pipeline.coalescer.finish(number, self.pieces)
            while writev(self.tun, self.pieces, count) < 0:
                if errno != EINTR:
                    self.write_refused(number, errno)
                    break
                PyErr_CheckSignals()
        self.pipeline.close_frames()
        return 0

    cdef int settle(self) except -1:
        """Send and write what the judge has caused."""
        if not self.blocked:
            self.send_trains()
        if self.pipeline._frames:
            self._write(self.pipeline.frames_to_write())
        return 0

    cdef int write_refused(self, uint32_t number, int error) except -1:
        """A frame was not taken; `pieces` are those of another one by now, perhaps."""
        cdef int piece
        cdef int count = self.pipeline.coalescer.finish(number, self.pieces)
        frame = b"".join([(<uint8_t*>self.pieces[piece].iov_base)[: self.pieces[piece].iov_len] for piece in range(count)])
        packets = []
        if error == EINVAL and self.pipeline.vnet_hdr and frame[1]:
            packets = segment(frame)
            offload = Offload.TUN_UDP_GRO if frame[1] == GSO_UDP_L4 else Offload.TUN_TCP_GRO
            self.pipeline.offloads.frame_refused(offload)
            self.use_offloads()
        else:
            self.pipeline.counts[WRITE_FAILED] += 1
        for packet in packets:
            try:
                os.write(self.tun, bytes(10) + packet)
            except OSError:
                self.pipeline.counts[WRITE_FAILED] += 1
        return 0

    # --- what the node says -------------------------------------------------------------------------------------------

    def apply(self, command, double now):
        """Do what the node says, and send what that has sealed."""
        self.pipeline.apply(command, now)
        self.settle()

    def set_mtu(self, peer, mtu):
        """Let packets for a peer be so long."""
        self.pipeline.set_mtu(peer, mtu)

    def from_udp(self, trains, double now):
        """Take what has come for this node by another way than UDP."""
        self.pipeline.refresh()
        self.pipeline.from_udp(trains, now)
        self.settle()

    def write(self, packets):
        """Give packets to the container; and send and write what the judge has caused since."""
        self.pipeline.write(packets)
        self.settle()

    def next_event(self):
        """The next thing for the node, or None."""
        return self.pipeline.next_event()

    @property
    def counters(self):
        """The pipeline's counters at this moment."""
        return self.pipeline.counters

    @property
    def offloads(self):
        """The pipeline's."""
        return self.pipeline.offloads

    @property
    def judge(self):
        """The pipeline's."""
        return self.pipeline.judge

    @property
    def has_trains(self):
        """Whether there is something to send: never, as it has been sent, or waits for room."""
        return False

    cdef int _write(self, frames) except -1:
        for frame in frames:
            try:
                os.write(self.tun, frame)
            except OSError:
                self.pipeline.counts[WRITE_FAILED] += 1
        return 0

# SPDX-License-Identifier: BSD-3-Clause
"""The `uring` backend: the compiled pipeline on io_uring, one wait per batch.

    enter ─► submits what the last batch made: sendmsg (trains), writev (frames)
          ─► waits, and gives what has come:
                 recvmsg of the socket, repeated by itself  a buffer per train: address, control data, datagrams
                 poll of the TUN                            frames are there: read a batch, until there are no more
                 poll of `control`                          return to Python

The kernel takes buffers from a ring that we fill (provided buffers), so nothing is asked for again per train. Sends and
writes are done when enter returns (MSG_DONTWAIT; a TUN never blocks), and success is not reported (CQE_SKIP_SUCCESS):
what is reported has failed, and goes the plain way of `Port`, in its order.

The TUN is read with plain calls: one into a buffer that is in the cache costs less than what a repeated read
(READ_MULTISHOT) spends on its polls, its buffers and their memory; with datagrams of 64 bytes a twentieth of the
sender's time (Linux 6.18).

Rules
  * A received buffer goes back to its ring only after the frames that lie in it have been written, the arena is used
    anew only after the sends have been submitted.
  * A batch is cut every 64 KiB: the other end shall have something to do while we go on.
  * While the socket is full the TUN is not read.
  * Whatever ends a repeated request (no buffers left, an empty datagram, a full completion queue) loses nothing; it is
    made again when it no longer says that more will follow.

Needs Linux 6.1 (completions only when we ask, DEFER_TASKRUN), and a process that may use io_uring: `RingPort` raises
OSError where it does not work, which is found out by doing it. The queues and the ring of buffers are in `rings`.

Source: io_uring(7), io_uring_enter(2).
"""

import os

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from liburing.lib.uring cimport (
    __io_uring_cqe,
    __io_uring_prep_poll_add,
    __io_uring_prep_recvmsg_multishot,
    __io_uring_prep_sendmsg,
    __io_uring_prep_writev,
    __io_uring_recvmsg_out,
    __io_uring_sqe,
    __iovec,
    __msghdr,
)

from ts4nsnet.uring.arena cimport OutTrain
from ts4nsnet.uring.port cimport MAX_BATCH_BYTES, Port, Sending
from ts4nsnet.uring.rings cimport (
    CQE_BUFFER,
    CQE_MORE,
    REGISTER_EVENTFD,
    SQE_BUFFER_SELECT,
    SQE_CQE_SKIP_SUCCESS,
    SUBMISSIONS,
    BUFFERS,
    Buffers,
    Ring,
    SYS_io_uring_register,
    load,
    store,
    syscall,
    whole_sqe,
)
from ts4nsnet.uring.system cimport (
    MSG_DONTWAIT,
    POLLIN,
    POLLOUT,
    SOL_UDP,
    UDP_GRO,
    cmsghdr,
    iovec,
    msghdr,
    read,
    sockaddr_in6,
)

cdef enum:
    PIECES = 8192
    NAME_BYTES = 32
    CONTROL_BYTES = 64
    PAYLOAD_AT = 16 + NAME_BYTES + CONTROL_BYTES
    UDP_BUFFER_BYTES = (PAYLOAD_AT + 65535 + 63) & ~63

    # what a completion is about: the low byte of its user_data; above it a number
    NOTHING = 0
    TUN = 1
    SOCKET = 2
    CONTROL = 3
    ROOM = 4
    SENT = 5
    WRITTEN = 6


cdef class RingPort(Port):
    """A port on io_uring.

    Args:
        pipeline, tun, sock: see `Port`.
        control: an fd; `carry` returns when it is readable. -1 for none.

    Raises:
        OSError: io_uring does not work here.
    """

    cdef Ring ring
    cdef Buffers received
    cdef int control
    cdef msghdr template
    cdef Sending* sendings
    cdef iovec* pool
    cdef uint32_t pool_used
    cdef uint32_t sending_count
    cdef uint16_t taken[BUFFERS]    # received buffers in which frames lie
    cdef uint32_t taken_count
    cdef size_t taken_bytes
    cdef bint tun_ready             # there is more to read
    cdef bint tun_armed
    cdef bint sock_armed
    cdef bint control_armed
    cdef bint room_armed
    cdef int news                       # the eventfd, -1 for none

    def __init__(self, pipeline, int tun, sock, int control=-1):
        self.control = control
        self.ring = Ring()
        self.received = Buffers(self.ring.fd, SOCKET, UDP_BUFFER_BYTES)
        self.sendings = <Sending*>malloc(SUBMISSIONS * sizeof(Sending))
        self.pool = <iovec*>malloc(PIECES * sizeof(iovec))
        if not self.sendings or not self.pool:
            raise MemoryError
        self.template.msg_namelen = NAME_BYTES
        self.template.msg_controllen = CONTROL_BYTES
        self._arm()
        self.ring.enter(0, 0)
        self._check()

    def __dealloc__(self):
        free(self.sendings)
        free(self.pool)
        if self.news >= 0:
            os.close(self.news)

    def __cinit__(self, *arguments, **options):
        self.news = -1

    cdef int _check(self) except -1:
        """See whether the kernel took the repeated request; it refuses that at once."""
        cdef uint32_t place
        for place in range(self.ring.cq_head[0], load(self.ring.cq_tail)):
            if self.ring.completions[place & self.ring.cq_mask].res == -22:
                raise OSError(22, "io_uring: this kernel does not know a repeated recvmsg (Linux 6.0)")
        return 0

    cdef int _arm(self) except -1:
        """Make the requests again that have ended."""
        cdef __io_uring_sqe* entry
        self.received.lend()
        if not self.tun_armed and not self.tun_ready:
            self._poll(self.tun, POLLIN, TUN)
            self.tun_armed = True
        if not self.sock_armed:
            entry = self.ring.next_entry()
            __io_uring_prep_recvmsg_multishot(entry, self.sock, <__msghdr*>&self.template, 0)
            (<whole_sqe*>entry).buf_group = SOCKET
            entry.flags |= SQE_BUFFER_SELECT
            entry.user_data = SOCKET
            self.sock_armed = True
        if self.control >= 0 and not self.control_armed:
            self._poll(self.control, POLLIN, CONTROL)
            self.control_armed = True
        if self.blocked and not self.room_armed:
            self._poll(self.sock, POLLOUT, ROOM)
            self.room_armed = True
        return 0

    cdef int _poll(self, int fd, uint32_t events, uint64_t about) except -1:
        cdef __io_uring_sqe* entry = self.ring.next_entry()
        __io_uring_prep_poll_add(entry, fd, events)
        entry.user_data = about
        return 0

    def carry(self, int milliseconds=-1, int batches=-1):
        """Carry packets until there is something for the node, or until the time is over with nothing to carry.

        Args:
            milliseconds: -1 to wait for ever.
            batches: after how many of them to return all the same; -1 for never.

        Returns: whether `control` is readable; other news are in `next_event`.
        """
        cdef bint asked = False
        cdef bint drained = False
        cdef bint reads
        cdef uint64_t count
        self.pipeline.refresh()
        if self.news >= 0:
            read(self.news, &count, sizeof(count))  # before looking, so that nothing is missed
        while batches and not asked and not self.pipeline._events and not self.pipeline.sessions._events:
            batches -= 1
            self._arm()
            reads = self.tun_ready and not self.blocked  # which needs no waiting
            self.ring.enter(1 if milliseconds and not reads else 0, milliseconds if milliseconds else -1)
            if not reads and self.ring.cq_head[0] == load(self.ring.cq_tail):
                if milliseconds >= 0:
                    drained = True
                    break
                continue
            asked = self._reap(self.now())
        self._flush()
        if self.news >= 0:
            # others wait for us: not within enter, so all must be with the kernel already
            self._arm()
            self._submit()
            if not drained:
                os.eventfd_write(self.news, 1)
        return asked

    name = "uring"

    def fileno(self):
        """Readable when there is something to carry: an eventfd, made when it is first asked for.

        The ring's own fd would not do: whoever already sleeps on it is not woken (DEFER_TASKRUN; Linux 6.18).
        """
        cdef int fd
        if self.news < 0:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            if syscall(SYS_io_uring_register, self.ring.fd, REGISTER_EVENTFD, &fd, 1) < 0:
                os.close(fd)
                raise OSError(errno, f"io_uring: an eventfd: {os.strerror(errno)}")
            self.news = fd
            os.eventfd_write(fd, 1)  # there may be something already
        return self.news

    # --- what has come ------------------------------------------------------------------------------------------------

    cdef bint _reap(self, double now) except -1:
        """Take all completions; True if `control` is readable."""
        cdef uint32_t place = self.ring.cq_head[0]
        cdef uint32_t tail
        cdef __io_uring_cqe* done
        cdef bint asked = False
        self._flush()
        tail = load(self.ring.cq_tail)
        while place != tail:
            done = &self.ring.completions[place & self.ring.cq_mask]
            if done.user_data == TUN:
                self.tun_armed = False
                self.tun_ready = True
            elif done.user_data == SOCKET:
                self.sock_armed = self.sock_armed and done.flags & CQE_MORE != 0
                if done.flags & CQE_BUFFER:
                    self._take_train(<uint16_t>(done.flags >> 16), done.res, now)
            elif done.user_data == CONTROL:
                self.control_armed = False
                asked = True
            elif done.user_data == ROOM:
                self.room_armed = False
                self.send_trains()
            place += 1
            store(self.ring.cq_head, place)
            if self.taken_bytes > MAX_BATCH_BYTES:
                self._queue(now)
                self._flush()
        if self.tun_ready and not self.blocked:
            self.tun_ready = not self.read_frames(now)
        self._queue(now)
        if self.pipeline._frames:
            self._write(self.pipeline.frames_to_write())
        return asked

    cdef int _take_train(self, uint16_t number, uint32_t size, double now) except -1:
        cdef uint8_t* at = self.received.at(number)
        cdef __io_uring_recvmsg_out* out = <__io_uring_recvmsg_out*>at
        cdef const cmsghdr* control = <const cmsghdr*>(at + 16 + NAME_BYTES)
        cdef uint8_t endpoint[32]
        cdef uint32_t segment = 0
        self.received.took(size)
        self.taken[self.taken_count] = number
        self.taken_count += 1
        if size < PAYLOAD_AT:
            return 0
        if out.controllen >= sizeof(cmsghdr) + 4 and control.cmsg_level == SOL_UDP and control.cmsg_type == UDP_GRO:
            segment = (<const uint32_t*>(<const uint8_t*>control + sizeof(cmsghdr)))[0]
        self.endpoint_of(<const sockaddr_in6*>(at + 16), endpoint)
        self.pipeline.take_train(at + PAYLOAD_AT, size - PAYLOAD_AT, segment, endpoint, now)
        self.taken_bytes += size
        return 0

    # --- what is to go ------------------------------------------------------------------------------------------------

    cdef int _queue(self, double now) except -1:
        """Make submissions of what was taken."""
        cdef uint32_t number
        cdef int count
        cdef __io_uring_sqe* entry
        if not self.blocked:
            self.pipeline.seal_batches(now)
            for number in range(self.pipeline.arena.train_count):
                self._queue_train(number)
        for number in range(self.pipeline.coalescer.group_count):
            if self.pool_used + 1024 > PIECES:
                self._submit()
            count = self.pipeline.coalescer.finish(number, self.pool + self.pool_used)
            entry = self.ring.next_entry()
            __io_uring_prep_writev(entry, self.tun, <__iovec*>(self.pool + self.pool_used), count, 0)
            entry.flags |= SQE_CQE_SKIP_SUCCESS
            entry.user_data = WRITTEN | <uint64_t>number << 8
            self.pool_used += count
        return 0

    cdef int _queue_train(self, uint32_t number) except -1:
        cdef OutTrain* train = &self.pipeline.arena.trains[number]
        cdef Sending* sending
        cdef __io_uring_sqe* entry
        if self.relayed(train):
            return 0
        if self.sending_count == SUBMISSIONS or self.pool_used + train.count > PIECES:
            self._submit()
        sending = &self.sendings[self.sending_count]
        sending.pieces = self.pool + self.pool_used
        if (train.count > 1 and not self.segments) or not self.prepare(train, 0, train.count, sending):
            train.failed = True
            return 0
        self.sending_count += 1
        self.pool_used += <uint32_t>sending.message.msg_iovlen
        entry = self.ring.next_entry()
        __io_uring_prep_sendmsg(entry, self.sock, <__msghdr*>&sending.message, MSG_DONTWAIT)
        entry.flags |= SQE_CQE_SKIP_SUCCESS
        entry.user_data = SENT | <uint64_t>number << 8
        return 0

    cdef int _submit(self) except -1:
        """Submit what there is, so that its structures can be used anew."""
        while self.ring.unsubmitted():
            self.ring.enter(0, 0)
        self.pool_used = self.sending_count = 0
        return 0

    cdef int _flush(self) except -1:
        """Submit all, and be done with it."""
        self._submit()
        return self._finish()

    cdef int _finish(self) except -1:
        """All that was queued has been submitted, and so is done: see what failed, and use its memory anew."""
        cdef uint32_t place, number
        cdef __io_uring_cqe* done
        for place in range(self.ring.cq_head[0], load(self.ring.cq_tail)):
            done = &self.ring.completions[place & self.ring.cq_mask]
            if done.user_data & 0xFF == SENT:
                self.pipeline.arena.trains[done.user_data >> 8].failed = True
                done.user_data = NOTHING
            elif done.user_data & 0xFF == WRITTEN:
                self.write_refused(<uint32_t>(done.user_data >> 8), -done.res)
                done.user_data = NOTHING
        self.pool_used = self.sending_count = 0
        if not self.blocked:
            self._send_failed()
        self.pipeline.close_frames()
        for number in range(self.taken_count):
            self.received.give(self.taken[number])
        self.taken_count = 0
        self.taken_bytes = 0
        return 0

    cdef int _send_failed(self) except -1:
        """Send the plain way what could not be sent the other; the rest has gone."""
        cdef uint32_t number
        cdef uint32_t left = 0
        for number in range(self.pipeline.arena.train_count):
            if self.pipeline.arena.trains[number].failed:
                self.pipeline.arena.trains[left] = self.pipeline.arena.trains[number]
                left += 1
        self.pipeline.arena.train_count = left
        return self.send_trains()

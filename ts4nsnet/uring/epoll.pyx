# SPDX-License-Identifier: BSD-3-Clause
"""The `epoll` backend: the compiled pipeline on plain system calls, for kernels and containers without io_uring.

    epoll_wait ─► TUN readable: read frames, seal, sendmsg      a batch: until there is no more, or 64 KiB
               ─► UDP readable: recvmsg, open, writev           likewise
               ─► control readable, or something for the node: return to Python

All trains of a batch are received behind one another in one buffer, so that small datagrams share cache lines and pages;
they stay there until their frames are written.
"""

import os

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ts4nsnet.uring.port cimport (
    CONTROL_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_TRAINS,
    RECEIVE_BYTES,
    Port,
)
from ts4nsnet.uring.system cimport (
    EPOLL_CLOEXEC,
    EPOLL_CTL_ADD,
    EPOLL_CTL_MOD,
    EPOLLIN,
    EPOLLOUT,
    MSG_DONTWAIT,
    SOL_UDP,
    UDP_GRO,
    cmsghdr,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_wait,
    iovec,
    msghdr,
    recvmsg,
    sockaddr_in6,
)


cdef class EpollPort(Port):
    """A port that waits with epoll.

    Args:
        pipeline, tun, sock: see `Port`.
        control: an fd; `carry` returns when it is readable. -1 for none.
    """

    cdef int epoll
    cdef int control
    cdef uint32_t tun_events
    cdef uint32_t sock_events
    cdef uint8_t* received

    def __init__(self, pipeline, int tun, sock, int control=-1):
        self.control = control
        self.received = <uint8_t*>malloc(MAX_BATCH_BYTES + RECEIVE_BYTES + 64)
        if not self.received:
            raise MemoryError
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            raise OSError(errno, os.strerror(errno))
        self.tun_events = self.sock_events = EPOLLIN
        self._watch(EPOLL_CTL_ADD, self.tun, EPOLLIN)
        self._watch(EPOLL_CTL_ADD, self.sock, EPOLLIN)
        if control >= 0:
            self._watch(EPOLL_CTL_ADD, control, EPOLLIN)

    def __dealloc__(self):
        free(self.received)
        if self.epoll > 0:
            os.close(self.epoll)

    name = "epoll"

    def fileno(self):
        """Readable when there is something to carry."""
        return self.epoll

    cdef int _watch(self, int what, int fd, uint32_t events) except -1:
        cdef epoll_event event
        event.events = events
        event.data.fd = fd
        if epoll_ctl(self.epoll, what, fd, &event) < 0:
            raise OSError(errno, os.strerror(errno))
        return 0

    def carry(self, int milliseconds=-1, int batches=-1):
        """Carry packets until there is something for the node, or until the time is over with nothing to carry.

        What is ready at once is carried whatever `control` says, so that nobody who speaks there all the time can keep
        packets waiting. After that `control` goes first: what it has to say may be the key of a message that has come
        right behind it.

        Args:
            milliseconds: -1 to wait for ever.
            batches: after how many of them to return all the same; -1 for never.

        Returns: whether `control` is readable; other news are in `next_event`.
        """
        cdef epoll_event events[4]
        cdef int ready, place
        cdef bint asked = False
        cdef bint first = True
        cdef double now
        self.pipeline.refresh()
        while batches and not asked and not self.pipeline._events and not self.pipeline.sessions._events:
            ready = epoll_wait(self.epoll, events, 4, 0 if first else milliseconds)
            if ready == 0 and first:
                first = False
                continue
            batches -= 1
            if ready < 0 and errno != EINTR:
                raise OSError(errno, os.strerror(errno))
            if ready <= 0:
                PyErr_CheckSignals()
                if ready == 0:
                    return False
                continue
            for place in range(ready):
                if not first and events[place].data.fd == self.control:
                    return True
            first = False
            now = self.now()
            for place in range(ready):
                if events[place].data.fd == self.sock:
                    if events[place].events & EPOLLOUT:
                        self.send_trains()
                    self._from_udp(now)
                elif events[place].data.fd == self.tun:
                    if not self.blocked:
                        self._from_tun(now)
                else:
                    asked = True
            self.settle()
            self._follow()
        return asked

    cdef int _follow(self) except -1:
        """While the UDP socket is full watch it for room, and leave the TUN alone."""
        cdef uint32_t tun_events = 0 if self.blocked else EPOLLIN
        cdef uint32_t sock_events = EPOLLIN | EPOLLOUT if self.blocked else EPOLLIN
        if tun_events != self.tun_events:
            self._watch(EPOLL_CTL_MOD, self.tun, tun_events)
            self._watch(EPOLL_CTL_MOD, self.sock, sock_events)
            self.tun_events, self.sock_events = tun_events, sock_events
        return 0

    cdef int _from_tun(self, double now) except -1:
        self.read_frames(now)
        self.pipeline.seal_batches(now)
        return self.send_trains()

    cdef int _from_udp(self, double now) except -1:
        cdef msghdr message
        cdef iovec piece
        cdef sockaddr_in6 address
        cdef uint8_t control[CONTROL_BYTES]
        cdef uint8_t endpoint[32]
        cdef uint8_t* at = self.received
        cdef ssize_t size
        cdef int number
        memset(&message, 0, sizeof(message))
        message.msg_name = &address
        message.msg_iov = &piece
        message.msg_iovlen = 1
        for number in range(MAX_BATCH_TRAINS):
            piece.iov_base = at
            piece.iov_len = RECEIVE_BYTES
            message.msg_namelen = sizeof(address)
            message.msg_control = control
            message.msg_controllen = CONTROL_BYTES
            size = recvmsg(self.sock, &message, MSG_DONTWAIT)
            if size < 0:
                if errno == EAGAIN:
                    break
                continue  # an ICMP error about something we have sent; WireGuard's timers know better
            self.endpoint_of(&address, endpoint)
            self.pipeline.take_train(at, size, merged_size(&message), endpoint, now)
            at += (size + 15) & ~<ssize_t>15
            if at - self.received > MAX_BATCH_BYTES or self.pipeline.frames_full():
                break
        return self.write_frames()


cdef inline uint32_t merged_size(const msghdr* message) noexcept nogil:
    """Of the datagrams that the kernel has merged, bytes; 0 when it has not. It is the only control data asked for."""
    cdef const cmsghdr* control = <const cmsghdr*>message.msg_control
    if message.msg_controllen < sizeof(cmsghdr) or control.cmsg_level != SOL_UDP or control.cmsg_type != UDP_GRO:
        return 0
    return (<const int*>(<const uint8_t*>control + sizeof(cmsghdr)))[0]

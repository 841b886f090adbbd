# SPDX-License-Identifier: BSD-3-Clause
"""What the backends use of `port`."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from ts4nsnet.uring.arena cimport OutTrain
from ts4nsnet.uring.pipeline cimport Pipeline
from ts4nsnet.uring.system cimport iovec, msghdr, sockaddr_in6


cdef enum:
    MAX_PIECES = 1024
    MAX_BATCH_FRAMES = 64
    MAX_BATCH_TRAINS = 32
    MAX_BATCH_BYTES = 64 << 10
    FRAME_BYTES = 10 + 65536
    RECEIVE_BYTES = 65535
    CONTROL_BYTES = 64


cdef struct Segmented:
    # the control data of one send: a cmsghdr and the size of each datagram
    size_t cmsg_len
    int cmsg_level
    int cmsg_type
    uint16_t segment
    uint8_t padding[6]


cdef struct Sending:
    # one sendmsg, ready for the kernel
    msghdr message
    sockaddr_in6 address
    Segmented control
    iovec* pieces


cdef class Port:
    cdef readonly Pipeline pipeline
    cdef readonly int tun
    cdef readonly int sock
    cdef bint ipv6
    cdef bint segments              # whether trains are sent in one call
    cdef readonly bint blocked      # the UDP socket is full
    cdef public object relay
    cdef uint32_t next_train
    cdef uint32_t train_sent        # datagrams of that one, which goes one by one
    cdef bint singly
    cdef iovec pieces[MAX_PIECES]
    cdef uint8_t* frame             # room for one

    cdef int lose(self, offload, int error) except -1
    cdef int use_offloads(self) except -1
    cdef double now(self) noexcept
    cdef bint prepare(self, const OutTrain* train, uint32_t first, uint32_t count, Sending* sending) except -1
    cdef bint addressed(self, const uint8_t* endpoint, Sending* sending) noexcept
    cdef int endpoint_of(self, const sockaddr_in6* address, uint8_t* endpoint) noexcept
    cdef bint relayed(self, const OutTrain* train) except -1
    cdef int send_trains(self) except -1
    cdef int send_train(self, OutTrain* train) except -1
    cdef int refused(self, int error, uint32_t datagrams) except -1
    cdef bint read_frames(self, double now) except -1
    cdef int write_frames(self) except -1
    cdef int settle(self) except -1
    cdef int _write(self, frames) except -1
    cdef int write_refused(self, uint32_t number, int error) except -1

# SPDX-License-Identifier: BSD-3-Clause
"""What other compiled modules use of `pipeline`."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from ts4nsnet.uring.arena cimport Arena, Batch
from ts4nsnet.uring.classify cimport Accepted, Routes
from ts4nsnet.uring.offload cimport Coalescer, Cut
from ts4nsnet.uring.sessions cimport Session, Sessions


cdef enum:
    # places in the counters' memory; see counters.FIELDS and DROPS
    READ_FRAMES = 0
    READ_PACKETS = 1
    SENT_TRAINS = 2
    SENT_DATAGRAMS = 3
    RECEIVED_TRAINS = 4
    RECEIVED_DATAGRAMS = 5
    WRITTEN_FRAMES = 6
    WRITTEN_PACKETS = 7
    FRAME_MALFORMED = 8
    NO_ROUTE = 9
    NO_ENDPOINT = 10
    INNER_MALFORMED = 11
    SOURCE_NOT_ALLOWED = 12
    SEND_FAILED = 13
    SEND_TOO_BIG = 14
    WRITE_FAILED = 15
    SEND_FORBIDDEN = 16
    SEND_NO_BUFFERS = 17


cdef class Pipeline:
    cdef readonly Sessions sessions
    cdef readonly object counter_memory
    cdef uint64_t[::1] _counters
    cdef uint64_t* counts
    cdef public object judge
    cdef object _judge_version
    cdef Accepted accepted
    cdef object _allowed_ips
    cdef object _routes_version
    cdef Routes routes
    cdef uint32_t mtu
    cdef uint32_t* mtus             # of each peer's path
    cdef bint vnet_hdr
    cdef bint has_port      # which sends the arena's trains
    cdef Arena arena
    cdef readonly Coalescer coalescer
    cdef readonly object offloads
    cdef list _trains
    cdef list _frames
    cdef object _events

    cdef int use_offloads(self) except -1
    cdef int refresh(self) except -1
    cdef int take_frame(self, const uint8_t* frame, size_t size, double now) except -1
    cdef int _ask(self, const Cut* cut, int32_t peer, double now) except -1
    cdef int seal_batches(self, double now) except -1
    cdef int _seal_batch(self, Batch* batch, double now) except -1
    cdef bint frames_full(self) noexcept
    cdef int take_train(self, uint8_t* data, uint32_t size, uint32_t segment, const uint8_t* source, double now) except -1
    cdef int _take_datagram(self, uint8_t* datagram, uint32_t size, const uint8_t* source, double now) except -1
    cdef void close_frames(self) noexcept
    cdef _collect(self)
    cdef _collect_frames(self)

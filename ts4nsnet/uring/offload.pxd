# SPDX-License-Identifier: BSD-3-Clause
"""What other compiled modules use of `offload`."""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from ts4nsnet.uring.system cimport iovec
from ts4nsnet.uring.wire cimport Look


cdef enum:
    VNET_HEADER_BYTES = 10


cdef struct Cut:
    # how a frame is to be cut; made by `plan`
    const uint8_t* packet
    uint32_t size           # of the packet, bytes
    uint8_t protocol        # TCP, UDP, or 0: one packet, as it is
    uint32_t csum_start     # of that one, where its checksum begins
    uint32_t csum_at        # and where it stands; 0: nothing is to be made
    uint32_t header_len     # IP and layer 4, of each segment
    uint32_t payload_len
    uint32_t gso_size
    uint32_t count          # of segments
    Look ip


cdef struct Part:
    # a packet of the batch, or of a group all but the first: its payload
    uint8_t* at
    uint32_t size
    int32_t next            # of the same group, -1 for none


cdef struct Group:
    uint8_t* packet         # the first one
    uint32_t size           # of the frame's IP packet
    uint32_t gso_size
    uint32_t sequence       # that it waits for
    uint32_t hash
    uint32_t count          # of packets
    int32_t first           # part
    int32_t last
    int32_t next            # of the same bucket, -1 for none
    uint16_t ip_len
    uint16_t header_len     # 0: not eligible
    uint8_t version
    uint8_t protocol
    bint push
    bint open


cdef bint plan(const uint8_t* frame, size_t size, bint vnet_hdr, Cut* cut) noexcept nogil
cdef uint32_t segment_size(const Cut* cut, uint32_t number) noexcept nogil
cdef void emit_segment(const Cut* cut, uint32_t number, uint8_t* to) noexcept nogil


cdef class Coalescer:
    cdef public bint tcp
    cdef public bint udp
    cdef bint vnet_hdr
    cdef uint32_t mtu
    cdef Part* parts
    cdef Group* groups
    cdef int32_t* buckets
    cdef uint32_t* barriers
    cdef uint32_t part_count
    cdef uint32_t group_count

    cdef bint full(self) noexcept nogil
    cdef void add(self, uint8_t* packet, uint32_t size) noexcept nogil
    cdef Group* merged(self, uint8_t* packet, uint32_t size) noexcept nogil
    cdef void append(self, Group* group, uint8_t* at, uint32_t size) noexcept nogil
    cdef Group* waiting(self, const uint8_t* packet, const Look* ip, uint32_t sequence, uint32_t hash) noexcept nogil
    cdef void await_next(self, Group* group, uint32_t sequence, uint32_t hash) noexcept nogil
    cdef int finish(self, uint32_t number, iovec* vectors) noexcept nogil
    cdef void clear(self) noexcept nogil

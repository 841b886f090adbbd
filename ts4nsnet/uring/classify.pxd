# SPDX-License-Identifier: BSD-3-Clause
"""What other compiled modules use of `classify`."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef struct Piece4:
    uint32_t start
    int32_t peer


cdef struct Piece6:
    uint64_t high
    uint64_t low
    int32_t peer
    int32_t unused


cdef class Routes:
    cdef bytes _v4
    cdef bytes _v6
    cdef const Piece4* v4
    cdef const Piece6* v6
    cdef uint32_t count4
    cdef uint32_t count6
    cdef uint32_t last4
    cdef uint32_t last6

    cdef int32_t owner4(self, const uint8_t* address) noexcept nogil
    cdef int32_t owner6(self, const uint8_t* address) noexcept nogil
    cdef int32_t source(self, const uint8_t* packet) noexcept nogil
    cdef int32_t destination(self, const uint8_t* packet) noexcept nogil


cdef enum:
    OUT = 0
    IN = 1


cdef struct Flow:
    # of TCP, UDP or pings, in one direction
    uint8_t addresses[32]
    uint32_t ports
    uint8_t version
    uint8_t protocol
    uint8_t direction
    uint8_t unused
    double until


cdef class Accepted:
    cdef Flow* flows

    cdef bint has(self, const uint8_t* packet, uint32_t size, uint8_t direction, double now) noexcept nogil
    cdef void note(self, const uint8_t* packet, uint32_t size, uint8_t direction, double now) noexcept nogil
    cdef void clear(self) noexcept nogil

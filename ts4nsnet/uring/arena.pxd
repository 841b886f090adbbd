# SPDX-License-Identifier: BSD-3-Clause
"""What other compiled modules use of `arena`."""

cimport cython
from libc.stdint cimport int32_t, uint8_t, uint32_t


cdef enum:
    # the largest frame that is taken, bytes and messages; so much is kept free
    ROOM_BYTES = 4 << 20
    ROOM_MESSAGES = 1 << 16
    OVERHEAD_BYTES = 32


cdef struct Message:
    # a packet to be sealed, and then a message to be sent
    uint32_t at         # of the message, in `Arena.memory`; the packet begins 16 bytes later
    uint32_t packet     # bytes
    uint32_t size       # bytes of the message
    int32_t next        # of the same peer, -1 for none


cdef struct Batch:
    # the messages for one peer
    uint32_t peer
    uint32_t count
    int32_t first
    int32_t last


cdef struct OutTrain:
    int32_t first       # message
    uint32_t count
    uint32_t size       # bytes in all
    uint32_t segment    # bytes of each but the last
    bint failed         # a backend's note: it has not gone yet, and must go another way
    uint8_t endpoint[32]


@cython.final
cdef class Arena:
    cdef void* mapping
    cdef uint8_t* memory
    cdef size_t used
    cdef Message* messages
    cdef uint32_t message_count
    cdef Batch* batches
    cdef uint32_t batch_count
    cdef OutTrain* trains
    cdef uint32_t train_count
    cdef uint32_t longest_train     # datagrams of a train to UDP at most
    cdef bint equal_tails           # whether all of a train may be equally long

    cdef bint has_room(self) noexcept
    cdef uint8_t* stage(self, uint32_t peer, uint32_t size, uint32_t mtu) noexcept
    cdef void form_trains(self, const Batch* batch, const uint8_t* endpoint) noexcept
    cdef void _form_uneven_trains(self, const Batch* batch, const uint8_t* endpoint) noexcept
    cdef OutTrain* _new_train(self, int32_t first, const uint8_t* endpoint) noexcept
    cdef bytes message(self, int32_t number)
    cdef list payload(self, const OutTrain* train)
    cdef void reset(self) noexcept

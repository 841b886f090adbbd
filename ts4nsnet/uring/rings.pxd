# SPDX-License-Identifier: BSD-3-Clause
"""What `ring` uses of `rings`; and of io_uring itself, what is newer than python-liburing's header."""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from liburing.lib.uring cimport __io_uring_buf_ring, __io_uring_cqe, __io_uring_sqe


cdef extern from "../include/liburing.h" nogil:
    # the same struct as python-liburing's, with fields that it leaves out
    struct whole_sqe "io_uring_sqe":
        uint16_t buf_group


cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)


cdef extern from "<sys/syscall.h>" nogil:
    enum:
        SYS_io_uring_setup
        SYS_io_uring_enter
        SYS_io_uring_register


cdef extern from *:
    """
    #define TS_LOAD(at) __atomic_load_n(at, __ATOMIC_ACQUIRE)
    #define TS_STORE(at, value) __atomic_store_n(at, value, __ATOMIC_RELEASE)
    """
    uint32_t load "TS_LOAD"(const uint32_t* at) noexcept nogil
    void store "TS_STORE"(uint32_t* at, uint32_t value) noexcept nogil


cdef enum:
    # <linux/io_uring.h>
    REGISTER_EVENTFD = 4
    SQE_BUFFER_SELECT = 0x20
    SQE_CQE_SKIP_SUCCESS = 0x40
    CQE_BUFFER = 1
    CQE_MORE = 2

    SUBMISSIONS = 256
    BUFFERS = 64


@cython.final
cdef class Buffers:
    cdef __io_uring_buf_ring* ring
    cdef uint8_t* memory
    cdef size_t size
    cdef uint16_t free[BUFFERS]     # a stack
    cdef uint32_t free_count
    cdef uint32_t lent              # which the kernel has
    cdef size_t largest             # of what came since `lend`

    cdef uint8_t* at(self, uint16_t number) noexcept
    cdef void took(self, size_t size) noexcept
    cdef void give(self, uint16_t number) noexcept
    cdef void lend(self) noexcept


@cython.final
cdef class Ring:
    cdef int fd
    cdef uint8_t* queues
    cdef size_t queues_size
    cdef uint8_t* entries       # submissions
    cdef uint32_t* sq_head
    cdef uint32_t* sq_tail
    cdef uint32_t sq_mask
    cdef uint32_t* cq_head
    cdef uint32_t* cq_tail
    cdef uint32_t cq_mask
    cdef __io_uring_cqe* completions
    cdef int registered         # its number for enter, -1 if it has none

    cdef void* _map(self, size_t size, long offset) except NULL
    cdef uint32_t unsubmitted(self) noexcept
    cdef __io_uring_sqe* next_entry(self) except NULL
    cdef int enter(self, uint32_t wanted, int milliseconds) except -1

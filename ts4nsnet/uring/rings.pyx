# SPDX-License-Identifier: BSD-3-Clause
"""What a process shares with the kernel to use io_uring: two queues, and a ring of buffers.

    Ring      submissions ─► kernel ─► completions      enter: submit all, and wait for so many
    Buffers   memory of which the kernel takes a piece for each train that comes (provided buffers): `lend` lets it have
              some, `took` says that it has used one, `give` takes that back

What is submitted, and what a completion means, is `ring`'s. A ring is used by the thread that made it and no other, and
what has completed appears when it enters (SINGLE_ISSUER, DEFER_TASKRUN): so the kernel interrupts nobody.

Of python-liburing only declarations and inline helpers are used; the system calls are made here.

Source: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
"""

import os

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EBUSY, EINTR, ETIME, errno
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from liburing.lib.uring cimport (
    __io_uring_buf_reg,
    __io_uring_buf_ring_add,
    __io_uring_buf_ring_advance,
    __io_uring_buf_ring_init,
    __io_uring_params,
)

from ts4nsnet.uring.system cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

cdef enum:
    # <linux/io_uring.h>
    SETUP_CQSIZE = 8
    SETUP_SUBMIT_ALL = 0x80
    SETUP_COOP_TASKRUN = 0x100
    SETUP_SINGLE_ISSUER = 0x1000
    SETUP_DEFER_TASKRUN = 0x2000
    FEAT_SINGLE_MMAP = 1
    OFF_SQES = 0x10000000
    ENTER_GETEVENTS = 1
    ENTER_EXT_ARG = 8
    ENTER_REGISTERED_RING = 16
    REGISTER_RING_FDS = 20
    REGISTER_PBUF_RING = 22

    COMPLETIONS = 1024
    AHEAD_BYTES = 128 << 10  # ours
    FEWEST = 2

cdef struct Wait:
    # io_uring_getevents_arg
    uint64_t sigmask
    uint32_t sigmask_size
    uint32_t min_wait_usec
    uint64_t time

cdef struct KernelTime:
    int64_t seconds
    int64_t nanoseconds

cdef struct RingFd:
    # io_uring_rsrc_update
    uint32_t offset
    uint32_t unused
    uint64_t fd


cdef class Buffers:
    """Buffers of which the kernel takes one for each train, in a ring of those that it may take.

    It gets as many as hold AHEAD_BYTES, by the longest train that came last: of short ones so many that a batch is worth
    its cost; of long ones few, which are still in the cache when they are dealt with, while the other direction does
    not wait for long. Those used last go first.
    """

    def __cinit__(self, int fd, uint16_t group, size_t size):
        cdef __io_uring_buf_reg request
        cdef uint16_t number
        self.size = size
        self.ring = <__io_uring_buf_ring*>anonymous(BUFFERS * 16)
        self.memory = <uint8_t*>anonymous(BUFFERS * size)
        memset(&request, 0, sizeof(request))
        request.ring_addr = <uint64_t><uintptr_t>self.ring
        request.ring_entries = BUFFERS
        request.bgid = group
        if syscall(SYS_io_uring_register, fd, REGISTER_PBUF_RING, &request, 1) < 0:
            raise OSError(errno, f"io_uring: a buffer ring: {os.strerror(errno)}")
        __io_uring_buf_ring_init(self.ring)
        for number in range(BUFFERS):
            self.give(number)

    def __dealloc__(self):
        if self.ring is not NULL:
            munmap(self.ring, BUFFERS * 16)
        if self.memory is not NULL:
            munmap(self.memory, BUFFERS * self.size)

    cdef uint8_t* at(self, uint16_t number) noexcept:
        return self.memory + number * self.size

    cdef void took(self, size_t size) noexcept:
        """The kernel has used a buffer, for so many bytes."""
        self.lent -= 1
        if size > self.largest:
            self.largest = size

    cdef void give(self, uint16_t number) noexcept:
        """Take a buffer back."""
        self.free[self.free_count] = number
        self.free_count += 1

    cdef void lend(self) noexcept:
        """Let the kernel have as many as it should."""
        cdef uint32_t wanted = FEWEST
        cdef uint32_t added = 0
        cdef uint16_t number
        if self.largest * FEWEST < AHEAD_BYTES:
            wanted = BUFFERS if self.largest * BUFFERS <= AHEAD_BYTES else <uint32_t>(AHEAD_BYTES // self.largest)
        while self.lent + added < wanted and self.free_count:
            self.free_count -= 1
            number = self.free[self.free_count]
            __io_uring_buf_ring_add(
                self.ring, self.at(number), <unsigned int>self.size, number, BUFFERS - 1, <int>added
            )
            added += 1
        if added:
            __io_uring_buf_ring_advance(self.ring, <int>added)
            self.lent += added
            self.largest = 0


cdef void* anonymous(size_t size) except NULL:
    cdef void* made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if made == MAP_FAILED:
        raise MemoryError
    return made


cdef class Ring:
    """The two queues that are shared with the kernel."""

    def __cinit__(self):
        cdef __io_uring_params params
        cdef RingFd update
        cdef uint32_t number
        cdef uint32_t* array
        self.fd = self.registered = -1
        memset(&params, 0, sizeof(params))
        params.flags = SETUP_CQSIZE | SETUP_SUBMIT_ALL | SETUP_COOP_TASKRUN | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN
        params.cq_entries = COMPLETIONS
        self.fd = <int>syscall(SYS_io_uring_setup, SUBMISSIONS, &params)
        if self.fd < 0 or not params.features & FEAT_SINGLE_MMAP:
            raise OSError(errno, f"io_uring: {os.strerror(errno)}")
        self.queues_size = max(
            <size_t>params.sq_off.array + params.sq_entries * 4,
            <size_t>params.cq_off.cqes + params.cq_entries * sizeof(__io_uring_cqe),
        )
        self.queues = <uint8_t*>self._map(self.queues_size, 0)
        self.entries = <uint8_t*>self._map(params.sq_entries * 64, OFF_SQES)
        self.sq_head = <uint32_t*>(self.queues + params.sq_off.head)
        self.sq_tail = <uint32_t*>(self.queues + params.sq_off.tail)
        self.sq_mask = params.sq_entries - 1
        self.cq_head = <uint32_t*>(self.queues + params.cq_off.head)
        self.cq_tail = <uint32_t*>(self.queues + params.cq_off.tail)
        self.cq_mask = params.cq_entries - 1
        self.completions = <__io_uring_cqe*>(self.queues + params.cq_off.cqes)
        array = <uint32_t*>(self.queues + params.sq_off.array)
        for number in range(params.sq_entries):
            array[number] = number
        update.offset = <uint32_t>-1
        update.unused = 0
        update.fd = self.fd
        if syscall(SYS_io_uring_register, self.fd, REGISTER_RING_FDS, &update, 1) == 1:
            self.registered = update.offset

    def __dealloc__(self):
        if self.queues is not NULL:
            munmap(self.queues, self.queues_size)
        if self.entries is not NULL:
            munmap(self.entries, (self.sq_mask + 1) * 64)
        if self.fd >= 0:
            os.close(self.fd)

    cdef void* _map(self, size_t size, long offset) except NULL:
        cdef void* made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, self.fd, offset)
        if made == MAP_FAILED:
            raise OSError(errno, f"io_uring: {os.strerror(errno)}")
        return made

    cdef uint32_t unsubmitted(self) noexcept:
        return self.sq_tail[0] - load(self.sq_head)

    cdef __io_uring_sqe* next_entry(self) except NULL:
        """An entry to be filled; when there is none left, all before it are submitted."""
        cdef uint32_t place = self.sq_tail[0]
        cdef __io_uring_sqe* entry
        if self.unsubmitted() > self.sq_mask:
            self.enter(0, 0)
        entry = <__io_uring_sqe*>(self.entries + (place & self.sq_mask) * 64)
        memset(entry, 0, 64)
        store(self.sq_tail, place + 1)
        return entry

    cdef int enter(self, uint32_t wanted, int milliseconds) except -1:
        """Submit; with `wanted` wait for so many completions, at most `milliseconds` (-1: for ever)."""
        cdef Wait wait
        cdef KernelTime time
        cdef uint32_t flags = 0
        memset(&wait, 0, sizeof(wait))
        if wanted or milliseconds:
            flags = ENTER_GETEVENTS | ENTER_EXT_ARG
        if milliseconds > 0:
            time.seconds = milliseconds // 1000
            time.nanoseconds = milliseconds % 1000 * 1000000
            wait.time = <uint64_t><uintptr_t>&time
        cdef int fd = self.fd
        if self.registered >= 0:
            fd = self.registered
            flags |= ENTER_REGISTERED_RING
        if syscall(SYS_io_uring_enter, fd, self.unsubmitted(), wanted, flags, &wait, sizeof(wait)) < 0:
            if errno == EINTR:
                PyErr_CheckSignals()
            elif errno not in (ETIME, EAGAIN, EBUSY):
                raise OSError(errno, f"io_uring: {os.strerror(errno)}")
        return 0

# SPDX-License-Identifier: BSD-3-Clause
"""The send arena: packets of the container's from when they are cut until they have been sent, as messages.

    memory     ┊ message ┊ message ┊ message ┊ …      of all peers, in the order in which they were read
    messages   at, bytes, next of the same peer       what another process would need to know to seal it
    batches    peer, first message, last message      of the frames taken since the last time that all were sealed
    trains     first message, how many, endpoint      what is to be sent

All of it is plain records and offsets in one shared mapping, made once. It is address space until it is used.
"""

from libc.string cimport memcpy, memset

from ts4nsnet.uring.system cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)
from ts4nsnet.uring.wire cimport be16

from ts4nsnet.uring.trains import MAX_TRAIN_BYTES, MAX_TRAIN_DATAGRAMS

cdef enum:
    ARENA_BYTES = 2 * ROOM_BYTES
    MAX_MESSAGES = 2 * ROOM_MESSAGES
    MAX_BATCHES = 256

cdef uint32_t max_train_bytes = MAX_TRAIN_BYTES
cdef uint32_t max_train_datagrams = MAX_TRAIN_DATAGRAMS
cdef size_t mapping_bytes = (
    MAX_MESSAGES * (sizeof(Message) + sizeof(OutTrain)) + MAX_BATCHES * sizeof(Batch) + ARENA_BYTES
)


cdef inline uint32_t padded(uint32_t size, uint32_t mtu) noexcept nogil:
    """`messages.padded_size`."""
    cdef uint32_t last = size % mtu if size > mtu else size
    cdef uint32_t up = (last + 15) & ~<uint32_t>15
    return size - last + (up if up < mtu else mtu)


cdef class Arena:
    """Messages, and the trains that they make."""

    def __cinit__(self):
        self.mapping = mmap(
            NULL, mapping_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
        )
        if self.mapping == MAP_FAILED:
            self.mapping = NULL
            raise MemoryError
        self.memory = <uint8_t*>self.mapping
        self.messages = <Message*>(self.memory + ARENA_BYTES)
        self.trains = <OutTrain*>(self.messages + MAX_MESSAGES)
        self.batches = <Batch*>(self.trains + MAX_MESSAGES)
        self.longest_train = max_train_datagrams
        self.equal_tails = True

    def __dealloc__(self):
        if self.mapping is not NULL:
            munmap(self.mapping, mapping_bytes)

    cdef bint has_room(self) noexcept:
        """Whether another frame may be taken before what there is has been sent."""
        return (
            self.used < ARENA_BYTES - ROOM_BYTES
            and self.message_count < MAX_MESSAGES - ROOM_MESSAGES
            and self.batch_count < MAX_BATCHES
        )

    cdef uint8_t* stage(self, uint32_t peer, uint32_t size, uint32_t mtu) noexcept:
        """Make room for a packet at the end of its peer's batch, and its padding; returns where the packet belongs."""
        cdef uint32_t whole = padded(size, mtu)
        cdef Message* message = &self.messages[self.message_count]
        cdef uint8_t* packet = self.memory + self.used + 16
        cdef uint32_t number = self.batch_count
        cdef Batch* batch
        message.at = <uint32_t>self.used
        message.packet = size
        message.size = OVERHEAD_BYTES + whole
        message.next = -1
        memset(packet + size, 0, whole - size)
        self.used += message.size
        # mostly it is the last one's
        while number and self.batches[number - 1].peer != peer:
            number -= 1
        if number:
            batch = &self.batches[number - 1]
            self.messages[batch.last].next = self.message_count
        else:
            batch = &self.batches[self.batch_count]
            self.batch_count += 1
            batch.peer = peer
            batch.count = 0
            batch.first = self.message_count
        batch.last = self.message_count
        batch.count += 1
        self.message_count += 1
        return packet

    cdef void form_trains(self, const Batch* batch, const uint8_t* endpoint) noexcept:
        """`trains.form_trains`."""
        cdef int32_t number = batch.first
        cdef Message* message
        cdef OutTrain* train = NULL
        cdef bint is_udp = be16(endpoint + 16) != 0  # others go by a relay
        cdef uint32_t longest = self.longest_train if is_udp else max_train_datagrams
        if is_udp and not self.equal_tails and longest > 1:
            self._form_uneven_trains(batch, endpoint)
            return
        while number >= 0:
            message = &self.messages[number]
            if (
                train is NULL
                or train.size % train.segment  # the last one was shorter
                or message.size > train.segment
                or train.count == longest
                or train.size + message.size > max_train_bytes
            ):
                train = self._new_train(number, endpoint)
            train.count += 1
            train.size += message.size
            number = message.next

    cdef void _form_uneven_trains(self, const Batch* batch, const uint8_t* endpoint) noexcept:
        """`trains.form_trains` without equal tails."""
        cdef int32_t number = batch.first
        cdef int32_t after
        cdef uint32_t count, alone, size, most
        cdef bint has_tail
        cdef OutTrain* train
        while number >= 0:
            size = self.messages[number].size
            after, count = number, 0
            while after >= 0 and self.messages[after].size == size:
                after = self.messages[after].next
                count += 1
            most = min(self.longest_train, max(1, max_train_bytes // size))
            has_tail = most > 1 and after >= 0 and self.messages[after].size < size
            count += has_tail
            alone = count if not has_tail else count - min(count, most)
            while count:
                train = self._new_train(number, endpoint)
                train.count = 1 if alone else count
                alone -= alone != 0
                count -= train.count
                for _ in range(train.count):
                    train.size += self.messages[number].size
                    number = self.messages[number].next

    cdef OutTrain* _new_train(self, int32_t first, const uint8_t* endpoint) noexcept:
        """An empty train, as long in its datagrams as its first message is."""
        cdef OutTrain* train = &self.trains[self.train_count]
        self.train_count += 1
        train.first = first
        train.count = train.size = 0
        train.segment = self.messages[first].size
        train.failed = False
        memcpy(train.endpoint, endpoint, 32)
        return train

    cdef bytes message(self, int32_t number):
        """A copy."""
        cdef const Message* message = &self.messages[number]
        return <bytes>(self.memory + message.at)[: message.size]

    cdef list payload(self, const OutTrain* train):
        """Copies of a train's messages."""
        cdef int32_t place = train.first
        copies = []
        for _ in range(train.count):
            copies.append(self.message(place))
            place = self.messages[place].next
        return copies

    cdef void reset(self) noexcept:
        """All trains have been sent: use it anew."""
        self.used = 0
        self.message_count = 0
        self.train_count = 0

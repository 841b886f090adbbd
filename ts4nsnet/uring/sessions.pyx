# SPDX-License-Identifier: BSD-3-Clause
"""Sessions, compiled: the twin of `wireguard.SessionTable`, over the same records and with the same rules.

A message is sealed where it lies: the caller has put the packet 16 bytes into it, we write the header before it and the
tag behind it. A datagram is opened where it was received.

    message     ┊ type, index, counter ┊ packet, padding ────► ciphertext ┊ tag ┊
                16                     padded                              16

The cipher is `cryptography`'s, called once per message with objects that are made once: a `Window` is a buffer whose
address and length are set before each call. Measured, per call at 1280 bytes: 1.16 µs with buffers made anew or not;
nearly all of it is the cipher's own (docs: perf/README).

Compiled are sealing and opening; the rest, which happens once per handshake, is the twin's in other words.

The records are read and written as C structs, so the machine must be little-endian, as session memory is.
"""

from collections import deque

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from cpython.buffer cimport PyBUF_FORMAT
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from ts4nsnet.uring.replay cimport fresh, take
from ts4nsnet.uring.wire cimport le32, le64, put_le32, put_le64

from ts4nsnet.wireguard.messages import Drop, WireGuardError, padded_size
from ts4nsnet.wireguard.records import KEYPAIRS_PER_PEER
from ts4nsnet.wireguard.records import KeypairRecord as KeypairLayout
from ts4nsnet.wireguard.records import PeerRecord as PeerLayout
from ts4nsnet.wireguard.sessions import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REKEY_ON_RECEIVE_TIME,
    REKEY_TIMEOUT,
    Confirmed,
    Keypair,
    KeysZeroed,
    RekeyWanted,
    Roamed,
    SessionStatistics,
)

cdef enum:
    HEADER_BYTES = 64  # of session memory
    PEER_BYTES = 192
    KEYPAIR_BYTES = 1152
    OVERHEAD_BYTES = 32

    # reasons, in the order of _REASONS
    LENGTH = 0
    TYPE = 1
    INDEX_UNKNOWN = 2
    KEYPAIR_EXPIRED = 3
    COUNTER_EXHAUSTED = 4
    REPLAYED = 5
    AUTHENTICATION = 6

_REASONS = (
    Drop.LENGTH, Drop.TYPE, Drop.INDEX_UNKNOWN, Drop.KEYPAIR_EXPIRED, Drop.COUNTER_EXHAUSTED, Drop.REPLAYED,
    Drop.AUTHENTICATION,
)

cdef char* byte_format = b"B"
cdef double reject_after_time = REJECT_AFTER_TIME
cdef double rekey_after_time = REKEY_AFTER_TIME
cdef double rekey_on_receive_time = REKEY_ON_RECEIVE_TIME
cdef double rekey_timeout = REKEY_TIMEOUT
cdef uint64_t reject_after_messages = REJECT_AFTER_MESSAGES
cdef uint64_t rekey_after_messages = REKEY_AFTER_MESSAGES
cdef PeerRecord a_peer
cdef KeypairRecord a_keypair

# (name, offset) of every field as compiled; a test compares them with `wireguard.RECORD`
RECORD = {
    "peer": {
        "generation": <char*>&a_peer.generation - <char*>&a_peer,
        "public_key": <char*>&a_peer.public_key - <char*>&a_peer,
        "timestamp": <char*>&a_peer.timestamp - <char*>&a_peer,
        "previous": <char*>&a_peer.previous - <char*>&a_peer,
        "current": <char*>&a_peer.current - <char*>&a_peer,
        "next": <char*>&a_peer.next - <char*>&a_peer,
        "endpoint": <char*>&a_peer.endpoint - <char*>&a_peer,
        "sent_at": <char*>&a_peer.sent_at - <char*>&a_peer,
        "received_at": <char*>&a_peer.received_at - <char*>&a_peer,
        "data_sent_at": <char*>&a_peer.data_sent_at - <char*>&a_peer,
        "data_received_at": <char*>&a_peer.data_received_at - <char*>&a_peer,
        "unanswered_at": <char*>&a_peer.unanswered_at - <char*>&a_peer,
        "unheard_at": <char*>&a_peer.unheard_at - <char*>&a_peer,
        "sent_bytes": <char*>&a_peer.sent_bytes - <char*>&a_peer,
        "received_bytes": <char*>&a_peer.received_bytes - <char*>&a_peer,
    },
    "keypair": {
        "generation": <char*>&a_keypair.generation - <char*>&a_keypair,
        "send_key": <char*>&a_keypair.send_key - <char*>&a_keypair,
        "receive_key": <char*>&a_keypair.receive_key - <char*>&a_keypair,
        "local_index": <char*>&a_keypair.local_index - <char*>&a_keypair,
        "remote_index": <char*>&a_keypair.remote_index - <char*>&a_keypair,
        "peer": <char*>&a_keypair.peer - <char*>&a_keypair,
        "initiator": <char*>&a_keypair.initiator - <char*>&a_keypair,
        "created_at": <char*>&a_keypair.created_at - <char*>&a_keypair,
        "send_counter": <char*>&a_keypair.send_counter - <char*>&a_keypair,
        "replay": <char*>&a_keypair.replay - <char*>&a_keypair,
    },
}


cdef class Window:
    """A buffer that is where it was last told to be; only for the time of a call."""

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        self.stride = 1
        buffer.buf = self.at
        buffer.obj = self
        buffer.len = self.size
        buffer.readonly = 0
        buffer.itemsize = 1
        buffer.format = byte_format if flags & PyBUF_FORMAT else NULL
        buffer.ndim = 1
        buffer.shape = &self.size
        buffer.strides = &self.stride
        buffer.suboffsets = NULL
        buffer.internal = NULL


cdef class Session:
    """A keypair at work: its record, and the ciphers made from its keys."""


cdef class Sessions:
    """All keypairs of a device, over its session memory; sessions that stand there already are taken up.

    Args:
        memory: session memory.
        roaming: whether peers' messages move them.
    """

    def __cinit__(self, memory, *, bint roaming=True):
        if (PEER_BYTES, KEYPAIR_BYTES, KEYPAIRS_PER_PEER) != (PeerLayout.SIZE, KeypairLayout.SIZE, 3):
            raise WireGuardError("session memory: the engine was compiled for another layout; install ts4nsnet anew")
        self._view = memory.buffer
        self._roaming = roaming
        self.peers = memory.peers
        self._peers = <PeerRecord*>(&self._view[0] + HEADER_BYTES)
        self._keypairs = <KeypairRecord*>(&self._view[0] + HEADER_BYTES + <size_t>self.peers * PEER_BYTES)
        self._sessions = {}
        self._by_slot = <void**>calloc(<size_t>self.peers * 3 + 1, sizeof(void*))
        self._index_mask = 255
        self._by_index = <void**>calloc(self._index_mask + 1, sizeof(void*))
        if not self._by_slot or not self._by_index:
            raise MemoryError
        self._events = deque()
        self._plain = Window()
        self._sealed_window = Window()
        self._nonce = Window()
        self._nonce.at = self._nonce_bytes
        self._nonce.size = 12

    def __init__(self, memory, *, roaming=True):
        cdef PeerRecord* peer
        cdef uint32_t number
        for number in range(memory.entered):
            peer = self.record(number)
            if peer.generation or peer.previous or peer.current or peer.next:
                self._adopt(number)

    def __dealloc__(self):
        free(self._by_slot)
        free(self._by_index)

    # --- where things are ---------------------------------------------------------------------------------------------

    cdef PeerRecord* record(self, uint32_t number) noexcept:
        return <PeerRecord*>(<uint8_t*>self._peers + <size_t>number * PEER_BYTES)

    cdef Session _at(self, uint32_t number, uint8_t slot):
        """The session in a slot (1 to 3) of a peer, or None."""
        cdef void* found
        if number >= self.peers or not 1 <= slot <= 3:
            return None
        found = self._by_slot[<size_t>number * 3 + slot - 1]
        return None if found is NULL else <Session>found

    cdef Session _with_index(self, uint32_t index):
        cdef uint32_t place = index & self._index_mask
        while self._by_index[place] is not NULL:
            if (<Session>self._by_index[place]).record.local_index == index:
                return <Session>self._by_index[place]
            place = (place + 1) & self._index_mask
        return None

    def _index(self):
        """Make the table by index anew, a quarter full at most. Our indices are random, so their low bits are a hash."""
        cdef uint32_t mask = self._index_mask
        cdef uint32_t place
        cdef Session session
        while <size_t>len(self._sessions) * 4 > mask:
            mask = mask * 2 + 1
        if mask != self._index_mask:
            free(self._by_index)
            self._by_index = NULL
            self._by_index = <void**>calloc(<size_t>mask + 1, sizeof(void*))
            if not self._by_index:
                raise MemoryError
            self._index_mask = mask
        else:
            memset(self._by_index, 0, (<size_t>mask + 1) * sizeof(void*))
        # the latest first: of two with one index it is the one that is found
        for session in reversed(self._sessions.values()):
            place = session.record.local_index & mask
            while self._by_index[place] is not NULL:
                place = (place + 1) & mask
            self._by_index[place] = <void*>session

    # --- commands of the device ---------------------------------------------------------------------------------------

    def _adopt(self, uint32_t number):
        """Take up what another table left; see `SessionTable`."""
        cdef PeerRecord* peer = self.record(number)
        cdef uint8_t slot
        if not peer.generation:
            peer.current = peer.next = peer.previous = 0
        peer.current = self._adopted(number, peer.current)
        peer.next = self._adopted(number, peer.next)
        peer.previous = self._adopted(number, peer.previous)
        for slot in range(1, 4):
            if self._at(number, slot) is None:
                memset(self._keypair(number, slot), 0, KEYPAIR_BYTES)

    cdef KeypairRecord* _keypair(self, uint32_t number, uint8_t slot) noexcept:
        return <KeypairRecord*>(<uint8_t*>self._keypairs + (<size_t>number * 3 + slot - 1) * KEYPAIR_BYTES)

    def _adopted(self, uint32_t number, uint8_t slot):
        if not 1 <= slot <= 3 or self._at(number, slot) is not None or not self._keypair(number, slot).generation:
            return 0
        self._take_up(number, slot)
        return slot

    def apply(self, command):
        """Do what the device says: a Keypair, Roamed or KeysZeroed."""
        cdef PeerRecord* peer
        cdef const uint8_t[::1] endpoint
        cdef uint32_t number = command.peer
        cdef uint8_t slot
        if number >= self.peers:
            raise WireGuardError(f"session memory: got peer {number}, want less than {self.peers}")
        peer = self.record(number)
        if isinstance(command, Keypair):
            self._install(command)
        elif isinstance(command, Roamed):
            endpoint = command.endpoint
            if endpoint.shape[0] != 32:
                raise WireGuardError(f"endpoint: got {endpoint.shape[0]} bytes, want 32")
            memcpy(peer.endpoint, &endpoint[0], 32)
        elif isinstance(command, KeysZeroed):
            for slot in range(1, 4):
                self._destroy(number, slot)
            peer.previous = peer.current = peer.next = 0
        else:
            raise TypeError(f"a session table does not know {command!r}")

    def _install(self, keypair):
        cdef uint32_t number = keypair.peer
        cdef PeerRecord* peer = self.record(number)
        if not keypair.initiator:
            self._destroy(number, peer.next)
            self._destroy(number, peer.previous)
            peer.previous = 0
            peer.next = self._store(keypair)
            return
        # our handshake and theirs may have crossed: what they asked for is then the one they may still send with
        self._destroy(number, peer.previous)
        if peer.next:
            self._destroy(number, peer.current)
            peer.previous = peer.next
        else:
            peer.previous = peer.current
        peer.next = 0
        peer.current = self._store(keypair)

    def _store(self, keypair):
        """Write `keypair` into a free slot; returns the slot."""
        cdef uint32_t number = keypair.peer
        cdef uint8_t slot = 1
        cdef KeypairRecord* record
        cdef const uint8_t[::1] send_key = keypair.keys.send
        cdef const uint8_t[::1] receive_key = keypair.keys.receive
        while self._at(number, slot) is not None:
            slot += 1
        record = self._keypair(number, slot)
        memset(record, 0, KEYPAIR_BYTES)
        memcpy(record.send_key, &send_key[0], 32)
        memcpy(record.receive_key, &receive_key[0], 32)
        record.local_index = keypair.local_index
        record.remote_index = keypair.remote_index
        record.peer = number
        record.initiator = keypair.initiator
        record.created_at = keypair.created_at
        self._generation += 1
        record.generation = self._generation
        self._take_up(number, slot)
        return slot

    def _take_up(self, uint32_t number, uint8_t slot):
        cdef Session session = Session()
        session.peer = self.record(number)
        session.record = self._keypair(number, slot)
        session.number = number
        session.slot = slot
        session.created_at = session.record.created_at
        session.initiator = session.record.initiator != 0
        session.rekey_asked_at = -rekey_timeout
        session.encrypt_into = ChaCha20Poly1305(session.record.send_key[:32]).encrypt_into
        session.decrypt_into = ChaCha20Poly1305(session.record.receive_key[:32]).decrypt_into
        self._sessions[number, slot] = session
        self._by_slot[<size_t>number * 3 + slot - 1] = <void*>session
        self._generation = max(self._generation, session.record.generation)
        self._index()

    def _destroy(self, uint32_t number, uint8_t slot):
        cdef Session session = self._sessions.pop((number, slot), None)
        if session is not None:
            self._by_slot[<size_t>number * 3 + slot - 1] = NULL
            self._index()
            session.record.generation = 0
            memset(session.record, 0, KEYPAIR_BYTES)

    # --- the way out --------------------------------------------------------------------------------------------------

    cdef Session sender(self, uint32_t number, uint64_t count, double now):
        """Who can seal `count` messages for a peer now; None: the device has to make a keypair.

        The counters from `record.send_counter - count` on are then ours.
        """
        cdef Session session = self._at(number, self.record(number).current) if number < self.peers else None
        if session is None or now - session.created_at >= reject_after_time:
            return None
        if session.record.send_counter > reject_after_messages - count:
            return None
        session.record.send_counter += count  # before any of them is used, so that no crash uses one twice
        return session

    cdef int seal_message(self, Session session, uint8_t* message, uint32_t size, uint64_t counter) except -1:
        """Seal what is `size` bytes (padded) 16 bytes into a message, in place."""
        put_le32(message, 4)
        put_le32(message + 4, session.record.remote_index)
        put_le64(message + 8, counter)
        put_le64(&self._nonce_bytes[4], counter)
        self._plain.at = self._sealed_window.at = message + 16
        self._plain.size = size
        self._sealed_window.size = size + 16
        session.encrypt_into(self._nonce, self._plain, None, self._sealed_window)
        self._sealed += 1
        return 0

    cdef int note_sent(self, Session session, uint64_t size, bint data, double now) except -1:
        """Write down that messages of `size` bytes in all were sealed, not only keep-alives if `data`."""
        cdef PeerRecord* peer = session.peer
        peer.sent_at = now
        peer.unanswered_at = 0.0
        peer.sent_bytes += size
        if data:
            peer.data_sent_at = now
            if peer.unheard_at == 0.0:
                peer.unheard_at = now
        if session.record.send_counter > rekey_after_messages or (
            session.initiator and now - session.created_at > rekey_after_time
        ):
            self._want_rekey(session, now)
        return 0

    def endpoint(self, uint32_t number):
        """Where messages to peer `number` go; all zero when that is not known."""
        return <bytes>self.record(number).endpoint[:32]

    # --- the way in ---------------------------------------------------------------------------------------------------

    cdef int32_t open_message(self, uint8_t* datagram, uint32_t size, const uint8_t* source, double now) except -2:
        """Open a transport message from `source` in place, 16 bytes in.

        Returns: how long the packet with its padding is (0: a keep-alive); -1 when the message was dropped.
        """
        cdef Session session
        cdef uint64_t counter
        cdef int reason
        if size < OVERHEAD_BYTES:
            reason = LENGTH
        elif le32(datagram) != 4:
            reason = TYPE
        else:
            session = self._with_index(le32(datagram + 4))
            counter = le64(datagram + 8)
            if session is None:
                reason = INDEX_UNKNOWN
            elif now - session.created_at >= reject_after_time:
                reason = KEYPAIR_EXPIRED
            elif counter >= reject_after_messages:
                reason = COUNTER_EXHAUSTED
            elif not fresh(session.record.replay, counter):
                reason = REPLAYED
            elif not self._decrypt(session, datagram, size, counter):
                reason = AUTHENTICATION
            else:
                take(session.record.replay, counter)
                self._opened += 1
                self.opened_by = session.number
                self._note_received(session, source, now)
                note_traffic(session.peer, size, size > OVERHEAD_BYTES, now)
                return size - OVERHEAD_BYTES
        self._dropped[reason] += 1
        return -1

    cdef int _decrypt(self, Session session, uint8_t* datagram, uint32_t size, uint64_t counter) except -1:
        put_le64(&self._nonce_bytes[4], counter)
        self._sealed_window.at = self._plain.at = datagram + 16
        self._sealed_window.size = size - 16
        self._plain.size = size - OVERHEAD_BYTES
        try:
            session.decrypt_into(self._nonce, self._sealed_window, None, self._plain)
        except InvalidTag:
            return False
        return True

    cdef int _note_received(self, Session session, const uint8_t* source, double now) except -1:
        cdef PeerRecord* peer = session.peer
        cdef Session current
        if self._roaming and memcmp(peer.endpoint, source, 32):
            memcpy(peer.endpoint, source, 32)
            self._events.append(Roamed(session.number, <bytes>source[:32]))
        if session.slot == peer.next:
            peer.previous, peer.current, peer.next = peer.current, peer.next, 0
            self._events.append(Confirmed(session.number))
        current = self._at(session.number, peer.current)
        if (
            current is not None
            and current.initiator
            and not current.last_minute_asked
            and now - current.created_at > rekey_on_receive_time
        ):
            current.last_minute_asked = True
            self._want_rekey(current, now)
        return 0

    def _want_rekey(self, Session session, double now):
        # every message of an old keypair would ask; the device does not call more often than this anyway
        if now - session.rekey_asked_at >= rekey_timeout:
            session.rekey_asked_at = now
            self._events.append(RekeyWanted(session.number))

    # --- what happened, and the twin's calls --------------------------------------------------------------------------

    def next_event(self):
        """The next fact for the device, or None."""
        return self._events.popleft() if self._events else None

    def statistics(self):
        """Counters since the table was made."""
        dropped = {reason: count for reason, count in zip(_REASONS, self._dropped) if count}
        return SessionStatistics(self._sealed, self._opened, dropped)

    def seal(self, uint32_t number, packets, int mtu, double now):
        """`SessionTable.seal`."""
        cdef Session session = self.sender(number, len(packets), now)
        cdef uint64_t counter, size = 0
        cdef bytearray message
        if session is None:
            return None
        counter = session.record.send_counter - <uint64_t>len(packets)
        messages = []
        for packet in packets:
            message = bytearray(OVERHEAD_BYTES + padded_size(len(packet), mtu))
            message[16 : 16 + len(packet)] = packet
            self.seal_message(session, <uint8_t*>message, <uint32_t>len(message) - OVERHEAD_BYTES, counter)
            messages.append(bytes(message))
            counter += 1
            size += <uint64_t>len(message)
        self.note_sent(session, size, any(packets), now)
        return messages

    def open(self, datagram, const uint8_t[::1] source, double now):
        """`SessionTable.open`."""
        cdef bytearray copy = bytearray(datagram)
        cdef int32_t size = self.open_message(<uint8_t*>copy, <uint32_t>len(copy), &source[0], now)
        return None if size < 0 else (self.opened_by, bytes(copy[16 : 16 + size]))


cdef void note_traffic(PeerRecord* peer, uint32_t size, bint data, double now) noexcept nogil:
    peer.received_at = now
    peer.unheard_at = 0.0
    peer.received_bytes += size
    if data:
        peer.data_received_at = now
        if peer.unanswered_at == 0.0:
            peer.unanswered_at = now

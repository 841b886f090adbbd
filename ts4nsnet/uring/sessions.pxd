# SPDX-License-Identifier: BSD-3-Clause
"""What other compiled modules use of `sessions`."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t


cdef struct PeerRecord:
    # session memory, as `wireguard.records` lays it out
    uint64_t generation
    uint8_t public_key[32]
    uint8_t timestamp[12]
    uint8_t previous
    uint8_t current
    uint8_t next
    uint8_t endpoint[32]
    double sent_at
    double received_at
    double data_sent_at
    double data_received_at
    double unanswered_at
    double unheard_at
    uint64_t sent_bytes
    uint64_t received_bytes


cdef struct KeypairRecord:
    uint64_t generation
    uint8_t send_key[32]
    uint8_t receive_key[32]
    uint32_t local_index
    uint32_t remote_index
    uint32_t peer
    uint32_t initiator
    double created_at
    uint64_t send_counter
    uint64_t replay[129]


cdef class Window:
    cdef uint8_t* at
    cdef Py_ssize_t size
    cdef Py_ssize_t stride


cdef class Session:
    cdef PeerRecord* peer
    cdef KeypairRecord* record
    cdef uint32_t number
    cdef uint8_t slot
    cdef double created_at
    cdef bint initiator
    cdef double rekey_asked_at
    cdef bint last_minute_asked
    cdef object encrypt_into
    cdef object decrypt_into


cdef class Sessions:
    cdef uint8_t[::1] _view
    cdef readonly uint32_t peers
    cdef bint _roaming
    cdef PeerRecord* _peers
    cdef KeypairRecord* _keypairs
    cdef dict _sessions            # (peer, slot): Session; what keeps them alive
    cdef void** _by_slot           # Session, by peer and slot
    cdef void** _by_index          # Session, by hash of the local index
    cdef uint32_t _index_mask
    cdef object _events
    cdef uint64_t _generation
    cdef uint64_t _sealed
    cdef uint64_t _opened
    cdef uint64_t _dropped[7]
    cdef Window _plain
    cdef Window _sealed_window
    cdef Window _nonce
    cdef uint8_t _nonce_bytes[12]
    cdef uint32_t opened_by        # the peer of the last message that opened

    cdef Session _at(self, uint32_t number, uint8_t slot)
    cdef Session _with_index(self, uint32_t index)
    cdef KeypairRecord* _keypair(self, uint32_t number, uint8_t slot) noexcept
    cdef PeerRecord* record(self, uint32_t number) noexcept
    cdef Session sender(self, uint32_t number, uint64_t count, double now)
    cdef int seal_message(self, Session session, uint8_t* message, uint32_t size, uint64_t counter) except -1
    cdef int note_sent(self, Session session, uint64_t size, bint data, double now) except -1
    cdef int32_t open_message(self, uint8_t* datagram, uint32_t size, const uint8_t* source, double now) except -2
    cdef int _decrypt(self, Session session, uint8_t* datagram, uint32_t size, uint64_t counter) except -1
    cdef int _note_received(self, Session session, const uint8_t* source, double now) except -1

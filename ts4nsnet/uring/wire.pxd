# SPDX-License-Identifier: BSD-3-Clause
"""Bytes of packets, for compiled code: big-endian loads and stores, checksums, and what an IP header says.

The twin of the parsing half of `ts4nsnet.packet`, with the same rules. `look` is the one door: it checks every length,
and whoever has its answer may read what it describes without asking again.

A checksum is a ones' complement sum of 16-bit words, and that sum does not care for byte order (RFC 1071, 2B): words
are added as the machine reads them, and the folded result is stored as the machine writes it. So "sum" here means a sum
of words in the order of the machine, not to be compared with anything but another such sum.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    #define TS_BE16(x) __builtin_bswap16(x)
    #define TS_BE32(x) __builtin_bswap32(x)
    #else
    #define TS_BE16(x) (x)
    #define TS_BE32(x) (x)
    #endif

    static inline uint16_t ts_native16(const uint8_t *at) { uint16_t x; memcpy(&x, at, 2); return x; }
    static inline void ts_put_native16(uint8_t *at, uint16_t x) { memcpy(at, &x, 2); }
    static inline uint16_t ts_be16(const uint8_t *at) { uint16_t x; memcpy(&x, at, 2); return TS_BE16(x); }
    static inline uint32_t ts_be32(const uint8_t *at) { uint32_t x; memcpy(&x, at, 4); return TS_BE32(x); }
    static inline void ts_put_be16(uint8_t *at, uint16_t x) { x = TS_BE16(x); memcpy(at, &x, 2); }
    static inline void ts_put_be32(uint8_t *at, uint32_t x) { x = TS_BE32(x); memcpy(at, &x, 4); }
    static inline uint32_t ts_le32(const uint8_t *at)
    { return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24; }
    static inline void ts_put_le32(uint8_t *at, uint32_t x)
    { at[0] = x; at[1] = x >> 8; at[2] = x >> 16; at[3] = x >> 24; }
    static inline uint64_t ts_le64(const uint8_t *at) { return ts_le32(at) | (uint64_t)ts_le32(at + 4) << 32; }
    static inline void ts_put_le64(uint8_t *at, uint64_t x) { ts_put_le32(at, x); ts_put_le32(at + 4, x >> 32); }

    /* the sum of n bytes, an odd last one followed by a zero; 32-bit words, which compilers add many at a time */
    static inline uint64_t ts_sum(const uint8_t *at, size_t n)
    {
        uint64_t total = 0;
        uint32_t word;
        size_t i, words = n / 4;
        for (i = 0; i < words; i++) {
            memcpy(&word, at + 4 * i, 4);
            total += word;
        }
        if (n & 3) {
            word = 0;
            memcpy(&word, at + 4 * words, n & 3);
            total += word;
        }
        return total;
    }

    static inline uint16_t ts_fold(uint64_t total)
    {
        total = (total >> 32) + (total & 0xffffffff);
        total = (total >> 32) + (total & 0xffffffff);
        total = (total >> 16) + (total & 0xffff);
        total = (total >> 16) + (total & 0xffff);
        total = (total >> 16) + (total & 0xffff);
        return (uint16_t)total;
    }

    /* what a 16-bit value adds to a sum */
    static inline uint64_t ts_summand(uint16_t value) { return TS_BE16(value); }
    """
    uint16_t native16 "ts_native16"(const uint8_t* at) noexcept nogil
    void put_native16 "ts_put_native16"(uint8_t* at, uint16_t value) noexcept nogil
    uint16_t be16 "ts_be16"(const uint8_t* at) noexcept nogil
    uint32_t be32 "ts_be32"(const uint8_t* at) noexcept nogil
    void put_be16 "ts_put_be16"(uint8_t* at, uint16_t value) noexcept nogil
    void put_be32 "ts_put_be32"(uint8_t* at, uint32_t value) noexcept nogil
    uint32_t le32 "ts_le32"(const uint8_t* at) noexcept nogil
    void put_le32 "ts_put_le32"(uint8_t* at, uint32_t value) noexcept nogil
    uint64_t le64 "ts_le64"(const uint8_t* at) noexcept nogil
    void put_le64 "ts_put_le64"(uint8_t* at, uint64_t value) noexcept nogil
    uint64_t sum_bytes "ts_sum"(const uint8_t* at, size_t size) noexcept nogil
    uint16_t fold "ts_fold"(uint64_t total) noexcept nogil
    uint64_t summand "ts_summand"(uint16_t value) noexcept nogil


cdef enum:
    TCP = 6
    UDP = 17
    FIN = 0x01
    SYN = 0x02
    PSH = 0x08
    ACK = 0x10
    CWR = 0x80
    MAX_EXTENSION_HEADERS = 8


cdef struct Look:
    uint8_t version     # 4 or 6
    uint8_t protocol    # behind all extension headers
    bint fragment       # more of the datagram is elsewhere
    bint plain          # neither options nor extension headers
    uint32_t header_len # before the payload, extension headers included
    uint32_t total_len  # of the packet; bytes behind it are padding


cdef inline bint look(const uint8_t* packet, size_t size, Look* found) noexcept nogil:
    """Read an IP header, as `packet.parse_ip` does; False for what that calls malformed."""
    if size and packet[0] >> 4 == 6:
        return look6(packet, size, found)
    if size < 20 or packet[0] >> 4 != 4:
        return False
    found.version = 4
    found.header_len = (packet[0] & 15) * 4
    found.total_len = be16(packet + 2)
    if not (20 <= found.header_len <= found.total_len and found.total_len <= size):
        return False
    found.protocol = packet[9]
    found.fragment = be16(packet + 6) & 0x3FFF != 0
    found.plain = found.header_len == 20
    return True


cdef inline bint look6(const uint8_t* packet, size_t size, Look* found) noexcept nogil:
    cdef uint32_t at = 40
    cdef uint32_t length, unit
    cdef uint16_t offset
    cdef bint seen = False
    cdef int headers = 0
    if size < 40:
        return False
    found.version = 6
    found.total_len = 40 + be16(packet + 4)
    found.protocol = packet[6]
    found.fragment = False
    if found.total_len > size:
        return False
    while True:
        if found.protocol in (0, 43, 60, 135, 139, 140):
            unit = 8
        elif found.protocol == 51:
            unit = 4
        elif found.protocol == 44:
            unit = 0
        else:
            break
        if headers == MAX_EXTENSION_HEADERS or found.total_len - at < 8:
            return False
        length = 8 + packet[at + 1] * unit
        if found.total_len - at < length:
            return False
        offset = 0
        if unit == 0:
            offset = be16(packet + at + 2) & 0xFFF9
            if not seen:
                found.fragment = offset != 0  # the first fragment header says it
            seen = True
        found.protocol = packet[at]
        at += length
        headers += 1
        if offset & 0xFFF8:
            break  # a later fragment: its payload is the middle of something
    found.plain = headers == 0
    found.header_len = at
    return True


cdef inline bint look_inner(const uint8_t* packet, size_t size, uint32_t* length) noexcept nogil:
    """What `packet.Inner.parse` checks: enough to find addresses and the packet's own length."""
    cdef uint8_t version = packet[0] >> 4 if size else 0
    if version == 4 and size >= 20:
        length[0] = be16(packet + 2)
        return 20 <= length[0] and length[0] <= size
    if version == 6 and size >= 40:
        length[0] = 40 + be16(packet + 4)
        return length[0] <= size
    return False


cdef inline uint64_t pseudo_sum(const uint8_t* packet, uint8_t version, uint8_t protocol, uint32_t size) noexcept nogil:
    """The sum of the pseudo-header of a packet whose layer 4 is `size` bytes long."""
    cdef uint64_t total = summand(protocol) + summand(<uint16_t>size)
    if version == 4:
        return total + sum_bytes(packet + 12, 8)
    return total + sum_bytes(packet + 8, 32)


cdef inline void set_payload_len(uint8_t* packet, uint8_t version, uint32_t header_len, uint32_t size) noexcept nogil:
    """Fit an IP header to a payload of `size` bytes, as `packet.set_payload_len` does."""
    if version == 6:
        put_be16(packet + 4, <uint16_t>(header_len - 40 + size))
        return
    put_be16(packet + 2, <uint16_t>(header_len + size))
    put_native16(packet + 10, 0)
    put_native16(packet + 10, ~fold(sum_bytes(packet, header_len)))

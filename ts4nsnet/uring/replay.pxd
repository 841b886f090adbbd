# SPDX-License-Identifier: BSD-3-Clause
"""The replay window, compiled: the twin of `wireguard.replay`, over the words of a keypair's record.

Word 0 is the greatest counter, the other 128 are the ring of bits.

Source: RFC 6479.
"""

from libc.stdint cimport uint64_t


cdef enum:
    WINDOW_COUNTERS = 127 * 64


cdef inline bint fresh(const uint64_t* replay, uint64_t counter) noexcept nogil:
    """Whether `take` would take `counter` now; see `wireguard.replay`."""
    cdef uint64_t greatest = replay[0]
    if counter > greatest:
        return True
    if greatest - counter > WINDOW_COUNTERS:
        return False
    return not replay[1 + (counter >> 6) % 128] >> (counter & 63) & 1


cdef inline bint take(uint64_t* replay, uint64_t counter) noexcept nogil:
    """Take `counter`, whose message is authentic; False if it has been taken before or is too old to tell."""
    cdef uint64_t greatest = replay[0]
    cdef uint64_t block, last
    if not fresh(replay, counter):
        return False
    if counter > greatest:
        replay[0] = counter
        block = (greatest >> 6) + 1
        last = counter >> 6
        if last > block + 127:
            last = block + 127
        while block <= last:
            replay[1 + block % 128] = 0
            block += 1
    replay[1 + (counter >> 6) % 128] |= <uint64_t>1 << (counter & 63)
    return True

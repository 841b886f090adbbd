# SPDX-License-Identifier: BSD-3-Clause
"""How long the packets become that a frame is cut into, for compiled code: the twin of `segment.fitted`."""

from libc.stdint cimport uint8_t, uint32_t

from ts4nsnet.uring.offload cimport Cut
from ts4nsnet.uring.wire cimport ACK, PSH, SYN, TCP, look


cdef enum:
    CIPHER_STEP_BYTES = 128


cdef inline uint32_t longest(const Cut* cut) noexcept nogil:
    """Of the packets that the frame itself asks for, bytes."""
    return cut.header_len + cut.gso_size if cut.protocol else cut.size


cdef inline void fit(Cut* cut, uint32_t mtu, bint coarse) noexcept nogil:
    """Let TCP become packets of at most `mtu` bytes; with `coarse`, of as many as that, in whole steps."""
    cdef bint narrow = longest(cut) > mtu
    if coarse:
        mtu -= mtu % CIPHER_STEP_BYTES
    if cut.protocol:
        if cut.protocol != TCP or mtu <= cut.header_len:
            return
        if not narrow and not (
            coarse and cut.count > 1 and cut.ip.plain and cut.packet[cut.ip.header_len + 13] & <uint8_t>~PSH == ACK
        ):
            return
    elif not narrow or not fit_lone(cut, mtu):
        return
    cut.gso_size = mtu - cut.header_len
    cut.count = (cut.payload_len + cut.gso_size - 1) // cut.gso_size


cdef inline bint fit_lone(Cut* cut, uint32_t mtu) noexcept nogil:
    """Make a superpacket of a lone packet; False if it is none of TCP that can be cut."""
    cdef const uint8_t* layer4
    cdef uint32_t room, header_len
    if not look(cut.packet, cut.size, &cut.ip) or not cut.ip.plain or cut.ip.fragment or cut.ip.protocol != TCP:
        return False
    layer4 = cut.packet + cut.ip.header_len
    room = cut.ip.total_len - cut.ip.header_len
    if room < 20:
        return False
    header_len = (layer4[12] >> 4) * 4
    if header_len < 20 or header_len >= room or layer4[13] & SYN or mtu <= cut.ip.header_len + header_len:
        return False
    cut.protocol = TCP
    cut.header_len = cut.ip.header_len + header_len
    cut.payload_len = room - header_len
    return True

# SPDX-License-Identifier: BSD-3-Clause
"""What must be known of every packet, compiled: whose its addresses are, and whether its flow may pass.

Routes
------
`wireguard.AllowedIPs` is the table that the node changes; here is its flat form, made anew after a change: the address
space in pieces of one owner, ascending. A binary search finds the piece; the piece of the last packet is tried first,
as packets come in runs. The flat form is plain bytes, so that it can be sent to another process.

Accepted flows
--------------
What may pass, and what happens to what may not, says a judge written in Python (the packet filter, names, refusals).
Here is only its memory: a flow of TCP, UDP or pings of which it has accepted a packet passes without being asked about,
for a while and until anything that the judge goes by has changed. So a rule stands in one place, and of each UDP flow
the judge sees one packet per second, which keeps its own table of flows in order.

    asked about   SYN: each; a fragment, IP options and extension headers, other protocols: each
    remembered    version, protocol, addresses, ports, direction; a flow whose place another one takes is asked about
                  of a ping its type and identifier for the ports

Source: WireGuard paper, section 2; for flows as a cache of verdicts: Open vSwitch (Pfaff et al., 2015), section 4.
"""

import struct

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from ts4nsnet.uring.wire cimport SYN, TCP, UDP, Look, be32, look

cdef enum:
    ICMP = 1
    ICMPV6 = 58
    PLACES = 4096  # ours: 200 KB when all are used
    KEY_BYTES = 40

# ours: seconds; of UDP the judge has a memory of its own, where flows that it does not see are forgotten
cdef double udp_time = 1.0
cdef double flow_time = 60.0


cdef inline uint64_t be64(const uint8_t* at) noexcept nogil:
    return <uint64_t>be32(at) << 32 | be32(at + 4)


cdef inline bint before(const Piece6* piece, uint64_t high, uint64_t low) noexcept nogil:
    """Whether a piece begins behind an address."""
    return piece.high > high or (piece.high == high and piece.low > low)


def flat(allowed_ips):
    """`AllowedIPs` as `Routes.load` takes it: one byte string for each family."""
    v4 = b"".join(struct.pack("=Ii", start, -1 if peer is None else peer) for start, peer in allowed_ips.intervals(4))
    v6 = b"".join(
        struct.pack("=QQii", start >> 64, start & (1 << 64) - 1, -1 if peer is None else peer, 0)
        for start, peer in allowed_ips.intervals(6)
    )
    return v4, v6


cdef class Routes:
    """A flat table; empty, all belongs to nobody."""

    def __init__(self):
        self.load(struct.pack("=Ii", 0, -1), struct.pack("=QQii", 0, 0, -1, 0))

    def load(self, bytes v4 not None, bytes v6 not None):
        """Take what `flat` gave; raises ValueError for anything else."""
        if not v4 or not v6 or len(v4) % sizeof(Piece4) or len(v6) % sizeof(Piece6) or any(v4[:4]) or any(v6[:16]):
            raise ValueError(f"routes: got {len(v4)} and {len(v6)} bytes, want pieces from the first address on")
        self._v4, self._v6 = v4, v6
        self.v4 = <const Piece4*><const uint8_t*>v4
        self.v6 = <const Piece6*><const uint8_t*>v6
        self.count4 = <uint32_t>(len(v4) // sizeof(Piece4))
        self.count6 = <uint32_t>(len(v6) // sizeof(Piece6))
        self.last4 = self.last6 = 0

    cdef int32_t owner4(self, const uint8_t* address) noexcept nogil:
        cdef uint32_t value = be32(address)
        cdef uint32_t low = self.last4
        cdef uint32_t high = self.count4
        cdef uint32_t middle
        if self.v4[low].start > value or (low + 1 < high and self.v4[low + 1].start <= value):
            low = 0
            while low + 1 < high:
                middle = (low + high) // 2
                if self.v4[middle].start > value:
                    high = middle
                else:
                    low = middle
            self.last4 = low
        return self.v4[low].peer

    cdef int32_t owner6(self, const uint8_t* address) noexcept nogil:
        cdef uint64_t first = be64(address)
        cdef uint64_t second = be64(address + 8)
        cdef uint32_t low = self.last6
        cdef uint32_t high = self.count6
        cdef uint32_t middle
        if before(&self.v6[low], first, second) or (low + 1 < high and not before(&self.v6[low + 1], first, second)):
            low = 0
            while low + 1 < high:
                middle = (low + high) // 2
                if before(&self.v6[middle], first, second):
                    high = middle
                else:
                    low = middle
            self.last6 = low
        return self.v6[low].peer

    cdef int32_t source(self, const uint8_t* packet) noexcept nogil:
        """Whose the source of a packet is, that has passed `look_inner`; -1 for nobody's."""
        return self.owner6(packet + 8) if packet[0] >> 4 == 6 else self.owner4(packet + 12)

    cdef int32_t destination(self, const uint8_t* packet) noexcept nogil:
        return self.owner6(packet + 24) if packet[0] >> 4 == 6 else self.owner4(packet + 16)

    def lookup(self, bytes address not None):
        """`AllowedIPs.lookup`."""
        cdef int32_t peer
        if len(address) == 4:
            peer = self.owner4(address)
        elif len(address) == 16:
            peer = self.owner6(address)
        else:
            raise ValueError(f"address: got {len(address)} bytes, want 4 or 16")
        return None if peer < 0 else peer


cdef inline bint is_echo(uint8_t version, uint8_t protocol, const uint8_t* layer4) noexcept nogil:
    """Whether an ICMP message is a ping or an answer to one."""
    if layer4[1]:
        return False
    if version == 4:
        return protocol == ICMP and (layer4[0] == 8 or layer4[0] == 0)
    return protocol == ICMPV6 and (layer4[0] == 128 or layer4[0] == 129)


cdef inline bint identify(const uint8_t* packet, uint32_t size, uint8_t direction, Flow* flow) noexcept nogil:
    """Which flow a packet is of; False for one that is to be asked about."""
    cdef Look ip
    cdef const uint8_t* layer4
    cdef uint32_t room
    if not look(packet, size, &ip) or not ip.plain or ip.fragment:
        return False
    layer4 = packet + ip.header_len
    room = ip.total_len - ip.header_len
    if room < 8 or (ip.protocol == TCP and (room < 20 or layer4[13] & SYN)):
        return False
    memset(flow, 0, sizeof(Flow))
    memcpy(&flow.ports, layer4, 4)
    if ip.protocol == ICMP or ip.protocol == ICMPV6:
        if not is_echo(ip.version, ip.protocol, layer4):
            return False
        memcpy(<uint8_t*>&flow.ports + 2, layer4 + 4, 2)  # the identifier, where the checksum is
    elif ip.protocol != TCP and ip.protocol != UDP:
        return False
    if ip.version == 4:
        memcpy(flow.addresses, packet + 12, 8)
    else:
        memcpy(flow.addresses, packet + 8, 32)
    flow.version = ip.version
    flow.protocol = ip.protocol
    flow.direction = direction
    return True


cdef inline uint32_t place_of(const Flow* flow) noexcept nogil:
    cdef uint32_t hash = 0
    cdef uint32_t word, i
    for i in range(KEY_BYTES // 4):
        memcpy(&word, <const uint8_t*>flow + 4 * i, 4)
        hash = (hash ^ word) * <uint32_t>0x9E3779B1
        hash ^= hash >> 15
    return hash % PLACES


cdef class Accepted:
    """Flows that may pass."""

    def __cinit__(self):
        self.flows = <Flow*>calloc(PLACES, sizeof(Flow))
        if not self.flows:
            raise MemoryError

    def __dealloc__(self):
        free(self.flows)

    cdef bint has(self, const uint8_t* packet, uint32_t size, uint8_t direction, double now) noexcept nogil:
        """Whether a packet's flow may pass."""
        cdef Flow flow
        cdef const Flow* known
        if not identify(packet, size, direction, &flow):
            return False
        known = &self.flows[place_of(&flow)]
        return known.until > now and memcmp(known, &flow, KEY_BYTES) == 0

    cdef void note(self, const uint8_t* packet, uint32_t size, uint8_t direction, double now) noexcept nogil:
        """A packet was accepted: so is its flow for a while."""
        cdef Flow flow
        if identify(packet, size, direction, &flow):
            flow.until = now + (udp_time if flow.protocol == UDP else flow_time)
            self.flows[place_of(&flow)] = flow

    cdef void clear(self) noexcept nogil:
        """Ask about every flow."""
        memset(self.flows, 0, PLACES * sizeof(Flow))

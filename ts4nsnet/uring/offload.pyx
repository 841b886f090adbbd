# SPDX-License-Identifier: BSD-3-Clause
"""Segmentation and coalescing, compiled: the twins of `segment` and `coalesce`, whose essays hold here.

What differs is where the bytes are.

    segment    `plan` reads a frame once and checks it; then each segment is written where the caller wants it, which is
               the send arena: header, payload, and the checksums made in the same pass
    coalesce   packets stay where they were received; a frame is a list of pieces (an iovec) for one writev. The first
               piece is the first packet with its headers changed in place and the vnet header in the ten bytes before
               it (where the transport message's header was); the others are payloads

         receive buffer   ┊ message header ┊ IP TCP payload 1 ┊ tag ┊ message header ┊ IP TCP payload 2 ┊ tag ┊
         frame            ┊     └─ vnet ───┼──────────────────┘                      ┊       └──────────┘

Groups are found by what they wait for, in a table of chains; the last group is asked first, as most packets are one
flow's. Where the twin counts the barriers between two addresses exactly, here addresses share counters by hash: then
and when a group of UDP datagrams ends earlier than it must.

Limits: `MAX_PACKETS` of one batch (the caller asks `full` and writes what there is), `MAX_GROUP_PACKETS` of one frame,
which is how many pieces a writev takes.
"""

from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from ts4nsnet.packet import Malformed

from ts4nsnet.uring.fit cimport fit
from ts4nsnet.uring.wire cimport (
    ACK, CWR, FIN, PSH, TCP, UDP, be16, be32, fold, look, native16, pseudo_sum, put_be16, put_be32, put_native16,
    set_payload_len, sum_bytes,
)

cdef enum:
    NEEDS_CSUM = 1
    GSO_NONE = 0
    GSO_TCPV4 = 1
    GSO_TCPV6 = 4
    GSO_UDP_L4 = 5
    GSO_ECN = 0x80
    TCP_CSUM_OFFSET = 16
    UDP_CSUM_OFFSET = 6
    FIRST_CSUM_START = 20
    MAX_FRAME_BYTES = 65535
    MAX_UDP_SEGMENTS = 64
    MAX_GROUP_PACKETS = 1024
    MAX_PACKETS = 4096
    BUCKETS = 1024
    BARRIERS = 256

cdef struct VnetHeader:
    # the kernel's virtio_net_hdr: ten bytes, native order
    uint8_t flags
    uint8_t gso_type
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset


# --- segmentation -----------------------------------------------------------------------------------------------------


cdef bint plan(const uint8_t* frame, size_t size, bint vnet_hdr, Cut* cut) noexcept nogil:
    """See how to cut a frame; False for one that is malformed."""
    cdef VnetHeader vnet
    cdef uint32_t at
    if vnet_hdr:
        if size <= VNET_HEADER_BYTES:
            return False
        memcpy(&vnet, frame, VNET_HEADER_BYTES)
        frame += VNET_HEADER_BYTES
        size -= VNET_HEADER_BYTES
    else:
        memset(&vnet, 0, sizeof(vnet))
    cut.packet = frame
    cut.size = <uint32_t>size
    if vnet.gso_type & ~GSO_ECN != GSO_NONE:
        return plan_superpacket(&vnet, cut)
    cut.protocol = 0
    cut.count = 1
    cut.csum_at = 0
    if vnet.flags & NEEDS_CSUM:
        cut.csum_start = vnet.csum_start
        at = <uint32_t>vnet.csum_start + vnet.csum_offset
        if vnet.csum_start < FIRST_CSUM_START or at + 2 > size:
            return False
        cut.csum_at = at
    return True


cdef bint plan_superpacket(const VnetHeader* vnet, Cut* cut) noexcept nogil:
    cdef uint8_t kind = vnet.gso_type & ~GSO_ECN
    cdef const uint8_t* layer4
    cdef uint32_t room, header_len, length
    if not look(cut.packet, cut.size, &cut.ip) or cut.ip.fragment or vnet.csum_start != cut.ip.header_len:
        return False
    layer4 = cut.packet + cut.ip.header_len
    room = cut.ip.total_len - cut.ip.header_len
    cut.protocol = cut.ip.protocol
    if kind == GSO_UDP_L4:
        if cut.protocol != UDP or room < 8:
            return False
        length = be16(layer4 + 4)
        if not (8 <= length <= room):
            return False
        header_len = 8
        room = length
    elif kind == (GSO_TCPV4 if cut.ip.version == 4 else GSO_TCPV6):
        if cut.protocol != TCP or room < 20:
            return False
        header_len = (layer4[12] >> 4) * 4
        if not (20 <= header_len <= room):
            return False
    else:
        return False
    cut.header_len = cut.ip.header_len + header_len
    cut.payload_len = room - header_len
    cut.gso_size = vnet.gso_size
    if not cut.gso_size or not cut.payload_len:
        return False
    cut.count = (cut.payload_len + cut.gso_size - 1) // cut.gso_size
    return True


cdef uint32_t segment_size(const Cut* cut, uint32_t number) noexcept nogil:
    """Of segment `number` of a frame, bytes."""
    if not cut.protocol:
        return cut.size
    if number + 1 < cut.count:
        return cut.header_len + cut.gso_size
    return cut.header_len + cut.payload_len - number * cut.gso_size


cdef void emit_segment(const Cut* cut, uint32_t number, uint8_t* to) noexcept nogil:
    """Write segment `number`, complete."""
    cdef uint32_t start, layer4_len, csum_at
    cdef uint8_t* layer4
    cdef uint16_t field
    if not cut.protocol:
        memcpy(to, cut.packet, cut.size)
        if cut.csum_at:
            field = ~fold(sum_bytes(to + cut.csum_start, cut.size - cut.csum_start))
            if not field and cut.csum_at == cut.csum_start + UDP_CSUM_OFFSET:
                field = 0xFFFF
            put_native16(to + cut.csum_at, field)
        return
    start = number * cut.gso_size
    layer4_len = segment_size(cut, number) - cut.ip.header_len
    memcpy(to, cut.packet, cut.header_len)
    memcpy(to + cut.header_len, cut.packet + cut.header_len + start, layer4_len + cut.ip.header_len - cut.header_len)
    layer4 = to + cut.ip.header_len
    if cut.ip.version == 4:
        put_be16(to + 4, <uint16_t>(be16(to + 4) + number))
    set_payload_len(to, cut.ip.version, cut.ip.header_len, layer4_len)
    if cut.protocol == TCP:
        put_be32(layer4 + 4, be32(layer4 + 4) + start)
        if number:
            layer4[13] &= <uint8_t>~CWR
        if number + 1 < cut.count:
            layer4[13] &= <uint8_t>~(FIN | PSH)
        csum_at = TCP_CSUM_OFFSET
    else:
        put_be16(layer4 + 4, <uint16_t>layer4_len)
        csum_at = UDP_CSUM_OFFSET
    put_native16(layer4 + csum_at, 0)
    field = ~fold(pseudo_sum(to, cut.ip.version, cut.protocol, layer4_len) + sum_bytes(layer4, layer4_len))
    if not field and cut.protocol == UDP:
        field = 0xFFFF
    put_native16(layer4 + csum_at, field)


# --- coalescing -------------------------------------------------------------------------------------------------------


cdef inline bint eligible(const uint8_t* packet, uint32_t size, const Look* ip, Group* found) noexcept nogil:
    """Whether a packet can be part of a group; if so, `found` says what it would be alone."""
    cdef const uint8_t* layer4 = packet + ip.header_len
    cdef uint32_t room = ip.total_len - ip.header_len
    cdef uint32_t header_len
    if not ip.plain or ip.fragment or size != ip.total_len:
        return False
    if ip.protocol == TCP:
        if room < 20:
            return False
        header_len = (layer4[12] >> 4) * 4
        if header_len < 20 or header_len >= room or layer4[13] & ~PSH != ACK:
            return False
        found.sequence = be32(layer4 + 4)
        found.push = layer4[13] & PSH != 0
    else:
        if room <= 8 or be16(layer4 + 4) != room or not native16(layer4 + 6):
            return False
        header_len = 8
        found.sequence = 0
        found.push = False
    if ip.version == 4 and fold(sum_bytes(packet, 20)) != 0xFFFF:
        return False
    found.ip_len = <uint16_t>ip.header_len
    found.header_len = <uint16_t>(ip.header_len + header_len)
    found.gso_size = room - header_len
    # of all the steps the only one that reads the payload
    return fold(pseudo_sum(packet, ip.version, ip.protocol, room) + sum_bytes(layer4, room)) == 0xFFFF


cdef inline bint same_flow(const uint8_t* one, const uint8_t* other, uint8_t version) noexcept nogil:
    """Whether two eligible packets of one IP version and protocol have the same addresses and ports."""
    if version == 4:
        return memcmp(one + 12, other + 12, 12) == 0
    return memcmp(one + 8, other + 8, 36) == 0


cdef inline bint same_headers(const uint8_t* one, const uint8_t* other, const Group* group) noexcept nogil:
    """Whether everything else that must be equal in a group is."""
    cdef const uint8_t* a = one + group.ip_len
    cdef const uint8_t* b = other + group.ip_len
    if group.version == 4:
        if one[1] != other[1] or one[8] != other[8] or (one[6] ^ other[6]) & 0xE0:
            return False
    elif memcmp(one, other, 4) or one[7] != other[7]:
        return False
    if group.protocol == UDP:
        return True
    # acknowledgement; header length and reserved bits, flags but PSH, window; urgent pointer and options
    return (
        memcmp(a + 8, b + 8, 5) == 0
        and not (a[13] ^ b[13]) & <uint8_t>~PSH
        and memcmp(a + 14, b + 14, 2) == 0
        and memcmp(a + 18, b + 18, group.header_len - group.ip_len - 18) == 0
    )


cdef inline bint fits(const Group* group, const uint8_t* packet, const Group* alone) noexcept nogil:
    """Whether a group can take a segment of its flow that follows its last one; `alone` is that one as a group."""
    return (
        group.open
        and alone.gso_size <= group.gso_size
        and group.size + alone.gso_size <= MAX_FRAME_BYTES
        and group.count < <uint32_t>(MAX_UDP_SEGMENTS if group.protocol == UDP else MAX_GROUP_PACKETS)
        and group.header_len == alone.header_len
        and same_headers(group.packet, packet, group)
    )


cdef inline uint32_t mixed(uint32_t hash, uint32_t word) noexcept nogil:
    hash = (hash ^ word) * <uint32_t>0x9E3779B1
    return hash ^ hash >> 15


cdef inline uint32_t hash_words(const uint8_t* at, uint32_t words, uint32_t hash) noexcept nogil:
    cdef uint32_t word, i
    for i in range(words):
        memcpy(&word, at + 4 * i, 4)
        hash = mixed(hash, word)
    return hash


cdef inline uint32_t hash_addresses(const uint8_t* packet, uint8_t version) noexcept nogil:
    return hash_words(packet + 12, 2, 4) if version == 4 else hash_words(packet + 8, 8, 6)


cdef class Coalescer:
    """The packets of one batch, on their way to as few frames as possible.

    Args:
        vnet_hdr: whether a frame begins with a virtio_net_hdr; without one nothing is merged.
        mtu: bytes to which a frame of TCP can be cut.
    """

    def __cinit__(self, *, bint vnet_hdr=True, bint tcp=True, bint udp=True, uint32_t mtu=MAX_FRAME_BYTES):
        self.vnet_hdr = vnet_hdr
        self.mtu = mtu
        self.tcp = tcp
        self.udp = udp
        self.parts = <Part*>malloc(MAX_PACKETS * sizeof(Part))
        self.groups = <Group*>malloc(MAX_PACKETS * sizeof(Group))
        self.buckets = <int32_t*>malloc(BUCKETS * sizeof(int32_t))
        self.barriers = <uint32_t*>calloc(BARRIERS, sizeof(uint32_t))
        if not self.parts or not self.groups or not self.buckets or not self.barriers:
            raise MemoryError
        memset(self.buckets, 0xFF, BUCKETS * sizeof(int32_t))

    def __dealloc__(self):
        free(self.parts)
        free(self.groups)
        free(self.buckets)
        free(self.barriers)

    cdef void clear(self) noexcept nogil:
        """Begin a new batch."""
        if self.part_count:
            memset(self.buckets, 0xFF, BUCKETS * sizeof(int32_t))
        self.part_count = 0
        self.group_count = 0

    cdef bint full(self) noexcept nogil:
        return self.part_count == MAX_PACKETS

    cdef void add(self, uint8_t* packet, uint32_t size) noexcept nogil:
        """Take a packet, without padding, that stays where it is until the batch is written; see `full`.

        With vnet_hdr the ten bytes before it are ours.
        """
        cdef Group* group = self.merged(packet, size) if self.vnet_hdr else NULL
        if group is not NULL:
            return
        # alone, at its place
        group = &self.groups[self.group_count]
        self.group_count += 1
        group.packet = packet
        group.header_len = 0
        group.count = 0
        group.first = group.last = -1
        self.append(group, packet, size)

    cdef Group* merged(self, uint8_t* packet, uint32_t size) noexcept nogil:
        """The group that an eligible packet became a part of, its own or another's; NULL for any other packet."""
        cdef Look ip
        cdef Group alone
        cdef Group* group
        cdef uint32_t hash, following, behind
        if not look(packet, size, &ip):
            return NULL
        if not (self.tcp if ip.protocol == TCP else self.udp and ip.protocol == UDP) or not eligible(
            packet, size, &ip, &alone
        ):
            if ip.protocol == UDP:
                # no later datagram between these addresses may overtake it
                self.barriers[hash_addresses(packet, ip.version) % BARRIERS] += 1
            return NULL
        hash = hash_addresses(packet, ip.version)
        following = alone.sequence + alone.gso_size
        if ip.protocol == UDP:
            # a group waits for what comes behind the same barriers as its first packet
            behind = self.barriers[hash % BARRIERS]
            alone.sequence = following = behind
        hash = hash_words(packet + ip.header_len, 1, hash)
        group = self.waiting(packet, &ip, alone.sequence, hash)
        if group is not NULL and fits(group, packet, &alone):
            self.append(group, packet + alone.header_len, alone.gso_size)
            group.size += alone.gso_size
            group.push = alone.push
            group.open = alone.gso_size == group.gso_size and not alone.push
        else:
            group = &self.groups[self.group_count]
            self.group_count += 1
            group[0] = alone
            group.packet = packet
            group.version = ip.version
            group.protocol = ip.protocol
            group.size = size
            group.open = not alone.push
            group.count = 0
            group.first = group.last = -1
            self.append(group, packet, size)
        self.await_next(group, following, hash)
        return group

    cdef void append(self, Group* group, uint8_t* at, uint32_t size) noexcept nogil:
        cdef int32_t number = self.part_count
        cdef Part* part = &self.parts[number]
        self.part_count += 1
        part.at = at
        part.size = size
        part.next = -1
        if group.last < 0:
            group.first = number
        else:
            self.parts[group.last].next = number
        group.last = number
        group.count += 1

    cdef Group* waiting(self, const uint8_t* packet, const Look* ip, uint32_t sequence, uint32_t hash) noexcept nogil:
        """The group of this flow that waits for `sequence`, taken out of the table; NULL when there is none."""
        cdef int32_t* link = &self.buckets[mixed(hash, sequence) % BUCKETS]
        cdef Group* group
        while link[0] >= 0:
            group = &self.groups[link[0]]
            if (
                group.sequence == sequence
                and group.hash == hash
                and group.protocol == ip.protocol
                and group.version == ip.version
                and same_flow(group.packet, packet, ip.version)
            ):
                link[0] = group.next
                return group
            link = &group.next
        return NULL

    cdef void await_next(self, Group* group, uint32_t sequence, uint32_t hash) noexcept nogil:
        """Let `group` wait for `sequence`; one of its flow that waited for the same waits no longer."""
        cdef Look ip
        cdef int32_t* link
        ip.protocol = group.protocol
        ip.version = group.version
        self.waiting(group.packet, &ip, sequence, hash)
        link = &self.buckets[mixed(hash, sequence) % BUCKETS]
        group.sequence = sequence
        group.hash = hash
        group.next = link[0]
        link[0] = <int32_t>(group - self.groups)

    cdef int finish(self, uint32_t number, iovec* vectors) noexcept nogil:
        """Make frame `number` (there are `group_count`): its pieces, of which there are at most 1024; returns how many."""
        cdef Group* group = &self.groups[number]
        cdef Part* part = &self.parts[group.first]
        cdef uint8_t* packet = group.packet
        cdef VnetHeader vnet
        cdef uint32_t layer4_len
        cdef uint32_t gso_size = group.gso_size
        cdef int count = 0
        memset(&vnet, 0, sizeof(vnet))
        if group.header_len and group.protocol == TCP and group.header_len + gso_size > self.mtu:
            gso_size = self.mtu - group.header_len
        if group.header_len and group.size > group.header_len + gso_size:
            layer4_len = group.size - group.ip_len
            set_payload_len(packet, group.version, group.ip_len, layer4_len)
            vnet.flags = NEEDS_CSUM
            vnet.hdr_len = group.header_len
            vnet.gso_size = <uint16_t>gso_size
            vnet.csum_start = group.ip_len
            if group.protocol == UDP:
                put_be16(packet + group.ip_len + 4, <uint16_t>layer4_len)
                vnet.gso_type = GSO_UDP_L4
                vnet.csum_offset = UDP_CSUM_OFFSET
            else:
                if group.push:
                    packet[group.ip_len + 13] |= PSH
                vnet.gso_type = GSO_TCPV4 if group.version == 4 else GSO_TCPV6
                vnet.csum_offset = TCP_CSUM_OFFSET
            put_native16(
                packet + group.ip_len + vnet.csum_offset,
                fold(pseudo_sum(packet, group.version, group.protocol, layer4_len)),
            )
        vectors[0].iov_base = part.at
        vectors[0].iov_len = part.size
        if self.vnet_hdr:
            memcpy(part.at - VNET_HEADER_BYTES, &vnet, VNET_HEADER_BYTES)
            vectors[0].iov_base = part.at - VNET_HEADER_BYTES
            vectors[0].iov_len = part.size + VNET_HEADER_BYTES
        count = 1
        while part.next >= 0:
            part = &self.parts[part.next]
            vectors[count].iov_base = part.at
            vectors[count].iov_len = part.size
            count += 1
        return count


# --- doors for Python -------------------------------------------------------------------------------------------------


def segment(const uint8_t[::1] frame, uint32_t mtu=MAX_FRAME_BYTES, *, bint coarse=False):
    """The complete IP packets, in their order, that a frame read from a TUN stands for; raises `Malformed`.

    Args:
        mtu, coarse: see `segment.fitted`.
    """
    cdef Cut cut
    cdef uint32_t number
    cdef bytearray packet
    if not frame.shape[0] or not plan(&frame[0], frame.shape[0], True, &cut):
        raise Malformed("frame", got=f"{frame.shape[0]} bytes", want="a packet, or a superpacket that can be cut")
    fit(&cut, mtu, coarse)
    packets = []
    for number in range(cut.count):
        packet = bytearray(segment_size(&cut, number))
        emit_segment(&cut, number, <uint8_t*>packet)
        packets.append(bytes(packet))
    return packets


def coalesce(packets, *, bint tcp=True, bint udp=True, uint32_t mtu=MAX_FRAME_BYTES):
    """The frames (vnet header and packet) that bring a batch of packets into a TUN; `coalesce.coalesce` says more."""
    cdef Coalescer batch = Coalescer(tcp=tcp, udp=udp, mtu=mtu)
    cdef bytearray copies = bytearray()
    cdef uint8_t* at
    cdef iovec vectors[MAX_GROUP_PACKETS]
    cdef uint32_t number
    cdef int piece, count
    if len(packets) > MAX_PACKETS:
        raise ValueError(f"coalesce: got {len(packets)} packets, want at most {MAX_PACKETS} in a batch")
    for packet in packets:
        copies += bytes(VNET_HEADER_BYTES)
        copies += packet
    at = <uint8_t*>copies
    for packet in packets:
        at += VNET_HEADER_BYTES
        batch.add(at, <uint32_t>len(packet))
        at += len(packet)
    frames = []
    for number in range(batch.group_count):
        count = batch.finish(number, vectors)
        frames.append(b"".join([
            (<uint8_t*>vectors[piece].iov_base)[: vectors[piece].iov_len] for piece in range(count)
        ]))
    return frames

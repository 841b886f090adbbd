# SPDX-License-Identifier: BSD-3-Clause
"""Coalescing (GRO): the packets of one decrypted batch become as few writes to the TUN as possible.

The inverse of `segment`. A bulk sender's packets come in trains: same flow, same headers, each as long as the one
before. Merged into one superpacket with a virtio_net_hdr before it, a train costs the container's kernel one walk
through its stack, and us one write.

    batch:   A1 A2 B1 A3 S  B2 A4        A, B TCP flows; S a SYN: not eligible
    frames:  [A1 A2 A3 A4] [B1 B2] [S]   each where its first packet was

Each eligible packet belongs to a *group*: the packets that will be one frame. Only packets of one call are merged;
nothing is held back for a later batch.

Eligible: IPv4 without options, IPv6 without extension headers; no fragment; nothing behind the packet's end; at least
one byte of payload; right checksums. TCP: flags exactly ACK or ACK|PSH. UDP: with a checksum and of the full length.
All else is a frame of its own, at its place, with a zero vnet header: the kernel then verifies it as if it had come
from a network card without offloads.

A packet is appended to a group if

* what must be equal is equal. Both: addresses, ports, traffic class, TTL, IPv4 flags (DF), IPv6 flow label. TCP also:
  acknowledgement, window, options, the reserved bits with AE, urgent pointer. Flow label, window and urgent pointer
  are ours: without them the frame could not be taken apart into the packets that it was made of;
* TCP: it begins where the group ends. Groups are looked up by what they are waiting for, the flow's next sequence
  number, so any number of flows, and of runs within a flow, interleave in constant time per packet. A group that
  refuses what it waits for is closed;
* UDP: the group is the flow's last packet so far. Datagrams of a flow are never reordered: a packet that cannot be
  appended begins the flow's next group, and a UDP packet that is not eligible ends all groups between its addresses
  (a fragment does not say its ports);
* it is not longer than the group's first; a shorter one is the last. PSH, too, ends a group and is kept;
* the whole stays within 65535 bytes, and UDP within 64 datagrams (what kernels take at least; 6.18 takes 128).

The frame: the first packet's headers, lengths of the whole, IPv4 checksum anew; NEEDS_CSUM, and in the layer 4 checksum
field the pseudo-header's sum, not complemented. The kernel never looks at that checksum again on its way to a local
socket.

A frame of TCP says that it can be cut into packets of `mtu` bytes, whatever those were that it was made of, also if it
was one: between two of us packets are as long as the path carries, and a container that forwards must be able to cut
them again.

Which is why we verify before merging, as wireguard-go does (layer 4; the IPv4 header, whose checksum we make anew, is
ours) and the kernel's WireGuard does not: WireGuard has authenticated what the peer sent, but the damage that an
application host's memory or network card did before is what the container's stack must still find. A packet with a
wrong checksum is a frame of its own, which the kernel drops and counts. The price, here in Python: 3 of 7 µs for a
packet of 1400 bytes.

Left out: prepending (wireguard-go puts a segment before the group that it directly precedes). It helps only when the
network reordered, and TCP's receiver sorts that out itself. Lost: the IPv4 identification, which the kernel counts up
from the first when it takes a frame apart.

Switches: `tcp` and `udp`, since kernels 6.1.103, 6.6.44 and 6.10.3 refuse frames with a short tail (EINVAL), and up to
6.8.4 lose UDP ones whose payload is VXLAN (offloads.py).

This is the readable twin of the compiled coalescer, and its oracle in the property tests.
Source: net/ipv4/tcp_offload.c (tcp_gro_receive), udp_offload.c; wireguard-go tun/offload_linux.go.
"""

import struct
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ts4nsnet.packet import (
    ACK,
    IP,
    PSH,
    TCP,
    UDP,
    UDP_HEADER_BYTES,
    Buffer,
    IPv4,
    Malformed,
    Protocol,
    checksum_ok,
    fold,
    parse_ip,
    pseudo_sum,
    set_payload_len,
    sum16,
)
from ts4nsnet.uring.segment import TCP_CSUM_OFFSET, UDP_CSUM_OFFSET, Gso, VnetFlag, VnetHeader

MAX_FRAME_BYTES = 65535  # of the IP packet
MAX_UDP_SEGMENTS = 64

_WORD = struct.Struct("!H")
_ALONE = VnetHeader().emit()

Flow = tuple[int, bytes, bytes, int, int]  # protocol, addresses, ports


class _Segment(NamedTuple):
    """An eligible packet, taken apart."""

    ip: IP
    flow: Flow
    same: tuple[object, ...]  # what else must be equal in a group
    sequence: int  # 0 for UDP
    next_sequence: int  # likewise
    header_len: int  # IP and layer 4
    payload: Buffer
    push: bool


class _Group:
    """Eligible packets that will be one frame."""

    def __init__(self, packet: Buffer, first: _Segment) -> None:
        self.packet = packet
        self.first = first
        self.payloads = [first.payload]
        self.size = first.header_len + len(first.payload)  # of the frame's IP packet, bytes
        self.gso_size = len(first.payload)
        self.push = first.push
        self.open = not first.push

    def take(self, segment: _Segment) -> bool:
        """Append a segment of this flow that follows the last one, if it fits."""
        size = len(segment.payload)
        if (
            not self.open
            or size > self.gso_size
            or self.size + size > MAX_FRAME_BYTES
            or segment.same != self.first.same
        ):
            return False
        if len(self.payloads) == MAX_UDP_SEGMENTS and segment.ip.protocol == Protocol.UDP:
            return False
        self.payloads.append(segment.payload)
        self.size += size
        self.push = segment.push
        self.open = size == self.gso_size and not segment.push
        return True

    def frame(self, mtu: int) -> bytes:
        """The vnet header and the packet, for one write to the TUN."""
        ip, header_len, gso_size = self.first.ip, self.first.header_len, self.gso_size
        if ip.protocol == Protocol.TCP:
            gso_size = min(gso_size, mtu - header_len)
        if self.size <= header_len + gso_size:
            return b"".join((_ALONE, self.packet))
        layer4 = ip.header_len
        header = bytearray(self.packet[:header_len])
        set_payload_len(header, layer4, self.size - layer4)
        if ip.protocol == Protocol.UDP:
            gso_type, csum_offset = Gso.UDP_L4, UDP_CSUM_OFFSET
            _WORD.pack_into(header, layer4 + 4, self.size - layer4)
        else:
            gso_type, csum_offset = (Gso.TCPV4 if isinstance(ip, IPv4) else Gso.TCPV6), TCP_CSUM_OFFSET
            header[layer4 + 13] |= PSH if self.push else 0
        partial = fold(pseudo_sum(ip.source, ip.destination, ip.protocol, self.size - layer4))
        _WORD.pack_into(header, layer4 + csum_offset, partial)
        vnet = VnetHeader(VnetFlag.NEEDS_CSUM, gso_type, header_len, gso_size, layer4, csum_offset)
        return b"".join((vnet.emit(), header, *self.payloads))


Waiting = dict[tuple[Flow, int], _Group]  # by the flow and the sequence number that the group would take next
Addresses = tuple[bytes, bytes]


def coalesce(
    packets: Sequence[Buffer], *, tcp: bool = True, udp: bool = True, mtu: int = MAX_FRAME_BYTES
) -> list[bytes]:
    """The frames (vnet header and packet, one write each) that bring a batch of IP packets into a TUN.

    Args:
        packets: in the order of their arrival, without padding. Nothing is required of them: what cannot be read is a
            frame of its own.
        tcp: whether to merge TCP segments.
        udp: whether to merge UDP datagrams.
        mtu: bytes to which a frame of TCP can be cut; more than any headers.
    """
    protocols = {protocol for protocol, wanted in ((Protocol.TCP, tcp), (Protocol.UDP, udp)) if wanted}
    frames: list[bytes | _Group] = []
    waiting: Waiting = {}
    barriers: Counter[Addresses] = Counter()
    for packet in packets:
        ip = _parsed(packet)
        segment = _segment(ip, packet) if ip is not None and ip.protocol in protocols else None
        if segment is None:
            frames.append(b"".join((_ALONE, packet)))
            if ip is not None and ip.protocol == Protocol.UDP:
                # no later datagram between these addresses may overtake it
                barriers[ip.source, ip.destination] += 1
            continue
        if segment.ip.protocol == Protocol.UDP:
            # a group waits for what comes behind the same barriers as its first packet
            behind = barriers[segment.ip.source, segment.ip.destination]
            segment = segment._replace(sequence=behind, next_sequence=behind)
        group = waiting.pop((segment.flow, segment.sequence), None)
        if group is None or not group.take(segment):
            group = _Group(packet, segment)
            frames.append(group)
        waiting[segment.flow, segment.next_sequence] = group
    return [frame if isinstance(frame, bytes) else frame.frame(mtu) for frame in frames]


def _parsed(packet: Buffer) -> IP | None:
    try:
        return parse_ip(packet)
    except Malformed:
        return None


def _segment(ip: IP, packet: Buffer) -> _Segment | None:
    """The TCP or UDP packet taken apart, or None if it is not eligible."""
    if isinstance(ip, IPv4):
        plain = not ip.options and not ip.is_fragment and sum16(packet[: ip.header_len]) == 0xFFFF
    else:
        plain = not ip.extensions
    if not plain or len(packet) != ip.header_len + len(ip.payload):
        return None
    try:
        segment = _tcp_segment(ip) if ip.protocol == Protocol.TCP else _udp_segment(ip)
    except Malformed:
        return None
    return segment if segment is not None and checksum_ok(ip) else None


def _tcp_segment(ip: IP) -> _Segment | None:
    tcp = TCP.parse(ip.payload)
    size = len(tcp.payload)
    if not size or tcp.flags & 0xFF & ~PSH != ACK:
        return None
    flow = (ip.protocol, ip.source, ip.destination, tcp.source_port, tcp.destination_port)
    same = (*_same_ip(ip), tcp.acknowledgement, tcp.window, tcp.options, tcp.flags & ~PSH, tcp.urgent)
    header_len = ip.header_len + tcp.header_len
    following = (tcp.sequence + size) % 2**32
    return _Segment(ip, flow, same, tcp.sequence, following, header_len, tcp.payload, tcp.flags & PSH != 0)


def _udp_segment(ip: IP) -> _Segment | None:
    udp = UDP.parse(ip.payload)
    if not udp.payload or not udp.has_checksum or UDP_HEADER_BYTES + len(udp.payload) != len(ip.payload):
        return None
    flow = (ip.protocol, ip.source, ip.destination, udp.source_port, udp.destination_port)
    return _Segment(ip, flow, _same_ip(ip), 0, 0, ip.header_len + UDP_HEADER_BYTES, udp.payload, push=False)


def _same_ip(ip: IP) -> tuple[int, ...]:
    return (ip.traffic_class, ip.ttl, ip.flags if isinstance(ip, IPv4) else ip.flow_label)

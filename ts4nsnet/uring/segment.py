# SPDX-License-Identifier: BSD-3-Clause
"""Segmentation: what one read of the TUN gave becomes the packets that WireGuard sends.

The TUN is opened with IFF_VNET_HDR and the offloads for checksums, TSO and USO. The container's kernel then leaves work
to us, as it would to a network card: it hands over up to 64 KiB of one flow as one *superpacket* with unfinished
checksums, and ten bytes before it, the virtio_net_hdr, say how to finish. That is why a read costs what it does once
per 64 KiB and not once per packet.

    read:    vnet header | IP | TCP |      payload of 3000 bytes       |     gso_size 1240

    packets:               IP | TCP | 0 to 1239     |  ACK                   id,    seq
                           IP | TCP | 1240 to 2479  |  ACK                   id+1,  seq + 1240
                           IP | TCP | 2480 to 2999  |  ACK PSH (FIN)         id+2,  seq + 2480

Rules, for each segment:

* IPv4: total length, identification counted up (it matters where DF is not set), header checksum. IPv6: payload
  length, which counts the extension headers.
* TCP: sequence number modulo 2^32; FIN and PSH only on the last, CWR only on the first segment (we do not ask for
  TSO_ECN, so CWR should not come); all else, options and window included, is copied.
* UDP: length.
* Layer 4 checksum: computed from nothing. The superpacket's field holds a partial sum over the *whole* length; we do
  not use it. A UDP checksum of 0 is sent as 0xffff, since 0 says that there is none.

A frame that is no superpacket may still need its checksum (NEEDS_CSUM). Then the field holds the folded pseudo-header
sum and the rule is `field = ~sum(packet[csum_start:])`, whatever the protocol is. A frame without any flag is passed on
unread; WireGuard's routing looks at its addresses.

How long the packets of a TCP flow are is not for its sender alone to say (`fitted`). A path that has become narrower
cuts what is too long for it, superpackets and others, so that connections live on with the segment size that they
began with; nobody has to be told. A wide path, the whole way to the other container, takes superpackets in pieces as
long as it carries, in whole steps of the cipher (1408 of 1420 bytes, which then take 0.83 instead of 0.92 s/GB), up to
65,408 bytes in one message. The other end writes them as superpackets again (`coalesce`), so that they can be cut
again. UDP is always cut as it says: its boundaries count.

What we trust: `gso_type`, `gso_size`, and for a lone checksum `csum_start` and `csum_offset`, after checking that they
lie inside the packet. Not `hdr_len`, which may be the whole linear part for forwarded traffic: header lengths are read
from the headers. A superpacket's `csum_start` must agree with them.

Limits: a signed TCP packet (RFC 2385, 5925) does not survive being cut. The kernel makes no superpackets of such a
connection, so that is about lone packets for which a path has become too narrow. UFO (gso_type 3) is never asked for,
hence malformed. An IPv6 routing header that is not used up gives segments with a wrong checksum (see `packet`). BIG TCP
does not reach a TUN.

This is the readable twin of the compiled splitter, and its oracle in the property tests.
Source: include/uapi/linux/virtio_net.h, net/ipv4/tcp_offload.c (tcp_gso_segment), net/ipv4/udp_offload.c.
"""

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple, Self

from ts4nsnet.packet import (
    ACK,
    CWR,
    FIN,
    IP,
    IPV4_HEADER_BYTES,
    IPV6_HEADER_BYTES,
    PSH,
    SYN,
    TCP,
    UDP,
    UDP_HEADER_BYTES,
    Buffer,
    IPv4,
    Malformed,
    Protocol,
    checksum,
    parse_ip,
    pseudo_sum,
    set_payload_len,
    sum16,
)

VNET_HEADER_BYTES = 10
TCP_CSUM_OFFSET = 16  # of the checksum field in a TCP header
UDP_CSUM_OFFSET = 6

MAX_PACKET_BYTES = 65535
CIPHER_STEP_BYTES = 128  # the rest takes cryptography's ChaCha20Poly1305 longer; measured: perf/README.md

_VNET = struct.Struct("=BBHHHH")  # native endian, no padding
_WORD = struct.Struct("!H")
_FIRST_CSUM_START = 20  # layer 4 cannot begin before the end of the shortest IP header


class VnetFlag(IntFlag):
    """virtio_net_hdr flags."""

    NEEDS_CSUM = 1
    DATA_VALID = 2  # a TUN ignores it


class Gso(IntEnum):
    """virtio_net_hdr gso_type, without the ECN bit."""

    NONE = 0
    TCPV4 = 1
    UDP = 3  # UFO
    TCPV6 = 4
    UDP_L4 = 5


GSO_ECN = 0x80  # a TCP superpacket whose first segment has CWR


class VnetHeader(NamedTuple):
    """The kernel's virtio_net_hdr: ten bytes before each packet that a TUN gives or takes."""

    flags: int = 0
    gso_type: int = Gso.NONE
    hdr_len: int = 0  # bytes of headers; a hint
    gso_size: int = 0  # payload bytes in each segment
    csum_start: int = 0  # where layer 4 begins, from the IP header's first byte
    csum_offset: int = 0  # of the checksum field, from csum_start

    @classmethod
    def parse(cls, frame: Buffer) -> Self:
        """Read the header of a frame; raises `Malformed`, also for a frame without a packet."""
        if len(frame) <= VNET_HEADER_BYTES:
            raise Malformed("vnet", got=f"{len(frame)} bytes", want=f"more than {VNET_HEADER_BYTES}")
        return cls(*_VNET.unpack_from(frame))

    def emit(self) -> bytes:
        """The header's bytes."""
        return _VNET.pack(*self)


def segment(frame: Buffer, mtu: int = MAX_PACKET_BYTES, *, coarse: bool = False) -> list[bytes]:
    """The complete IP packets, in their order, that a frame read from a TUN stands for; raises `Malformed`.

    Args:
        mtu, coarse: see `fitted`.
    """
    packet = memoryview(frame)[VNET_HEADER_BYTES:]
    vnet = fitted(VnetHeader.parse(frame), packet, mtu, coarse=coarse)
    match vnet.gso_type & ~GSO_ECN:
        case Gso.NONE:
            return [_completed(packet, vnet) if vnet.flags & VnetFlag.NEEDS_CSUM else bytes(packet)]
        case Gso.TCPV4:
            return _tcp_segments(packet, vnet, version=4)
        case Gso.TCPV6:
            return _tcp_segments(packet, vnet, version=6)
        case Gso.UDP_L4:
            return _udp_segments(packet, vnet)
    raise Malformed("gso", got=f"type {vnet.gso_type:#x}", want="none, TCPv4, TCPv6 or UDP_L4")


def fitted(vnet: VnetHeader, packet: Buffer, mtu: int, *, coarse: bool) -> VnetHeader:
    """What a frame's header is to say, so that TCP fits a path.

    Args:
        mtu: bytes that no packet of TCP exceeds.
        coarse: superpackets become as few packets as that allows, of whole steps of the cipher.
    """
    limit = mtu - mtu % CIPHER_STEP_BYTES if coarse else mtu
    kind = vnet.gso_type & ~GSO_ECN
    if kind == Gso.NONE and len(packet) <= mtu:
        return vnet
    try:
        ip = parse_ip(packet)
        tcp = TCP.parse(ip.payload)
    except Malformed:
        return vnet
    header_len = ip.header_len + tcp.header_len
    if ip.protocol != Protocol.TCP or limit <= header_len or (kind != Gso.NONE and not vnet.gso_size):
        return vnet
    is_plain = ip.header_len == (IPV4_HEADER_BYTES if isinstance(ip, IPv4) else IPV6_HEADER_BYTES)
    if kind != Gso.NONE:
        can_be_merged = is_plain and tcp.flags & 0xFF & ~PSH == ACK
        is_coarser = coarse and len(tcp.payload) > vnet.gso_size and can_be_merged
        fits = header_len + vnet.gso_size <= mtu
        return vnet if fits and not is_coarser else vnet._replace(gso_size=limit - header_len)
    if not is_plain or ip.is_fragment or tcp.flags & SYN or not tcp.payload:
        return vnet
    if vnet.flags & VnetFlag.NEEDS_CSUM:
        _checksum_at(vnet, packet)
    gso_type = Gso.TCPV4 if isinstance(ip, IPv4) else Gso.TCPV6
    return vnet._replace(gso_type=gso_type, gso_size=limit - header_len, csum_start=ip.header_len)


def _completed(packet: memoryview, vnet: VnetHeader) -> bytes:
    """The packet with its checksum made; the field holds the pseudo-header's sum, so it is summed like the rest."""
    at = _checksum_at(vnet, packet)
    whole = bytearray(packet)
    field = checksum(packet[vnet.csum_start :])
    if vnet.csum_offset == UDP_CSUM_OFFSET:
        field = field or 0xFFFF
    _WORD.pack_into(whole, at, field)
    return bytes(whole)


def _checksum_at(vnet: VnetHeader, packet: Buffer) -> int:
    at = vnet.csum_start + vnet.csum_offset
    if vnet.csum_start < _FIRST_CSUM_START or at + 2 > len(packet):
        got = f"start {vnet.csum_start}, offset {vnet.csum_offset}"
        raise Malformed("csum", got=got, want=f"{_FIRST_CSUM_START} <= start, start + offset <= {len(packet) - 2}")
    return at


def _tcp_segments(packet: memoryview, vnet: VnetHeader, *, version: int) -> list[bytes]:
    ip = _superpacket(packet, vnet, Protocol.TCP)
    if version != (4 if isinstance(ip, IPv4) else 6):
        raise Malformed("gso", got=f"type {vnet.gso_type:#x} on another IP version", want=f"IPv{version}")
    tcp = TCP.parse(ip.payload)
    headers = packet[: ip.header_len + tcp.header_len]
    starts = _starts(len(tcp.payload), vnet)
    segments = []
    for index, start in enumerate(starts):
        flags = tcp.flags
        if start != starts[0]:
            flags &= ~CWR
        if start != starts[-1]:
            flags &= ~(FIN | PSH)
        header = bytearray(headers)
        struct.pack_into("!I", header, ip.header_len + 4, (tcp.sequence + start) % 2**32)
        header[ip.header_len + 13] = flags & 0xFF
        payload = tcp.payload[start : start + vnet.gso_size]
        segments.append(_finished(header, ip, index, payload, TCP_CSUM_OFFSET))
    return segments


def _udp_segments(packet: memoryview, vnet: VnetHeader) -> list[bytes]:
    ip = _superpacket(packet, vnet, Protocol.UDP)
    udp = UDP.parse(ip.payload)
    headers = packet[: ip.header_len + UDP_HEADER_BYTES]
    segments = []
    for index, start in enumerate(_starts(len(udp.payload), vnet)):
        header = bytearray(headers)
        payload = udp.payload[start : start + vnet.gso_size]
        _WORD.pack_into(header, ip.header_len + 4, UDP_HEADER_BYTES + len(payload))
        segments.append(_finished(header, ip, index, payload, UDP_CSUM_OFFSET))
    return segments


def _superpacket(packet: memoryview, vnet: VnetHeader, protocol: Protocol) -> IP:
    """The IP packet, checked against what the vnet header says of it."""
    ip = parse_ip(packet)
    if ip.protocol != protocol or ip.is_fragment:
        got = f"protocol {ip.protocol}{', a fragment' if ip.is_fragment else ''}"
        raise Malformed("gso", got=got, want=f"a whole {protocol.name} packet")
    if vnet.csum_start != ip.header_len:
        raise Malformed("gso", got=f"csum_start {vnet.csum_start}", want=f"{ip.header_len}, the IP header's length")
    return ip


def _starts(payload_len: int, vnet: VnetHeader) -> range:
    """Where in the payload each segment begins; there is at least one, and none is empty."""
    if not vnet.gso_size or not payload_len:
        raise Malformed("gso", got=f"{payload_len} bytes in segments of {vnet.gso_size}", want="more than none")
    return range(0, payload_len, vnet.gso_size)


def _finished(header: bytearray, ip: IP, index: int, payload: Buffer, csum_offset: int) -> bytes:
    """The segment number `index`: lengths, identification and checksums set in `header`, which is ours to change."""
    layer4_len = len(header) - ip.header_len + len(payload)
    if isinstance(ip, IPv4):
        _WORD.pack_into(header, 4, (ip.identification + index) & 0xFFFF)
    set_payload_len(header, ip.header_len, layer4_len)
    at = ip.header_len + csum_offset
    _WORD.pack_into(header, at, 0)
    total = pseudo_sum(ip.source, ip.destination, ip.protocol, layer4_len) + sum16(header[ip.header_len :])
    field = checksum(payload, total)
    _WORD.pack_into(header, at, field or 0xFFFF if ip.protocol == Protocol.UDP else field)
    return b"".join((header, payload))

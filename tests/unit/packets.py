# SPDX-License-Identifier: BSD-3-Clause
"""Packets for tests: addresses, trains of them, and a slow look at every checksum, with no code of ours in it."""

from ts4nsnet.packet import TCP, UDP, IPv4, IPv6, carry
from ts4nsnet.uring.segment import VnetFlag, VnetHeader

A4, B4 = bytes([100, 64, 0, 1]), bytes([100, 64, 0, 2])
A6, B6 = bytes.fromhex("fd7a115ca1e000000000000000000001"), bytes.fromhex("fd7a115ca1e000000000000000000002")

FLOW4 = IPv4(A4, B4, 0, identification=0xFFFE)
FLOW6 = IPv6(A6, B6, 0, flow_label=0x12345)


def slow_sum(data: bytes) -> int:
    """RFC 1071, word by word, as the RFC's own C code does it."""
    total = 0
    padded = data + b"\0" * (len(data) % 2)
    for at in range(0, len(padded), 2):
        total += padded[at] << 8 | padded[at + 1]
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def intact(packet: bytes, layer4: int = 0) -> bool:
    """Whether all lengths and checksums of an IPv4 or IPv6 packet are right, the pseudo-headers as the RFCs draw them.

    `layer4` is where layer 4 begins, if it is behind one IPv6 extension header. ICMPv4 has no pseudo-header, and other
    protocols than TCP, UDP and ICMPv6 have no checksum that is looked at.
    """
    if packet[0] >> 4 == 4:
        header_len = (packet[0] & 15) * 4
        protocol, segment = packet[9], packet[header_len:]
        pseudo = packet[12:20] + bytes([0, protocol]) + len(segment).to_bytes(2, "big")
        right = slow_sum(packet[:header_len]) == 0xFFFF and int.from_bytes(packet[2:4], "big") == len(packet)
    else:
        protocol, segment = packet[40 if layer4 > 40 else 6], packet[layer4 or 40 :]
        pseudo = packet[8:40] + len(segment).to_bytes(4, "big") + bytes([0, 0, 0, protocol])
        right = int.from_bytes(packet[4:6], "big") == len(packet) - 40
    if protocol == 17:
        right = right and int.from_bytes(segment[4:6], "big") == len(segment) and segment[6:8] != b"\0\0"
    if protocol == 1:
        pseudo = b""
    return right and (protocol not in {1, 6, 17, 58} or slow_sum(pseudo + segment) == 0xFFFF)


def frame(packet: bytes, vnet: VnetHeader | None = None) -> bytes:
    """A frame as a TUN gives and takes it; without a vnet header's content, the packet is complete."""
    return (vnet or VnetHeader()).emit() + packet


def superpacket(ip: IPv4 | IPv6, inner: TCP | UDP, gso_type: int, gso_size: int, hdr_len: int = 0) -> bytes:
    """The frame that the kernel would give for `inner` in pieces of `gso_size` bytes.

    The checksum field holds the pseudo-header's sum over the whole length, not complemented.
    """
    packet = bytearray(carry(ip, inner))
    start, offset = ip.header_len, 16 if isinstance(inner, TCP) else 6
    protocol = 6 if isinstance(inner, TCP) else 17
    pseudo = ip.source + ip.destination + (len(packet) - start).to_bytes(4, "big") + bytes([0, 0, 0, protocol])
    packet[start + offset : start + offset + 2] = slow_sum(pseudo).to_bytes(2, "big")
    return frame(bytes(packet), VnetHeader(VnetFlag.NEEDS_CSUM, gso_type, hdr_len, gso_size, start, offset))


def with_byte(data: bytes, at: int, value: int) -> bytes:
    """`data` with one byte replaced."""
    return data[:at] + bytes([value]) + data[at + 1 :]

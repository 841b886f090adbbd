# SPDX-License-Identifier: BSD-3-Clause
"""The answering half of STUN: tells a client which address its datagrams come from.

    request    0001 0014 2112a442 transaction(12)  8022 0008 "tailnode"  8028 0004 crc32 ^ 5354554e
    response   0101 000c 2112a442 transaction(12)  0020 0008 00 family port^2112 address^(cookie, transaction)

Only a Tailscale client's request is answered: SOFTWARE is "tailnode" and a right FINGERPRINT ends it, as the reference
server wants. So nobody can use us to send more bytes to a third party than he sends himself; all else is dropped.

Source: RFC 5389, sections 6, 15.2, 15.5; paths.md 8.
"""

import struct
import zlib
from ipaddress import IPv4Address, IPv6Address, ip_address

MAGIC_COOKIE = 0x2112A442
HEADER = struct.Struct(">HHI12s")  # type, length of what follows, cookie, transaction
ATTRIBUTE = struct.Struct(">HH")  # type, length
BINDING_REQUEST, BINDING_SUCCESS = 0x0001, 0x0101
XOR_MAPPED_ADDRESS, SOFTWARE, FINGERPRINT = 0x0020, 0x8022, 0x8028
CLIENT_SOFTWARE = b"tailnode"
FINGERPRINT_MASK = 0x5354554E
FINGERPRINT_BYTES = 8  # with its header
MAX_REQUEST_BYTES = 548  # RFC 5389, 7.1: what fits without knowing the path's MTU

Address = IPv4Address | IPv6Address


def answer(datagram: bytes, host: str, port: int) -> bytes | None:
    """The response to a datagram that came from `host`, `port`; None for what gets no answer."""
    transaction = parse_request(datagram)
    if transaction is None:
        return None
    address = ip_address(host)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return response(transaction, mapped or address, port)


def parse_request(datagram: bytes) -> bytes | None:
    """The transaction id of a client's binding request; None for anything else."""
    if not HEADER.size + FINGERPRINT_BYTES <= len(datagram) <= MAX_REQUEST_BYTES:
        return None
    kind, length, cookie, transaction = HEADER.unpack_from(datagram)
    if kind != BINDING_REQUEST or cookie != MAGIC_COOKIE or length != len(datagram) - HEADER.size:
        return None
    attributes = _attributes(datagram[HEADER.size :])
    if (SOFTWARE, CLIENT_SOFTWARE) not in attributes or not attributes or attributes[-1][0] != FINGERPRINT:
        return None
    checksum = zlib.crc32(datagram[:-FINGERPRINT_BYTES]) ^ FINGERPRINT_MASK
    return bytes(transaction) if attributes[-1][1] == checksum.to_bytes(4, "big") else None


def response(transaction: bytes, address: Address, port: int) -> bytes:
    """A success response that names this address."""
    cookie = MAGIC_COOKIE.to_bytes(4, "big")
    packed = bytes(each ^ mask for each, mask in zip(address.packed, cookie + transaction, strict=False))
    family = 1 if address.version == 4 else 2
    value = struct.pack(">BBH", 0, family, port ^ (MAGIC_COOKIE >> 16)) + packed
    attribute = ATTRIBUTE.pack(XOR_MAPPED_ADDRESS, len(value)) + value
    return HEADER.pack(BINDING_SUCCESS, len(attribute), MAGIC_COOKIE, transaction) + attribute


def _attributes(body: bytes) -> list[tuple[int, bytes]]:
    """The attributes of a message; none at all if one of them does not fit."""
    found: list[tuple[int, bytes]] = []
    while body:
        if len(body) < ATTRIBUTE.size:
            return []
        kind, length = ATTRIBUTE.unpack_from(body)
        value = body[ATTRIBUTE.size : ATTRIBUTE.size + length]
        if len(value) < length:
            return []
        found.append((kind, value))
        body = body[ATTRIBUTE.size + (length + 3) // 4 * 4 :]
    return found

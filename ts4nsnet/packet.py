# SPDX-License-Identifier: BSD-3-Clause
"""IP, UDP, TCP and ICMP: a packet's bytes become values, and values become packets with right checksums.

`parse` is the door for untrusted bytes: it checks every length once and raises `Malformed`, nothing else. What it
gives is a value; `emit` makes the bytes again, lengths and checksums computed, so `parse(emit(value)) == value`.
`emit` trusts its value: fields in their ranges, no more than 65535 bytes in all.

    ip = parse_ip(data)                 IPv4 | IPv6; `ip.payload` is data[ip.header_len:total length]
    udp = UDP.parse(ip.payload)         only if `ip.protocol` says so and `ip.fragment_offset` is 0
    data = carry(ip, udp)               the whole packet again
    data = clamp_mss(data, 1280)        what a TCP connection may begin with

A payload is a slice of what was parsed: give a memoryview and nothing is copied. Bytes behind the packet's own length
are padding and ignored. Checksums are not verified by `parse` (the kernel does it; `checksum_ok` where we must).

The checksum (RFC 1071) is the complement of a sum of 16-bit words with end-around carry. Since 2^16 = 1 modulo 65535,
that sum is the data, read as one big number, modulo 65535: one division instead of a loop over words.

Values are named tuples, not dataclasses: several are made for each packet, at a quarter of a frozen dataclass's cost.

Limits: with an IPv6 routing header that is not used up, the pseudo-header would need the last hop's address; we take
the header's. Jumbograms (RFC 2675) are malformed here.
Source: RFC 791, 8200, 768, 9293, 792, 4443.
"""

import struct
from enum import IntEnum
from typing import NamedTuple, Self

from ts4nsnet.errors import Ts4nsnetError

Buffer = bytes | bytearray | memoryview

IPV4_HEADER_BYTES = 20  # without options
IPV6_HEADER_BYTES = 40  # without extension headers
UDP_HEADER_BYTES = 8
TCP_HEADER_BYTES = 20  # without options
ICMP_HEADER_BYTES = 8

# ours: a chain as long as the packet would cost a thousand steps
MAX_EXTENSION_HEADERS = 8

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")
_TCP = struct.Struct("!HHIIHHHH")
_ICMP = struct.Struct("!BBH4s")
_WORD = struct.Struct("!H")


class Protocol(IntEnum):
    """What an IP header's protocol (IPv6: next header) field says, as far as we must know it."""

    HOP_BY_HOP = 0
    ICMP = 1
    TCP = 6
    UDP = 17
    ROUTING = 43
    FRAGMENT = 44
    AUTHENTICATION = 51
    ICMPV6 = 58
    NO_NEXT_HEADER = 59
    DESTINATION_OPTIONS = 60
    MOBILITY = 135
    HOST_IDENTITY = 139
    SHIM6 = 140


# headers that another one follows, and the unit (bytes beyond the first 8) that their length field counts
_EXTENSIONS: dict[int, int] = {0: 8, 43: 8, 44: 0, 51: 4, 60: 8, 135: 8, 139: 8, 140: 8}


class PacketError(Ts4nsnetError):
    """The root of this module's errors."""


class Malformed(PacketError):
    """Bytes that are no such packet; `what` labels the counter."""

    def __init__(self, what: str, *, got: object, want: object) -> None:
        super().__init__(f"{what}: got {got}, want {want}")
        self.what = what


# --- checksums ---


def fold(total: int) -> int:
    """The ones' complement sum that `total` stands for: 1 to 65535, and 0 only for 0."""
    return total % 0xFFFF or (0xFFFF if total else 0)


def sum16(data: Buffer) -> int:
    """The ones' complement sum of `data` as big-endian 16-bit words; an odd last byte is followed by a zero one."""
    total = fold(int.from_bytes(data, "big"))
    return fold(total << 8) if len(data) & 1 else total


def checksum(data: Buffer, initial: int = 0) -> int:
    """The internet checksum of `data`, whose own checksum field must be zero; `initial` is added to the sum."""
    return 0xFFFF - fold(initial + sum16(data))


def pseudo_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum, not folded, of the pseudo-header that UDP, TCP and ICMPv6 checksums cover; `length` is layer 4's."""
    return int.from_bytes(source + destination, "big") + protocol + length


def checksum_ok(ip: "IP") -> bool:
    """Whether the UDP, TCP or ICMPv6 checksum in `ip` is right. A UDP field of 0 (none was made) counts as wrong."""
    total = pseudo_sum(ip.source, ip.destination, ip.protocol, len(ip.payload)) + sum16(ip.payload)
    return total % 0xFFFF == 0


# --- layer 3 ---


class IPv4(NamedTuple):
    """An IPv4 packet."""

    source: bytes  # 4 bytes
    destination: bytes
    protocol: int
    payload: Buffer = b""
    ttl: int = 64
    traffic_class: int = 0  # TOS: DSCP and ECN
    identification: int = 0
    flags: int = 0  # 4 reserved, 2 don't fragment, 1 more fragments
    fragment_offset: int = 0  # bytes, a multiple of 8
    options: bytes = b""  # as they are, a multiple of 4 bytes

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read an IPv4 packet; raises `Malformed`."""
        if len(data) < IPV4_HEADER_BYTES:
            raise Malformed("ipv4", got=f"{len(data)} bytes", want=f"at least {IPV4_HEADER_BYTES}")
        first, tos, total_len, identification, fragment, ttl, protocol, _, source, destination = _IPV4.unpack_from(data)
        header_len = (first & 0x0F) * 4
        if first >> 4 != 4 or not IPV4_HEADER_BYTES <= header_len <= total_len <= len(data):
            got = f"version {first >> 4}, header {header_len}, total {total_len}"
            raise Malformed("ipv4", got=got, want=f"4, 20 <= header <= total <= {len(data)}")
        options = bytes(data[IPV4_HEADER_BYTES:header_len])
        rest = (identification, fragment >> 13, (fragment & 0x1FFF) * 8, options)
        return cls(source, destination, protocol, data[header_len:total_len], ttl, tos, *rest)

    @property
    def header_len(self) -> int:
        """Bytes before the payload."""
        return IPV4_HEADER_BYTES + len(self.options)

    @property
    def is_fragment(self) -> bool:
        """Whether more of the datagram is elsewhere."""
        return self.flags & 1 != 0 or self.fragment_offset != 0

    def emit(self) -> bytes:
        """The packet's bytes."""
        size = self.header_len
        fragment = self.flags << 13 | self.fragment_offset // 8
        before = (0x40 | size // 4, self.traffic_class, 0, self.identification, fragment, self.ttl, self.protocol, 0)
        header = bytearray(_IPV4.pack(*before, self.source, self.destination) + self.options)
        set_payload_len(header, size, len(self.payload))
        return b"".join((header, self.payload))


class Extension(NamedTuple):
    """An IPv6 extension header."""

    kind: int  # `Protocol.FRAGMENT` etc.: its own number, which stands in the header before it
    body: bytes  # all but its first byte, which is the number of the next header

    @property
    def fragment(self) -> int:
        """Of a fragment header: offset in bytes (a multiple of 8), plus 1 if more fragments follow."""
        return int.from_bytes(self.body[1:3], "big") & 0xFFF9


class IPv6(NamedTuple):
    """An IPv6 packet."""

    source: bytes  # 16 bytes
    destination: bytes
    protocol: int  # behind all extension headers
    payload: Buffer = b""  # likewise
    ttl: int = 64  # hop limit
    traffic_class: int = 0  # DSCP and ECN
    flow_label: int = 0
    extensions: tuple[Extension, ...] = ()

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read an IPv6 packet; raises `Malformed`."""
        if len(data) < IPV6_HEADER_BYTES:
            raise Malformed("ipv6", got=f"{len(data)} bytes", want=f"at least {IPV6_HEADER_BYTES}")
        first, payload_len, protocol, ttl, source, destination = _IPV6.unpack_from(data)
        end = IPV6_HEADER_BYTES + payload_len
        if first >> 28 != 6 or end > len(data):
            got = f"version {first >> 28}, total {end}"
            raise Malformed("ipv6", got=got, want=f"6, at most {len(data)} bytes")
        payload = data[IPV6_HEADER_BYTES:end]
        extensions: tuple[Extension, ...] = ()
        if protocol in _EXTENSIONS:
            extensions, protocol, payload = _parse_extensions(protocol, payload)
        return cls(source, destination, protocol, payload, ttl, first >> 20 & 0xFF, first & 0xFFFFF, extensions)

    @property
    def header_len(self) -> int:
        """Bytes before the payload, extension headers included."""
        return IPV6_HEADER_BYTES + sum(1 + len(extension.body) for extension in self.extensions)

    @property
    def fragment_offset(self) -> int:
        """Where in its datagram the payload begins; unless this is 0, it does not begin with a header."""
        return self._fragment & 0xFFF8

    @property
    def is_fragment(self) -> bool:
        """Whether more of the datagram is elsewhere."""
        return self._fragment != 0

    @property
    def _fragment(self) -> int:
        return next((each.fragment for each in self.extensions if each.kind == Protocol.FRAGMENT), 0)

    def emit(self) -> bytes:
        """The packet's bytes."""
        first = 6 << 28 | self.traffic_class << 20 | self.flow_label
        kinds = [*(extension.kind for extension in self.extensions), self.protocol]
        payload_len = self.header_len - IPV6_HEADER_BYTES + len(self.payload)
        header = _IPV6.pack(first, payload_len, kinds[0], self.ttl, self.source, self.destination)
        chain = [bytes([kind]) + each.body for kind, each in zip(kinds[1:], self.extensions, strict=True)]
        return b"".join((header, *chain, self.payload))


IP = IPv4 | IPv6


def _parse_extensions(kind: int, data: Buffer) -> tuple[tuple[Extension, ...], int, Buffer]:
    """The extension headers that begin with one of `kind`; the protocol behind them; what is left of `data`.

    Behind the header of a later fragment nothing can be read: its payload is the middle of something.
    """
    found: list[Extension] = []
    while kind in _EXTENSIONS and not (found and found[-1].kind == Protocol.FRAGMENT and found[-1].fragment & 0xFFF8):
        if len(data) < 8 or len(found) == MAX_EXTENSION_HEADERS:
            got = f"{len(data)} bytes for header {len(found) + 1}"
            raise Malformed("ipv6", got=got, want=f"at least 8, at most {MAX_EXTENSION_HEADERS} headers")
        size = 8 + data[1] * _EXTENSIONS[kind]
        if len(data) < size:
            raise Malformed("ipv6", got=f"an extension header of {size} bytes", want=f"at most {len(data)}")
        found.append(Extension(kind, bytes(data[1:size])))
        kind = data[0]
        data = data[size:]
    return tuple(found), kind, data


def parse_ip(data: Buffer) -> IP:
    """Read a packet of either version; raises `Malformed`."""
    return IPv6.parse(data) if data and data[0] >> 4 == 6 else IPv4.parse(data)


class Inner(NamedTuple):
    """What WireGuard must know of a packet inside a transport message; cheaper than `parse_ip`."""

    length: int  # without padding
    source: bytes  # 4 or 16 bytes
    destination: bytes

    @classmethod
    def parse(cls, plaintext: Buffer) -> Self:
        """Read a decrypted packet with its padding; raises `Malformed`, also for a keep-alive (no bytes)."""
        room = len(plaintext)
        version = plaintext[0] >> 4 if room else 0
        if version == 4 and room >= IPV4_HEADER_BYTES:
            length = plaintext[2] << 8 | plaintext[3]
            if IPV4_HEADER_BYTES <= length <= room:
                return cls(length, bytes(plaintext[12:16]), bytes(plaintext[16:20]))
        elif version == 6 and room >= IPV6_HEADER_BYTES:
            length = IPV6_HEADER_BYTES + (plaintext[4] << 8 | plaintext[5])
            if length <= room:
                return cls(length, bytes(plaintext[8:24]), bytes(plaintext[24:40]))
        raise Malformed("inner", got=f"version {version} in {room} bytes", want="a whole IPv4 or IPv6 packet")


def set_payload_len(header: bytearray, header_len: int, payload_len: int) -> None:
    """Fit the IP header that fills the first `header_len` bytes of `header` to another payload.

    IPv4: total length and header checksum. IPv6: payload length, which counts the extension headers.
    """
    if header[0] >> 4 == 6:
        _WORD.pack_into(header, 4, header_len - IPV6_HEADER_BYTES + payload_len)
        return
    _WORD.pack_into(header, 2, header_len + payload_len)
    _WORD.pack_into(header, 10, 0)
    _WORD.pack_into(header, 10, checksum(header[:header_len]))


# --- layer 4 ---


class UDP(NamedTuple):
    """A UDP datagram."""

    source_port: int
    destination_port: int
    payload: Buffer = b""
    has_checksum: bool = True  # without one the field is 0; IPv6 does not allow it

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read a datagram from an IP payload; raises `Malformed`."""
        if len(data) < UDP_HEADER_BYTES:
            raise Malformed("udp", got=f"{len(data)} bytes", want=f"at least {UDP_HEADER_BYTES}")
        source_port, destination_port, length, field = _UDP.unpack_from(data)
        if not UDP_HEADER_BYTES <= length <= len(data):
            raise Malformed("udp", got=f"length {length}", want=f"{UDP_HEADER_BYTES} to {len(data)}")
        return cls(source_port, destination_port, data[UDP_HEADER_BYTES:length], field != 0)

    def emit(self, source: bytes, destination: bytes) -> bytes:
        """The datagram's bytes between these addresses."""
        length = UDP_HEADER_BYTES + len(self.payload)
        field = 0
        if self.has_checksum:
            total = pseudo_sum(source, destination, Protocol.UDP, length) + self.source_port + self.destination_port
            field = checksum(self.payload, total + length) or 0xFFFF
        return b"".join((_UDP.pack(self.source_port, self.destination_port, length, field), self.payload))


FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))


class TCP(NamedTuple):
    """A TCP segment."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgement: int = 0
    flags: int = ACK  # 12 bits, the reserved ones (and AE) included
    window: int = 0xFFFF
    payload: Buffer = b""
    options: bytes = b""  # as they are, a multiple of 4 bytes
    urgent: int = 0

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read a segment from an IP payload; raises `Malformed`."""
        if len(data) < TCP_HEADER_BYTES:
            raise Malformed("tcp", got=f"{len(data)} bytes", want=f"at least {TCP_HEADER_BYTES}")
        source, destination, sequence, acknowledgement, word, window, _, urgent = _TCP.unpack_from(data)
        header_len = (word >> 12) * 4
        if not TCP_HEADER_BYTES <= header_len <= len(data):
            raise Malformed("tcp", got=f"header of {header_len} bytes", want=f"{TCP_HEADER_BYTES} to {len(data)}")
        options = bytes(data[TCP_HEADER_BYTES:header_len])
        rest = (word & 0xFFF, window, data[header_len:], options, urgent)
        return cls(source, destination, sequence, acknowledgement, *rest)

    @property
    def header_len(self) -> int:
        """Bytes before the payload."""
        return TCP_HEADER_BYTES + len(self.options)

    def emit(self, source: bytes, destination: bytes) -> bytes:
        """The segment's bytes between these addresses."""
        word = self.header_len // 4 << 12 | self.flags
        segment = bytearray(_TCP.pack(*self[:4], word, self.window, 0, self.urgent) + self.options) + self.payload
        total = pseudo_sum(source, destination, Protocol.TCP, len(segment))
        _WORD.pack_into(segment, 16, checksum(segment, total))
        return bytes(segment)


class ICMP(NamedTuple):
    """An ICMP or ICMPv6 message."""

    type: int
    code: int
    rest: bytes = bytes(4)  # identifier and sequence number, or the MTU, or unused
    payload: Buffer = b""

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Read a message from an IP payload; raises `Malformed`."""
        if len(data) < ICMP_HEADER_BYTES:
            raise Malformed("icmp", got=f"{len(data)} bytes", want=f"at least {ICMP_HEADER_BYTES}")
        kind, code, _, rest = _ICMP.unpack_from(data)
        return cls(kind, code, rest, data[ICMP_HEADER_BYTES:])

    def emit(self, source: bytes, destination: bytes) -> bytes:
        """The message's bytes between these addresses; only ICMPv6's checksum covers them."""
        message = bytearray(_ICMP.pack(self.type, self.code, 0, self.rest)) + self.payload
        total = pseudo_sum(source, destination, Protocol.ICMPV6, len(message)) if len(source) == 16 else 0
        _WORD.pack_into(message, 2, checksum(message, total))
        return bytes(message)


def carry(ip: IP, inner: UDP | TCP | ICMP) -> bytes:
    """The bytes of a packet like `ip` with `inner` as its payload; its protocol follows."""
    protocol = Protocol.UDP if isinstance(inner, UDP) else Protocol.TCP
    if isinstance(inner, ICMP):
        protocol = Protocol.ICMP if isinstance(ip, IPv4) else Protocol.ICMPV6
    return ip._replace(protocol=protocol, payload=inner.emit(ip.source, ip.destination)).emit()


# --- the maximum segment size ---

_MSS_OPTION = b"\2\4"  # kind, length
_OPTION_END, _OPTION_NOTHING = 0, 1


def clamp_mss(packet: bytes, mtu: int) -> bytes:
    """The packet itself; or, of a SYN that offers longer segments than fit into `mtu`, a copy that offers fewer bytes.

    Each end of a TCP connection takes that number from its own link, which may be wider than the path. The checksum
    must be complete, and is so in the copy. A SYN that offers nothing is left alone: what the other end then takes,
    536 bytes or 1220, fits anywhere. Source: RFC 9293 3.7.1, RFC 6691, RFC 1624.
    """
    start = _tcp_start(packet)
    if not start or not packet[start + 13] & SYN:
        return packet
    at = _mss_at(packet, start)
    limit = mtu - TCP_HEADER_BYTES - (IPV6_HEADER_BYTES if packet[0] >> 4 == 6 else IPV4_HEADER_BYTES)
    if not at or (offered := packet[at] << 8 | packet[at + 1]) <= limit:
        return packet
    (field,) = _WORD.unpack_from(packet, start + 16)
    # a number at an odd offset lies across two words of the sum
    total = 0xFFFF - field + (limit - offered) * (256 if (at - start) & 1 else 1)
    copy = bytearray(packet)
    _WORD.pack_into(copy, at, limit)
    _WORD.pack_into(copy, start + 16, 0xFFFF - (total % 0xFFFF or 0xFFFF))
    return bytes(copy)


def _tcp_start(packet: bytes) -> int:
    """Where the TCP header begins; 0 if there is none, or one behind IPv6 extension headers."""
    if len(packet) < IPV4_HEADER_BYTES + TCP_HEADER_BYTES:
        return 0
    if packet[0] >> 4 == 6:
        protocol, start = packet[6], IPV6_HEADER_BYTES
    elif packet[6] & 0x1F or packet[7]:
        return 0  # a later fragment
    else:
        protocol, start = packet[9], (packet[0] & 0x0F) * 4
    is_whole = IPV4_HEADER_BYTES <= start <= len(packet) - TCP_HEADER_BYTES
    return start if protocol == Protocol.TCP and is_whole else 0


def _mss_at(packet: bytes, start: int) -> int:
    """Where the number in the TCP header's first such option is; 0 if there is none."""
    at, end = start + TCP_HEADER_BYTES, min(start + (packet[start + 12] >> 4) * 4, len(packet))
    while at < end and packet[at] != _OPTION_END:
        if packet[at] == _OPTION_NOTHING:
            at += 1
            continue
        size = packet[at + 1] if at + 1 < end else 0
        if size < 2 or at + size > end:
            return 0
        if packet[at : at + 2] == _MSS_OPTION:
            return at + 2
        at += size
    return 0

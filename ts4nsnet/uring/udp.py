# SPDX-License-Identifier: BSD-3-Clause
"""The UDP socket under the tunnel: opaque endpoints, and many datagrams per system call.

One IPv6 socket serves both families (IPv4 peers appear as ::ffff:a.b.c.d); where IPv6 is off an IPv4 one has to do.

WireGuard sees 32 opaque bytes instead of an address:

     0                              16      18      20          24               32
    ┌───────────────────────────────┬───────┬───────┬───────────┬────────────────┐
    │ IPv6 or IPv4-mapped address   │ port  │ zero  │ zone      │ zero           │   big-endian
    └───────────────────────────────┴───────┴───────┴───────────┴────────────────┘

Where the kernel refuses a train, its datagrams go one by one. EMSGSIZE (before Linux 6.14: EINVAL) says that they are
longer than this path's MTU, so that IP has to fragment them; EIO, that the device cannot make the checksums, or that
IPsec is on the way: sending in trains (UDP_SEGMENT) is then given up for good.

Source: udp(7), ipv6(7); sizes and errors as measured on Linux 6.18.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache

from ts4nsnet.uring.counters import Counters, Drop
from ts4nsnet.uring.trains import Train

UDP_SEGMENT = 103  # SOL_UDP options, include/uapi/linux/udp.h
UDP_GRO = 104

# ours: bytes; about 60 ms at 1 Gbit/s. The kernel gives at most net.core.{r,w}mem_max unless we may force it
SOCKET_BUFFER_BYTES = 7 << 20
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
RECEIVE_BYTES = 65535  # no train is longer
# ours: of one batch, so that the other direction gets its turn; 2 MiB gave no more throughput, but round trips under
# load took twice the time (perf/engine)
MAX_BATCH_TRAINS = 32
MAX_BATCH_BYTES = 64 << 10

_GRO_SIZE = struct.Struct("=i")
_GSO_SIZE = struct.Struct("=H")
_ENDPOINT = struct.Struct("!16sH2xI8x")
_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_ANCILLARY_BYTES = socket.CMSG_SPACE(_GRO_SIZE.size)

Address = tuple[str, int] | tuple[str, int, int, int]


@lru_cache(maxsize=4096)
def to_endpoint(address: Address) -> bytes:
    """The 32 bytes for a numeric socket address of either family; raises OSError for a text that is none."""
    host, port = address[:2]
    if ":" in host:
        zone = address[3] if len(address) == 4 else 0
        return _ENDPOINT.pack(socket.inet_pton(socket.AF_INET6, host.partition("%")[0]), port, zone)
    return _ENDPOINT.pack(_IPV4_MAPPED + socket.inet_pton(socket.AF_INET, host), port, 0)


@lru_cache(maxsize=4096)
def from_endpoint(endpoint: bytes, family: int) -> Address:
    """The socket address in `endpoint`, for a socket of `family`; raises OSError for IPv6 on an IPv4 socket."""
    host, port, zone = _ENDPOINT.unpack(endpoint)
    if family == socket.AF_INET6:
        return socket.inet_ntop(socket.AF_INET6, host), port, 0, zone
    if not host.startswith(_IPV4_MAPPED):
        raise OSError(errno.EAFNOSUPPORT, "an IPv6 endpoint, but IPv6 is off on this host")
    return socket.inet_ntop(socket.AF_INET, host[12:]), port


def open_socket(port: int) -> socket.socket:
    """A non-blocking UDP socket at `port` (0: any) on all addresses of this network namespace; raises OSError."""
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for force, ask in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, ask, SOCKET_BUFFER_BYTES)
        with suppress(OSError):  # kernels before 5.0: trains then do not come
            sock.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
        sock.bind(("", port))
    except OSError:
        sock.close()
        raise
    return sock


class UdpPort:
    """A socket of `open_socket`, read and written in trains; counts into `counters`."""

    def __init__(self, sock: socket.socket, counters: Counters) -> None:
        self._sock = sock
        self._counters = counters
        self._buffer = bytearray(RECEIVE_BYTES)
        try:
            sock.getsockopt(socket.SOL_UDP, UDP_SEGMENT)
            self._segments = True
        except OSError:
            self._segments = False

    def receive(self) -> Iterator[Train]:
        """What has come, at most a batch; each train is overwritten by the next."""
        view = memoryview(self._buffer)
        batch_bytes = 0
        for _ in range(MAX_BATCH_TRAINS):
            try:
                size, ancillary, _, address = self._sock.recvmsg_into([view], _ANCILLARY_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error about something we have sent; WireGuard's timers know better
            segment_bytes = 0
            for level, kind, data in ancillary:
                if level == socket.SOL_UDP and kind == UDP_GRO:
                    (segment_bytes,) = _GRO_SIZE.unpack(data)
            yield Train.received(view[:size], segment_bytes, to_endpoint(address))
            batch_bytes += size
            if batch_bytes > MAX_BATCH_BYTES:
                return

    def send(self, train: Train) -> Train | None:
        """Send a train; returns what there was no room for, to be sent once the socket is writable, or None.

        What cannot be sent at all is dropped and counted.
        """
        if train.datagram_count == 1 or self._segments:
            try:
                self._send(train)
            except BlockingIOError:
                return train
            except OSError as error:
                if train.datagram_count == 1 or error.errno not in (errno.EIO, errno.EINVAL, errno.EMSGSIZE):
                    self._refused(error, train.datagram_count)
                    return None
                self._segments = error.errno != errno.EIO
            else:
                return None
        for sent, datagram in enumerate(train.payload):
            try:
                self._send(Train((datagram,), len(datagram), 1, train.endpoint))
            except BlockingIOError:
                return train._replace(payload=train.payload[sent:], datagram_count=train.datagram_count - sent)
            except OSError as error:
                self._refused(error, 1)
        return None

    def _send(self, train: Train) -> None:
        control = []
        if train.datagram_count > 1:
            control = [(socket.SOL_UDP, UDP_SEGMENT, _GSO_SIZE.pack(train.segment_bytes))]
        self._sock.sendmsg(train.payload, control, 0, from_endpoint(train.endpoint, self._sock.family))

    def _refused(self, error: OSError, datagrams: int) -> None:
        reason = Drop.SEND_TOO_BIG if error.errno == errno.EMSGSIZE else Drop.SEND_FAILED
        self._counters.dropped[reason] += datagrams

# SPDX-License-Identifier: BSD-3-Clause
"""The UDP socket under the tunnel: many datagrams per system call.

Where the kernel refuses a train, its datagrams go one by one. EMSGSIZE (before Linux 6.14: EINVAL) says that they are
longer than this path's MTU, so that IP has to fragment them; EIO, that the device cannot make the checksums, or that
IPsec is on the way: sending in trains (UDP_SEGMENT) is then given up for good. Anything else costs the datagrams, and
is counted: EPERM (a firewall's) and ENOBUFS apart from others.

Source: udp(7), ipv6(7); sizes and errors as measured on Linux 6.18.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from ts4nsnet.endpoint import from_endpoint, to_endpoint
from ts4nsnet.sockets import UDP_GRO
from ts4nsnet.uring.counters import Counters, Drop
from ts4nsnet.uring.offloads import Offload, Offloads
from ts4nsnet.uring.trains import Train

UDP_SEGMENT = 103  # SOL_UDP option, include/uapi/linux/udp.h
RECEIVE_BYTES = 65535  # no train is longer
# ours: of one batch, so that the other direction gets its turn; 2 MiB gave no more throughput, but round trips under
# load took twice the time
MAX_BATCH_TRAINS = 32
MAX_BATCH_BYTES = 64 << 10

_GRO_SIZE = struct.Struct("=i")
_GSO_SIZE = struct.Struct("=H")
_ANCILLARY_BYTES = socket.CMSG_SPACE(_GRO_SIZE.size)
_REASONS = {
    errno.EMSGSIZE: Drop.SEND_TOO_BIG,
    errno.EPERM: Drop.SEND_FORBIDDEN,
    errno.ENOBUFS: Drop.SEND_NO_BUFFERS,
}


class UdpPort:
    """A socket of `sockets.open_socket`, read and written in trains.

    Args:
        sock: the socket.
        counters: count what is dropped.
        offloads: say whether there are trains; what the kernel says of it is said to them.
    """

    def __init__(self, sock: socket.socket, counters: Counters, offloads: Offloads) -> None:
        self._sock = sock
        self._counters = counters
        self._offloads = offloads
        self._buffer = bytearray(RECEIVE_BYTES)
        try:
            sock.getsockopt(socket.SOL_UDP, UDP_SEGMENT)
        except OSError as error:
            offloads.lack(Offload.UDP_GSO, error.errno or 0)

    def use_offloads(self) -> None:
        """Have the kernel merge what comes, or not. What it has merged already comes without its size then."""
        merges = self._offloads.uses(Offload.UDP_GRO)
        try:
            self._sock.setsockopt(socket.SOL_UDP, UDP_GRO, merges)
        except OSError as error:
            if merges:
                self._offloads.lack(Offload.UDP_GRO, error.errno or 0)

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
        if train.datagram_count == 1 or self._offloads.uses(Offload.UDP_GSO):
            try:
                self._send(train)
            except BlockingIOError:
                return train
            except OSError as error:
                if train.datagram_count == 1 or error.errno not in (errno.EIO, errno.EINVAL, errno.EMSGSIZE):
                    self._refused(error, train.datagram_count)
                    return None
                if error.errno == errno.EIO:
                    self._offloads.lose(Offload.UDP_GSO, errno.EIO)
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

    def send_whole(self, datagram: bytes, endpoint: bytes) -> None:
        """Send a datagram that neither we nor a router may take to pieces, or drop it.

        So is one that is sent as if it were a train: longer than what is known of the path, it is refused.
        """
        if self._offloads.works(Offload.UDP_GSO):
            with suppress(OSError):
                self._send(Train((datagram,), len(datagram), 1, endpoint), whole=True)

    def _send(self, train: Train, *, whole: bool = False) -> None:
        control = []
        if train.datagram_count > 1 or whole:
            control = [(socket.SOL_UDP, UDP_SEGMENT, _GSO_SIZE.pack(train.segment_bytes))]
        self._sock.sendmsg(train.payload, control, 0, from_endpoint(train.endpoint, self._sock.family))

    def _refused(self, error: OSError, datagrams: int) -> None:
        self._counters.dropped[_REASONS.get(error.errno or 0, Drop.SEND_FAILED)] += datagrams

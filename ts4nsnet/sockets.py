# SPDX-License-Identifier: BSD-3-Clause
"""The UDP socket under the tunnel, as whoever owns it makes it: the keeper for its node, a node in process for itself.

One IPv6 socket serves both families (IPv4 peers appear as ::ffff:a.b.c.d); where IPv6 is off an IPv4 one has to do.
It takes trains (UDP_GRO) and has room for a burst.

Source: udp(7), ipv6(7), socket(7).
"""

import errno
import socket
from contextlib import suppress

UDP_GRO = 104  # SOL_UDP option, include/uapi/linux/udp.h
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33

# ours: bytes; about 60 ms at 1 Gbit/s. The kernel gives at most net.core.{r,w}mem_max unless we may force it
SOCKET_BUFFER_BYTES = 7 << 20


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

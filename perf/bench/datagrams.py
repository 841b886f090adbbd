# SPDX-License-Identifier: BSD-3-Clause
"""Many numbered datagrams per system call: sendmmsg and recvmmsg, which Python does not have.

iperf3 makes one datagram per call and so needs a processor for itself before a tunnel does. A `Train` holds 64 buffers
and the message headers for them, made once. A datagram begins with its number, eight bytes in the machine's order;
all numbers of a batch are written, and read, by one assignment to a view that steps over the buffers.
"""

import ctypes
import os
from array import array
from errno import EAGAIN, ECONNREFUSED

BATCH = 64  # datagrams; also as many as every kernel cuts out of one message with UDP_SEGMENT
NUMBER_BYTES = 8
MSG_WAITFORONE = 0x10000  # <linux/socket.h>: block for the first only

_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    """struct msghdr"""

    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    """struct mmsghdr"""

    _fields_ = [("header", _Header), ("length", ctypes.c_uint)]


class Train:
    """Buffers for a batch of datagrams of `size` bytes, a multiple of eight."""

    def __init__(self, size: int) -> None:
        if size < NUMBER_BYTES or size % NUMBER_BYTES:
            raise ValueError(f"datagrams of {size} bytes: expected a multiple of {NUMBER_BYTES}")
        self.memory = bytearray(size * BATCH)
        self.numbers = memoryview(self.memory).cast("Q")[:: size // NUMBER_BYTES]
        begin = ctypes.addressof((ctypes.c_char * len(self.memory)).from_buffer(self.memory))
        self._vectors = (_Vector * BATCH)(*(_Vector(begin + number * size, size) for number in range(BATCH)))
        vectors = ctypes.addressof(self._vectors)
        step = ctypes.sizeof(_Vector)
        headers = (_Header(vectors=vectors + number * step, vector_count=1) for number in range(BATCH))
        self._messages = (_Message * BATCH)(*map(_Message, headers))

    def number(self, first: int) -> None:
        """Give the datagrams their numbers."""
        self.numbers[:] = memoryview(array("Q", range(first, first + BATCH)))

    def send(self, fd: int) -> int:
        """Send the batch on a connected socket; how many left."""
        sent: int = _libc.sendmmsg(fd, self._messages, BATCH, 0)
        if sent < 0:
            raise OSError(ctypes.get_errno(), f"sendmmsg: {os.strerror(ctypes.get_errno())}")
        return sent

    def receive(self, fd: int) -> list[int]:
        """Wait for datagrams; the numbers of those that there are, none after the socket's SO_RCVTIMEO."""
        count = -1
        while count < 0:
            count = _libc.recvmmsg(fd, self._messages, BATCH, MSG_WAITFORONE, None)
            if count >= 0 or ctypes.get_errno() == ECONNREFUSED:  # of acknowledgements to who has ended
                continue
            if ctypes.get_errno() == EAGAIN:
                return []
            raise OSError(ctypes.get_errno(), f"recvmmsg: {os.strerror(ctypes.get_errno())}")
        return self.numbers[:count].tolist()

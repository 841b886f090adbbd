# SPDX-License-Identifier: BSD-3-Clause
"""Messages between the netns child and its parent: a line of JSON each, file descriptors beside it.

A stream socket, because a seqpacket message is limited by the send buffer and some thousand routes exceed it. Both ends
are ours and strictly take turns, so no message follows the line's end. See unix(7), SCM_RIGHTS.
"""

import array
import json
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

MAX_FDS = 253  # SCM_MAX_FD
Message = dict[str, Any]


class FdsLost(Exception):
    """Fds that came with a message could not be taken in: RLIMIT_NOFILE."""


def send(sock: socket.socket, message: Message, fds: Sequence[int], give_up_at: float) -> None:
    """Send `message` and `fds` until `give_up_at` (time.monotonic seconds); OSError as by sockets."""
    data = json.dumps(message).encode() + b"\n"
    sock.settimeout(max(0.001, give_up_at - time.monotonic()))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], rights)
    sock.sendall(data[sent:])


def receive(sock: socket.socket, give_up_at: float) -> tuple[Message, list[int]] | None:
    """One message and its fds (closed on exec), or None at the end of file.

    Raises:
        TimeoutError, OSError: as by sockets; no fd is left open.
        FdsLost: the fds are closed.
    """
    data, fds = bytearray(), array.array("i")
    try:
        while not data.endswith(b"\n"):
            sock.settimeout(max(0.001, give_up_at - time.monotonic()))
            room = socket.CMSG_SPACE(MAX_FDS * fds.itemsize)
            chunk, rights, flags, _ = sock.recvmsg(1 << 16, room, socket.MSG_CMSG_CLOEXEC)
            for _, _, payload in rights:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
            if flags & socket.MSG_CTRUNC:
                raise FdsLost  # noqa: TRY301  the fds that did come are closed below
            if not chunk:
                _close(fds)
                return None
            data += chunk
        return json.loads(data), list(fds)
    except BaseException:
        _close(fds)
        raise


def _close(fds: "array.array[int]") -> None:
    for fd in fds:
        os.close(fd)

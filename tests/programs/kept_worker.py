# SPDX-License-Identifier: BSD-3-Clause
"""A worker without an engine, to try keepers with; the keeper starts it as its `worker`.

What it does its engine's name decides: "auto" lives, "uring" crashes, "epoll" has no use on any machine. It counts its
starts in the counters, and says to each node that it gets: what it is, what it was given.
"""

import json
import mmap
import os
import socket
import sys
from select import select

from ts4nsnet.keeper import messages

NAMES = ("tun", "udp", "memory", "counters")


def greet(node: socket.socket, starts: int) -> None:
    """Tell a node about us."""
    files = {name: os.readlink(f"/proc/self/fd/{fd}") for name, fd in zip(NAMES, sys.argv[3:7], strict=True)}
    inode = os.fstat(int(sys.argv[5])).st_ino
    told = {"pid": os.getpid(), "starts": starts, "arguments": sys.argv[7:], "files": files, "memory": inode}
    node.send(json.dumps(told).encode())


def next_node(keeper: socket.socket) -> socket.socket | None:
    """The socket that the keeper has sent; None at its end."""
    data, rights, _, _ = keeper.recvmsg(messages.MAX_MESSAGE_BYTES, messages.ANCILLARY_BYTES)
    if not data:
        return None
    assert json.loads(data) == {"do": "node"}
    (fd,) = messages.received_fds(rights)
    return socket.socket(fileno=fd)


def main() -> None:
    """Be the worker."""
    if sys.argv[8] == "uring":
        raise ValueError("no good")
    if sys.argv[8] == "epoll":
        print("no engine works here", file=sys.stderr)
        sys.exit(2)
    node, keeper = (socket.socket(fileno=int(fd)) for fd in sys.argv[1:3])
    with mmap.mmap(int(sys.argv[6]), 0) as counters:
        starts = counters[0] = counters[0] + 1
    while True:
        greet(node, starts)
        select([keeper], [], [])
        node.close()
        if (following := next_node(keeper)) is None:
            return
        node = following

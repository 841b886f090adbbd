# SPDX-License-Identifier: BSD-3-Clause
"""What a keeper and its node process say to each other: a JSON object per message, file descriptors beside it.

    node → keeper   {"id": 7, "do": "tun"}                   give me the TUN             → name, vnet_hdr, offload + fds
                    {"id": 8, "do": "udp"}                   the socket under the tunnel → an fd
                    {"id": 9, "do": "memory", "size": n}     the session memory          → an fd; the one of before
                    {"id": 10, "do": "netns"}                a netns child               → its socket, its stderr
                    {"id": 11, "do": "counters"}             the workers' counters       → an fd; the same for all
                    {"do": "worker", "engine": "auto"}       let a worker carry the packets; see below
                    {"do": "ready"}                          the container can use the network
                    {"do": "failed", "text": "…"}            why the node ends, or, after a stop, why it was not ready
    keeper → node   {"id": 7, …} with what was asked for, or {"id": 7, "error": [step, namespace, reason, advice]}
                    {"do": "worker"} + fd                    a worker's socket, as there is a new one (or a new node)
                    {"do": "worker", "trouble": "…"}         why the next one is a while in coming
                    {"do": "worker", "error": "…"}           why there will be none
                    {"do": "stop"}                           leave; the end of file means the same

A seqpacket socket: one send is one receive, and its end is seen. Links with thousands of routes do not come this way;
the node has the netns child's own socket for them.

The keeper trusts the container tool, not the node, which talks to the world: what it gets is checked by `parse`.
"""

import array
import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from ts4nsnet.keeper.plan import KeeperError

# ours: bytes; the longest has a line of text
MAX_MESSAGE_BYTES = 65536
MAX_FDS = 253  # SCM_MAX_FD; a TUN with many queues
# ours: characters of a line for the user
MAX_TEXT_CHARACTERS = 2000
# ours: bytes of session memory; 16,384 peers need a tenth of it
MAX_MEMORY_BYTES = 1 << 28
_MAX_ID = 2**53
_REQUESTS = frozenset(("tun", "udp", "memory", "netns", "counters"))
# what a worker can be told to be; it chooses for itself by "auto"
ENGINES = frozenset(("auto", "uring", "epoll"))

Message = dict[str, Any]


class Malformed(KeeperError):
    """A message of the node's is none."""


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send a message and fds; OSError as by sockets, BlockingIOError when there is no room."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([json.dumps(message).encode()], rights)


def receive(sock: socket.socket) -> Message | None:
    """What the node asks or tells, or None at the end of file; fds that come with it are closed.

    Raises:
        Malformed: see `parse`.
        OSError: as by sockets.
    """
    data, rights, _, _ = sock.recvmsg(MAX_MESSAGE_BYTES, ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    for fd in received_fds(rights):
        os.close(fd)
    return parse(data) if data else None


ANCILLARY_BYTES = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


def received_fds(rights: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The fds in what `recvmsg` gives beside the data."""
    fds = array.array("i")
    for level, kind, payload in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return list(fds)


def parse(data: bytes) -> Message:
    """A message of the node's.

    Raises:
        Malformed: it is not one of those above.
    """
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise Malformed("message of the node process: want JSON") from None
    if not isinstance(message, dict):
        raise Malformed("message of the node process: want a JSON object")
    do, number = message.get("do"), message.get("id")
    if do == "ready":
        return {"do": do}
    if do == "failed" and isinstance(message.get("text"), str):
        return {"do": do, "text": _one_line(message["text"])}
    engine = message.get("engine")
    if do == "worker" and isinstance(engine, str) and engine in ENGINES:
        return {"do": do, "engine": engine}
    if not isinstance(do, str) or do not in _REQUESTS or type(number) is not int or not 0 <= number <= _MAX_ID:
        raise Malformed("message of the node process: want one that the keeper knows")
    if do != "memory":
        return {"do": do, "id": number}
    size = message.get("size")
    if type(size) is not int or not 0 < size <= MAX_MEMORY_BYTES:
        raise Malformed(f"message of the node process: want a size of memory up to {MAX_MEMORY_BYTES}")
    return {"do": do, "id": number, "size": size}


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT_CHARACTERS]).strip()

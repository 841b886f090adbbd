# SPDX-License-Identifier: BSD-3-Clause
"""A node process without a node, to try keepers with; the keeper starts it as its `program`.

The document is JSON: {"asks": [requests], "then": [steps]}. Each request is sent and its answer awaited, then each
step is done: "ready", "failed TEXT", "stop" (waits for the keeper's stop or end, closes the TUN, and tells the time
that it had by a file `stopped` beside the node's folder), "hang", "crash", "exit", "garbage".

What has come is written to the file `seen`, beside the node's folder, before the steps.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from ts4nsnet.keeper import messages
from ts4nsnet.sandbox import hide


def ask(sock: socket.socket, number: int, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Ask the keeper for something; its answer and the fds that came with it."""
    messages.send(sock, {**request, "id": number})
    data, rights, _, _ = sock.recvmsg(messages.MAX_MESSAGE_BYTES, messages.ANCILLARY_BYTES)
    return json.loads(data), messages.received_fds(rights)


def step(sock: socket.socket, what: str, folder: Path, fds: list[int]) -> None:
    """Do one thing of the document's list."""
    name, _, text = what.partition(" ")
    match name:
        case "ready":
            messages.send(sock, {"do": "ready"})
        case "failed":
            messages.send(sock, {"do": "failed", "text": text})
        case "garbage":
            sock.send(text.encode())
        case "crash":
            raise ValueError(text)
        case "stop":
            told = sock.recv(messages.MAX_MESSAGE_BYTES)
            for fd in fds:
                os.close(fd)
            (folder.parents[1] / "stopped").write_text(told.decode() or "end of file")
        case "hang":
            signal.pause()
        case "sleep":
            time.sleep(float(text))  # a logout that takes its time


def main() -> None:
    """Be the node process."""
    hide("ts4nsnet-node")
    sock, folder = socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[3])
    document = json.loads(os.pread(int(sys.argv[2]), 1 << 20, 0))
    seen, fds = [], list[int]()
    for number, request in enumerate(document["asks"]):
        answer, came = ask(sock, number, request)
        seen.append([answer, [os.readlink(f"/proc/self/fd/{fd}") for fd in came], [os.fstat(fd).st_ino for fd in came]])
        fds += came
    (folder.parents[1] / "seen").write_text(json.dumps(seen))
    for what in document["then"]:
        step(sock, what, folder, fds)

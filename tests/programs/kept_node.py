# SPDX-License-Identifier: BSD-3-Clause
"""A node process without a node, to try keepers with; the keeper starts it as its `program`.

The document is JSON: {"asks": [requests], "then": [steps]}. Each request is sent and its answer awaited, then each
step is done: "ready", "failed TEXT", "stop" (waits for the keeper's stop or end, closes the TUN, and tells the time
that it had by a file `stopped` beside the node's folder), "hang", "crash", "exit", "garbage", "worker ENGINE" (asks for
a worker and hears what there is of it until it is told to stop, as "stop" does).

What has come is written to the file `seen`, beside the node's folder, before the steps. What is heard of workers, and
each worker's greeting, goes into the FIFO `news` there, a line each.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from select import select
from typing import Any

from ts4nsnet.keeper import messages
from ts4nsnet.sandbox import hide


def ask(sock: socket.socket, number: int, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Ask the keeper for something; its answer and the fds that came with it."""
    messages.send(sock, {**request, "id": number})
    while True:
        data, rights, _, _ = sock.recvmsg(messages.MAX_MESSAGE_BYTES, messages.ANCILLARY_BYTES)
        answer, fds = json.loads(data), messages.received_fds(rights)
        if answer.get("id") == number:
            return answer, fds
        for fd in fds:  # of a worker for the node before this one
            os.close(fd)


def hear_of_workers(sock: socket.socket, news: Path) -> bytes:
    """Ask for nothing more; what ends it."""
    worker: socket.socket | None = None
    while True:
        data, rights, _, _ = sock.recvmsg(messages.MAX_MESSAGE_BYTES, messages.ANCILLARY_BYTES)
        line: dict[str, Any] = json.loads(data or "{}")
        if fds := messages.received_fds(rights):
            worker = socket.socket(fileno=fds[0])
            line["greeting"] = json.loads(worker.recv(messages.MAX_MESSAGE_BYTES) or "null")
        elif line.get("do") != "worker":
            line["worker_has_ended"] = worker is not None and bool(select([worker], [], [], 0)[0])
        with news.open("a") as file:
            file.write(f"{json.dumps(line)}\n")
        if line.get("do") != "worker":
            return data


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
        case "stop" | "worker":
            if name == "worker":
                messages.send(sock, {"do": "worker", "engine": text})
                told = hear_of_workers(sock, folder.parents[1] / "news")
            else:
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

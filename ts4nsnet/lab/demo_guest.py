# SPDX-License-Identifier: BSD-3-Clause
"""What the demo runs inside its containers: a page of standard library, as they have nothing but Python.

    hold                  be the container's first process until standard input ends or SIGTERM comes
    serve                 answer transfers on PORT
    ping NAME             a few echo requests; milliseconds
    carry NAME BYTES      so many bytes from here to NAME, or if negative from there to here; seconds
    refused ADDRESS       how fast a connection that has no way fails; milliseconds

Each prints one line of JSON. A transfer is one TCP connection: eight bytes say how many follow, the SHA-256 comes back.
It works as a file by itself and imports nothing of ours, so that a container needs this file alone.
"""

import hashlib
import json
import os
import signal
import socket
import struct
import sys
import time

PORT = 9000
COUNT = struct.Struct("!q")  # bytes that follow; negative: that the server shall send
CHUNK_BYTES = 1 << 18
PINGS = 5
TIME_LIMIT = 60.0  # seconds without progress
ECHO_REQUEST = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number


def hold() -> None:
    """Be there. A container's process 1 gets no signal that it has no handler for."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    say("here")
    sys.stdin.buffer.read()


def serve() -> None:
    """Answer transfers, one after the other, for ever."""
    with socket.create_server(("", PORT)) as server:
        say({"listening": PORT})
        while True:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(TIME_LIMIT)
                (count,) = COUNT.unpack(receive(connection, COUNT.size))
                connection.sendall(take(connection, count) if count >= 0 else give(connection, -count))


def carry(name: str, count: int) -> float:
    """Bytes over a connection of their own; negative: from there to here."""
    with socket.create_connection((name, PORT), timeout=TIME_LIMIT) as connection:
        began = time.monotonic()
        connection.sendall(COUNT.pack(count))
        digest = give(connection, count) if count > 0 else take(connection, -count)
        if receive(connection, len(digest)) != digest:
            raise SystemExit("what has arrived is not what was sent")
        return time.monotonic() - began


def give(connection: socket.socket, count: int) -> bytes:
    """Send so many bytes; their SHA-256."""
    sent = hashlib.sha256()
    block = os.urandom(CHUNK_BYTES)
    while count:
        chunk = block[:count]
        connection.sendall(chunk)
        sent.update(chunk)
        count -= len(chunk)
    return sent.digest()


def take(connection: socket.socket, count: int) -> bytes:
    """Receive so many bytes; their SHA-256."""
    received = hashlib.sha256()
    while count:
        chunk = connection.recv(min(count, CHUNK_BYTES))
        if not chunk:
            raise SystemExit(f"the connection ended {count} bytes too early")
        received.update(chunk)
        count -= len(chunk)
    return received.digest()


def receive(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    received = b""
    while len(received) < count:
        chunk = connection.recv(count - len(received))
        if not chunk:
            raise SystemExit("the connection ended too early")
        received += chunk
    return received


def ping(name: str) -> dict[str, object]:
    """Echo requests to the IPv4 address that the name has; it is asked for as every program does."""
    family, _, _, _, (address, *_) = socket.getaddrinfo(name, None, socket.AF_INET)[0]
    times = []
    with socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as echo:
        echo.settimeout(TIME_LIMIT / 10)
        for number in range(PINGS):
            began = time.monotonic()
            echo.sendto(ECHO_REQUEST.pack(8, 0, 0, 0, number), (address, 0))  # the kernel adds checksum and identifier
            echo.recv(1 << 12)
            times.append((time.monotonic() - began) * 1000)
    return {"address": address, "times": times}


def refused(address: str) -> dict[str, object]:
    """Connect to where no way leads."""
    began = time.monotonic()
    try:
        socket.create_connection((address, 80), timeout=10).close()
        reason = "connected"
    except OSError as error:
        reason = error.strerror or str(error)
    return {"time": (time.monotonic() - began) * 1000, "reason": reason}


def say(value: object) -> None:
    """One line of JSON."""
    print(json.dumps(value), flush=True)  # noqa: T201  (what the demo reads)


def main(verb: str, *arguments: str) -> None:
    """Run one of the verbs above."""
    match verb, arguments:
        case "hold", ():
            hold()
        case "serve", ():
            serve()
        case "ping", (name,):
            say(ping(name))
        case "carry", (name, count):
            say(carry(name, int(count)))
        case "refused", (address,):
            say(refused(address))


if __name__ == "__main__":
    main(*sys.argv[1:])

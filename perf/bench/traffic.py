# SPDX-License-Identifier: BSD-3-Clause
"""Datagrams, as many as the way between two containers carries: a source and a sink, each a process of its own.

    python -m perf.bench.traffic sink 100.64.0.2 5000 64
    python -m perf.bench.traffic source 100.64.0.2 5000 64 2.0

The source keeps a window of datagrams on their way (perf.bench.window says why); the sink acknowledges every 32 with
the number that it expects next and how many it has. With `--flood` the source only sends; that shows what overload
costs.

Without `--gso` each datagram is one of its own down to the TUN, which hands it out in a read of its own: the traffic of
QUIC libraries without UDP_SEGMENT, of VXLAN, of games and telephones. With it, the kernel cuts them out of messages
of up to 64, and a TUN may hand them out as one.
"""

import argparse
import json
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from socket import AF_INET, MSG_PEEK, SO_RCVBUF, SO_RCVTIMEO, SOCK_DGRAM, SOL_SOCKET, SOL_UDP, socket
from time import monotonic

from perf.bench.arrivals import Arrivals
from perf.bench.datagrams import BATCH, Train
from perf.bench.window import Window

READY = "ready"
ACKNOWLEDGED = 32  # datagrams, for one acknowledgement
STALL_TIME = 0.05  # seconds without an acknowledgement
BEGIN_TIME = 15.0  # seconds that a sink waits for the first datagram
END_TIME = 0.5  # seconds after the last
RECEIVE_BUFFER = 4 << 20  # bytes; for the time in which the sink does not run
UDP_SEGMENT = 103  # <linux/udp.h>
MAX_MESSAGE = 65507  # bytes of a UDP datagram
_acknowledgement = struct.Struct("=QQ")


def source(address: str, port: int, size: int, seconds: float, *, gso: bool = False, floods: bool = False) -> int:
    """Send datagrams for so many seconds; how many."""
    train, window, sent = Train(size), Window(), 0
    with _socket(STALL_TIME) as sock:
        sock.connect((address, port))
        segments = min(BATCH, MAX_MESSAGE // size)
        if gso:
            sock.setsockopt(SOL_UDP, UDP_SEGMENT, size)
        message = memoryview(train.memory)[: segments * size]
        until = monotonic() + seconds
        while monotonic() < until:
            train.number(sent)
            sent += sock.send(message) // size if gso else train.send(sock.fileno())
            while not floods and window.room(sent) < BATCH:
                try:
                    expected, received = _acknowledgement.unpack(sock.recv(_acknowledgement.size))
                except BlockingIOError:
                    window.stalled(sent)
                else:
                    window.acknowledge(expected, received, sent)
    return sent


def sink(address: str, port: int, size: int) -> tuple[Arrivals, float]:
    """Receive until nothing comes any more, or ever; what came, and the seconds from the first to the last."""
    train, arrivals, unsaid = Train(size), Arrivals(), 0
    with _socket(BEGIN_TIME) as sock:
        sock.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((address, port))
        print(READY, flush=True)
        try:
            sock.connect(sock.recvfrom(1, MSG_PEEK)[1])
        except BlockingIOError:
            return arrivals, 0.0
        sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _timeval(END_TIME))
        begin = end = monotonic()
        while numbers := train.receive(sock.fileno()):
            arrivals.add(numbers)
            unsaid += len(numbers)
            end = monotonic()
            if unsaid >= ACKNOWLEDGED:
                with suppress(ConnectionRefusedError):  # the source has ended
                    sock.send(_acknowledgement.pack(arrivals.expected, arrivals.received))
                unsaid = 0
    return arrivals, end - begin


def _socket(timeout: float) -> socket:
    # the kernel's own timeout: Python's would make the socket non-blocking
    made = socket(AF_INET, SOCK_DGRAM)
    made.setsockopt(SOL_SOCKET, SO_RCVTIMEO, _timeval(timeout))
    return made


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


def main(arguments: Sequence[str]) -> None:
    """Be the source or the sink, and print what was counted, as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.bench.traffic", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("end", choices=["source", "sink"])
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("size", type=int, help="bytes of each datagram, a multiple of eight")
    parser.add_argument("seconds", type=float, nargs="?", help="of the source")
    parser.add_argument("--gso", action="store_true", help="many datagrams a message")
    parser.add_argument("--flood", action="store_true", help="without a window")
    options = parser.parse_args(arguments)
    where = (options.address, options.port, options.size)
    if options.end == "source":
        sent = source(*where, options.seconds, gso=options.gso, floods=options.flood)
        print(json.dumps({"sent": sent}))
    else:
        arrivals, seconds = sink(*where)
        counts = {"received": arrivals.received, "reordered": arrivals.reordered, "seconds": seconds}
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

# SPDX-License-Identifier: BSD-3-Clause
"""An echo for TCP and UDP, over IPv4 and IPv6, on every address of the namespace that it is started in.

    python -m tests.programs.echo PORT

It says "serving" once it is.
"""

import sys
from functools import partial

import trio

LONGEST = 65536  # bytes; no datagram is longer


async def echo_stream(stream: trio.SocketStream) -> None:
    """Send back what comes, to its end."""
    try:
        async for chunk in stream:
            await stream.send_all(chunk)
    except trio.BrokenResourceError:
        pass  # reset by the other side


async def echo_datagrams(sock: trio.socket.SocketType) -> None:
    """Send back each datagram to where it comes from."""
    while True:
        datagram, source = await sock.recvfrom(LONGEST)
        await sock.sendto(datagram, source)


async def serve(port: int) -> None:
    """Serve for ever."""
    sock = trio.socket.socket(trio.socket.AF_INET6, trio.socket.SOCK_DGRAM)
    sock.setsockopt(trio.socket.IPPROTO_IPV6, trio.socket.IPV6_V6ONLY, 0)
    await sock.bind(("::", port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echo_datagrams, sock)
        await nursery.start(partial(trio.serve_tcp, echo_stream, port, host=None))
        print("serving", flush=True)


if __name__ == "__main__":
    trio.run(serve, int(sys.argv[1]))

# SPDX-License-Identifier: BSD-3-Clause
"""Forwards TCP connections from one port to another, so that a test can cut one of the ways to a server.

    python -m tests.programs.forwarder ADDRESS PORT TARGET_PORT

It says "serving" once it is. Killed, it resets its connections; stopped (SIGSTOP), it is a server that takes
connections and never reads.
"""

import sys
from functools import partial

import trio

CHUNK_BYTES = 1 << 16


async def _copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
    try:
        async for chunk in source:
            await target.send_all(chunk)
        await target.send_eof()
    except trio.BrokenResourceError:
        pass  # the other direction finds out, too


async def _forward(address: str, port: int, stream: trio.SocketStream) -> None:
    try:
        target = await trio.open_tcp_stream(address, port)
    except OSError:
        return  # what came is closed
    async with target, trio.open_nursery() as nursery:
        nursery.start_soon(_copy, stream, target)
        await _copy(target, stream)
        nursery.cancel_scope.cancel()


async def serve(address: str, port: int, target_port: int) -> None:
    """Forward for ever."""
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(trio.serve_tcp, partial(_forward, address, target_port), port, host=address))
        print("serving", flush=True)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

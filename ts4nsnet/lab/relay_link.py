# SPDX-License-Identifier: BSD-3-Clause
"""One DERP connection of a client: bytes to the relay's `Client` and back.

The reader stops while the client's rate is used up. The writer has `WRITE_TIME` for each batch; a client that does not
read is cut off, and what waited for it is dropped.

Source: derp.md 3, 4.1, 4.3.
"""

import socket
from collections.abc import Callable
from contextlib import suppress

import trio

from ts4nsnet.lab.relay import Client, Relay

WRITE_TIME = 2.0  # seconds (derp.md 3)
RECEIVE_BYTES = 64 << 10
# ours: bytes for one client that the kernel takes before it can send them; trio's 16 KiB are less than a queue holds
UNSENT_BYTES = 128 << 10


class RelayLink:
    """One connection.

    Args:
        stream: after the HTTP upgrade.
        relay: where its frames go.
        serve: wakes the links of `relay.ready`.
    """

    def __init__(self, stream: trio.abc.Stream, relay: Relay, serve: Callable[[], None]) -> None:
        self._stream = stream
        self._relay = relay
        self._serve = serve
        self._wake = trio.Event()
        self.client: Client = relay.accept(trio.current_time())

    def wake(self) -> None:
        """There is something to send, or the connection is over."""
        self._wake.set()

    async def run(self, rest: bytes) -> None:
        """Serve until the connection ends; `rest` is what was received already."""
        client = self.client
        _let_kernel_take(self._stream, UNSENT_BYTES)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read, rest, nursery.cancel_scope)
                await self._write()
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            client.close("connection lost")
        finally:
            client.close("server stops")
            self._relay.counters[f"closed: {client.closed}"] += 1
            self._serve()

    async def _read(self, data: bytes | bytearray, scope: trio.CancelScope) -> None:
        client = self.client
        while not client.closed:
            if data:
                client.receive(bytes(data), trio.current_time())
                self._serve()
            if client.read_at > trio.current_time():
                await trio.sleep_until(client.read_at)
            await trio.lowlevel.checkpoint()  # what was read is on its way before there is more: queues are short
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                client.receive(b"", trio.current_time())
        scope.cancel()

    async def _write(self) -> None:
        client = self.client
        while not client.closed:
            with trio.CancelScope() as limit:  # one for many batches: each of its own costs more than to set its time
                await self._write_until(limit)
            if limit.cancelled_caught:
                client.handle_timer(trio.current_time())

    async def _write_until(self, limit: trio.CancelScope) -> None:
        client = self.client
        while not client.closed:
            while data := client.data_to_send():
                limit.deadline = trio.current_time() + WRITE_TIME
                try:
                    await self._stream.send_all(data)
                except trio.Cancelled:
                    if limit.cancel_called:
                        client.close("does not read")
                    raise
            limit.deadline = client.next_timer()
            await self._wake.wait()
            self._wake = trio.Event()


def _let_kernel_take(stream: trio.abc.Stream, unsent: int) -> None:
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    if isinstance(stream, trio.SocketStream):
        with suppress(OSError):  # it is for speed only
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent)

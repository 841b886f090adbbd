# SPDX-License-Identifier: BSD-3-Clause
"""One DERP connection of a client: bytes to the relay's `Client` and back.

The reader stops while the client's rate is used up. The writer has `WRITE_TIME` for each batch; a client that does not
read is cut off, and what waited for it is dropped.

Source: derp.md 3, 4.1, 4.3.
"""

from collections.abc import Callable

import trio

from ts4nsnet.lab.relay import Client, Relay

WRITE_TIME = 2.0  # seconds (derp.md 3)
RECEIVE_BYTES = 64 << 10


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
            await trio.sleep_until(client.read_at)
            data = await self._stream.receive_some(RECEIVE_BYTES)
            if not data:
                client.receive(b"", trio.current_time())
        scope.cancel()

    async def _write(self) -> None:
        client = self.client
        while not client.closed:
            while data := client.data_to_send():
                with trio.move_on_after(WRITE_TIME) as limit:
                    await self._stream.send_all(data)
                if limit.cancelled_caught:
                    client.close("does not read")
                    return
            with trio.move_on_at(client.next_timer()):
                await self._wake.wait()
            self._wake = trio.Event()
            client.handle_timer(trio.current_time())

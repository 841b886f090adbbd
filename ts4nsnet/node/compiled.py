# SPDX-License-Identifier: BSD-3-Clause
"""The compiled engine within the node's process.

    port readable ─► port.carry: reads, seals, opens, sends, writes ─► news for the device, as with the `python` engine

What `PythonEngine` does with sockets and the TUN a port does; what it does between pipeline and device is the same. A
port carries at most `MAX_BATCHES` at a time, then the node's other tasks get their turn; while one of them works,
nothing is carried, which is what the worker process is for.
"""

import socket
from typing import TYPE_CHECKING, Any, NoReturn, cast

import trio

from ts4nsnet.netns import Tun
from ts4nsnet.node.engine import PythonEngine, Tailnet, TunGone
from ts4nsnet.uring.offloads import OffloadsSet
from ts4nsnet.wireguard import Device

if TYPE_CHECKING:
    from ts4nsnet.uring.port import Port

MAX_BATCHES = 16  # ours: 1 to 2 ms


class CompiledEngine(PythonEngine):
    """One TUN queue, one UDP socket, one device, and the port between them.

    Args:
        device: the node's WireGuard device.
        port: over the same session memory and routes, of the same TUN and socket.
        tailnet: as for `PythonEngine`.
    """

    def __init__(
        self, device: Device, port: "Port", tun: Tun, sock: socket.socket, tailnet: Tailnet | None = None
    ) -> None:
        super().__init__(device, cast("Any", port), tun, sock, tailnet)
        self._port = port
        if tailnet is not None:
            port.relay = lambda train: tailnet.take_train(train, trio.current_time())

    def set_offloads(self, wanted: OffloadsSet) -> None:
        """See `Engine`."""
        self._port.switch(wanted)

    async def run(self) -> NoReturn:
        """Carry packets until cancelled; raises TunGone, in an exception group as all that trio's nurseries raise."""
        self.device_changed()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry)
            nursery.start_soon(self._keep_time)
        raise AssertionError("the tasks of an engine never return")

    async def _carry(self) -> None:
        while True:
            try:
                self._port.carry(0, MAX_BATCHES)
            except OSError as error:
                raise TunGone(error.strerror) from error
            self._settle(trio.current_time())
            await trio.lowlevel.wait_readable(self._port.fileno())

    async def _transmit(self) -> None:
        """The port has sent it."""
        await trio.lowlevel.checkpoint()

    def _write_frames(self) -> None:
        """The port has written them but for what the judge has caused since."""
        self._port.write(())

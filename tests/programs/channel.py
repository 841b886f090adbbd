# SPDX-License-Identifier: BSD-3-Clause
"""Programs that answer requests over a socket which they inherit: JSON, a line for a line.

                                              ─►  {"at": 1234.5}, when the program has been loaded
    {…}                                       ─►  {"at": 1234.6}, the configuration
    {"do": "status"}                          ─►  {"phase": "RUNNING", …, "at": 1234.7}
    {"do": "wait", "for": {"is_ready": true}} ─►  the same as "status", once it is so; after 20 s with "late": true

So secrets come in by this way, and never in arguments or the environment. What is waited for is a dictionary of
members: `true` and `false` stand for something and nothing, a number for at least as much. `at` is the time of the
answer: CLOCK_BOOTTIME, the same in all processes.
"""

import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import trio

Json = dict[str, Any]

WAIT_TIME = 20.0  # seconds
LOOK_TIME = 0.005  # seconds between two looks; what is measured is as exact


class Channel:
    """The program's end of the socket.

    Args:
        fd: of a connected stream socket.
    """

    def __init__(self, fd: int) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
        self._received = b""

    async def configuration(self) -> Json | None:
        """Say that we are there, and read the first line."""
        await self.answer({})
        return await self.read()

    async def read(self) -> Json | None:
        """The next line; None at the end, when the test is over."""
        while b"\n" not in self._received:
            try:
                chunk = await self._stream.receive_some(1 << 16)
            except trio.BrokenResourceError:
                return None
            if not chunk:
                return None
            self._received += chunk
        line, self._received = self._received.split(b"\n", 1)
        request: Json = json.loads(line)
        return request

    async def answer(self, answer: Json) -> None:
        """Answer the line that was read last."""
        await self._stream.send_all(json.dumps(answer | {"at": trio.current_time()}).encode() + b"\n")

    async def serve(self, do: Callable[[Json], Awaitable[Json]]) -> None:
        """Answer the configuration, then do what is asked, to the end."""
        await self.answer({})
        while (request := await self.read()) is not None:
            await self.answer(await do(request))


async def wait_for(wanted: Json, look: Callable[[], Json]) -> Json:
    """What `look` gives, once it is as `wanted`; with "late" if that takes too long."""
    with trio.move_on_after(WAIT_TIME):
        while not _is_as(wanted, found := look()):  # noqa: ASYNC110  nobody tells of a change
            await trio.sleep(LOOK_TIME)
        return found
    return look() | {"late": True}


def _is_as(wanted: Json, found: Json) -> bool:
    return all(_is_one_as(value, found.get(name)) for name, value in wanted.items())


def _is_one_as(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, bool):
        return bool(found) is wanted
    if isinstance(wanted, int):
        return found is not None and bool(found >= wanted)
    return bool(found == wanted)

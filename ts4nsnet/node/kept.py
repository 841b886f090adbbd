# SPDX-License-Identifier: BSD-3-Clause
"""The node's end of the socket to its keeper: what it asks for, what it tells, when it has to leave.

The messages are in keeper/messages.py. What changes links and routes goes to a netns child, whose socket the keeper
hands over: a child waits in a thread, one request at a time, and is given up when its request is cancelled.

The sockets to the worker come by themselves, one for each that there ever is; a link (surroundings.py) has the newest.

The keeper's end is the node's: a request that waits, or comes later, fails.
"""

import json
import mmap
import os
import socket
from collections.abc import Callable
from itertools import count
from typing import Any, TypeVar

import trio

from ts4nsnet.keeper import messages
from ts4nsnet.netns import Configured, Link, NetnsChild, NetnsError, Target, Tun
from ts4nsnet.netns.process import HandedChild
from ts4nsnet.node.surroundings import WorkerLink

# the keeper alone knows which one; for error messages
_TARGET = Target("the container")
T = TypeVar("T")


class _Answer:
    """One that is waited for."""

    def __init__(self) -> None:
        self.has_come = trio.Event()
        self.message: dict[str, Any] = {}
        self.fds: list[int] = []


class KeeperSurroundings:
    """`Surroundings` that a keeper gives.

    Args:
        sock: to the keeper; seqpacket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = trio.socket.from_stdlib_socket(sock)
        self._numbers = count(1)
        self._answers: dict[int, _Answer] = {}
        self._gone = False
        self._worker: WorkerLink | None = None
        self._child = self._new_child()
        self._child_free = trio.Lock()

    @property
    def is_gone(self) -> bool:
        """Whether the keeper has ended."""
        return self._gone

    def close(self) -> None:
        """Let go of the keeper and the netns child, once no request is under way."""
        self._child.close()
        self._sock.close()
        if self._worker is not None:
            self._worker.close()

    async def listen(self, stop: Callable[[], None]) -> None:
        """Hear the keeper until it ends; `stop` is called when it wants the node to leave, and at its end."""
        while (received := await self._receive()) is not None:
            message, fds = received
            answer = self._answers.pop(message.get("id", 0), None)
            if answer is not None:
                answer.message, answer.fds = message, fds
                answer.has_come.set()
            elif message.get("do") == "worker" and self._worker is not None:
                _tell_link(self._worker, message, fds)
            else:
                _close(fds)
                if message.get("do") == "stop":
                    stop()
        self._gone = True
        stop()
        for answer in self._answers.values():
            answer.message = {"error": _GONE}
            answer.has_come.set()
        self._answers.clear()

    async def tell(self, message: messages.Message) -> None:
        """Tell the keeper something; nothing happens when it has ended."""
        try:
            await self._sock.send(json.dumps(message).encode())
        except OSError:
            return  # `listen` sees the end

    async def open_tun(self) -> Tun:
        """See `Surroundings`."""
        answer, fds = await self._ask("tun")
        return Tun(answer["name"], tuple(fds), answer["vnet_hdr"], answer["offload"])

    async def configure(self, link: Link) -> Configured:
        """See `Surroundings`."""
        return await self._ask_child(lambda child: child.configure(link))

    async def udp_socket(self) -> socket.socket:
        """See `Surroundings`."""
        _, fds = await self._ask("udp")
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        return sock

    async def session_memory(self, size: int) -> mmap.mmap:
        """See `Surroundings`."""
        _, fds = await self._ask("memory", size=size)
        try:
            return mmap.mmap(fds[0], size)
        finally:
            _close(fds)

    async def worker(self, engine: str) -> WorkerLink:
        """See `Surroundings`."""
        _, fds = await self._ask("counters")
        try:
            self._worker = WorkerLink(mmap.mmap(fds[0], 0, prot=mmap.PROT_READ))
        finally:
            _close(fds)
        await self.tell({"do": "worker", "engine": engine})
        return self._worker

    async def container_socket(self, family: int, kind: int) -> socket.socket:
        """See `Surroundings`."""
        return await self._ask_child(lambda child: child.open_socket(family, kind))

    async def _receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """A message of the keeper's and its fds; None at the end."""
        room = messages.MAX_MESSAGE_BYTES, messages.ANCILLARY_BYTES
        try:
            data, rights, _, _ = await self._sock.recvmsg(*room, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        return (json.loads(data), messages.received_fds(rights)) if data else None

    async def _ask(self, do: str, **more: int) -> tuple[dict[str, Any], list[int]]:
        """Ask the keeper for something; its answer, and fds that are the caller's to close. Raises `NetnsError`."""
        number, answer = next(self._numbers), _Answer()
        if self._gone:
            raise NetnsError(*_GONE)
        self._answers[number] = answer
        try:
            await self.tell({"id": number, "do": do, **more})
            await answer.has_come.wait()
        except BaseException:
            self._answers.pop(number, None)
            _close(answer.fds)
            raise
        if "error" in answer.message:
            raise NetnsError(*answer.message["error"])
        if not answer.fds:
            raise NetnsError(
                "receiving file descriptors", "", "this process has too many open files", "raise ulimit -n"
            )
        return answer.message, answer.fds

    async def _ask_child(self, call: Callable[[NetnsChild], T]) -> T:
        async with self._child_free:
            try:
                return await trio.to_thread.run_sync(call, self._child, abandon_on_cancel=True)
            except trio.Cancelled:
                self._child.give_up()
                self._child = self._new_child()
                raise

    def _new_child(self) -> NetnsChild:
        return NetnsChild(_TARGET, start=lambda _: trio.from_thread.run(self._receive_child))

    async def _receive_child(self) -> HandedChild:
        _, (sock, stderr) = await self._ask("netns")
        return HandedChild(socket.socket(fileno=sock), stderr)


_GONE = ("asking the keeper", "", "it has ended", "start ts4nsnet anew")


def _tell_link(link: WorkerLink, message: messages.Message, fds: list[int]) -> None:
    """Pass on what the keeper says of the worker."""
    if fds:
        sock = socket.socket(fileno=fds[0])
        sock.setblocking(False)
        link.renew(sock)
    elif "error" in message:
        link.fail(message["error"])
    else:
        link.trouble = message.get("trouble", "this process has too many open files; raise ulimit -n")


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)

# SPDX-License-Identifier: BSD-3-Clause
"""One container's node: joins the tailnet, carries its traffic, and leaves it in order.

    Config ─► identity (claimed) ─► TUN, UDP socket, session memory ─► Life (life.py) ─► the end

The end, whatever its cause: the TUN is closed first, so that the container sees at once that nothing goes any more and
the next start finds the interface's name free; then the node logs out, unless a start that has begun already takes its
identity over (state.py). All of it takes 2 seconds at most.

Only what fails at the start ends a node. Later there is something to lose: a full disk, or a route of a peer's that is
in the way of the container's own, is told, and the rest goes on.

Run it with trio on `drive.BoottimeClock`: WireGuard's and the relays' times are CLOCK_BOOTTIME.
"""

import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import trio

from ts4nsnet.filter import Filter
from ts4nsnet.keys import PrivateKey
from ts4nsnet.netns import Tun
from ts4nsnet.node import state
from ts4nsnet.node.config import Config
from ts4nsnet.node.engine import Engine, PythonEngine, Tailnet
from ts4nsnet.node.identity import Identity
from ts4nsnet.node.life import EngineMaker, Life
from ts4nsnet.node.remote import remote_engine
from ts4nsnet.node.statedir import StateDir
from ts4nsnet.node.status import StartFailed, Status
from ts4nsnet.node.surroundings import Surroundings, WorkerError
from ts4nsnet.node.view import View
from ts4nsnet.tailnet import TAILNET_MTU
from ts4nsnet.uring import Reference
from ts4nsnet.wireguard import Device, SessionMemory, SessionTable

# ours: peers that there is room for; memory is touched for those with a session only
MAX_PEERS = 16384

T = TypeVar("T")


class Node:
    """The node of one container; several may live in one process.

    Args:
        config: what it is told at its start.
        say: takes what a user should read: a login URL, a refusal, a warning; one line each.
        surroundings: give it the container's TUN and the rest.
    """

    def __init__(self, config: Config, say: Callable[[str], None], surroundings: Surroundings) -> None:
        self._config = config
        self._say: Callable[[str], None] = lambda text: say(_one_line(text))
        self._surroundings = surroundings
        self._stopping = trio.Event()
        self._begun = trio.Event()
        self._life: Life | None = None

    def stop(self) -> None:
        """Leave the tailnet; `run` returns when that is done."""
        self._stopping.set()

    def status(self) -> Status | None:
        """What the node is doing; None before it has an identity and a TUN, and after the end."""
        return self._life.status() if self._life else None

    def view(self) -> View:
        """The node with its netmap and peers, for the LocalAPI."""
        if self._life is None:
            return View(time.time(), self._config.hostname, leaving=self._stopping.is_set())
        return self._life.view()

    async def ready(self) -> None:
        """Wait until the container can use the network; for ever, should the node end before that.

        Raises:
            StartFailed: waiting does not help.
        """
        await self._begun.wait()
        if self._life is None:
            await trio.sleep_forever()
        else:
            await self._life.ready()

    async def run(self) -> None:
        """Join, carry packets until `stop`, the TUN's end or a cancellation, and leave.

        Raises, in exception groups as all that comes out of trio's nurseries:
            StateError: the identity's folder cannot be used, or another node has it.
            NetnsError: the container's namespaces cannot be entered, or the TUN not be made.
            ControlError: the control URL is none.
            OSError: there is no UDP socket to be had.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_to_its_end)
            try:
                await self._stopping.wait()
            finally:
                self.stop()  # a cancellation ends it in order, too

    async def _run_to_its_end(self) -> None:
        with trio.CancelScope(shield=True):
            claim = await self._claim()
            try:
                if claim.warning:
                    self._say(claim.warning)
                await self._live(claim)
            finally:
                self._life = None
                claim.release()
                self.stop()

    async def _claim(self) -> state.Claim:
        if self._config.state_dir is not None:
            return StateDir.open(self._config.state_dir, self._config.binding)
        return await state.claim(self._config.runtime_folder, self._config.binding)

    async def _live(self, claim: state.Claim) -> None:
        async with AsyncExitStack() as opened:
            sock = opened.enter_context(await self._surroundings.udp_socket())
            memory = SessionMemory(await self._surroundings.session_memory(SessionMemory.size(MAX_PEERS)))
            make_engine = await self._until_stopped(lambda: self._choose_engine(opened, memory, sock))
            if make_engine is None:
                return
            identity = claim.identity or Identity(PrivateKey(os.urandom(32)), PrivateKey(os.urandom(32)))
            claim.save(identity)
            self._life = Life(self._config, self._say, claim, identity, self._surroundings, memory, make_engine, sock)
            self._begun.set()
            await self._life.run(self._stopping)

    async def _choose_engine(self, opened: AsyncExitStack, memory: SessionMemory, sock: socket.socket) -> EngineMaker:
        """The engine that was asked for, or the best one that works; what it needs is closed with `opened`."""
        asked = self._config.engine
        if asked != "python":
            try:
                link = await self._surroundings.worker(asked)
                if link is not None:
                    opened.callback(link.close)
                    return await remote_engine(link, memory, sock, self._say)
            except WorkerError as error:
                if asked != "auto":
                    raise
                self._say(f"engine: python, which is slow: {error}")
        tun = await self._surroundings.open_tun()
        opened.callback(tun.close)
        return python_engine(tun, memory, sock)

    async def _until_stopped(self, do: Callable[[], Awaitable[T]]) -> T | None:
        """What `do` gives; None when the node is to stop before that."""
        done = None
        async with trio.open_nursery() as nursery:

            async def give_up_when_stopped() -> None:
                await self._stopping.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(give_up_when_stopped)
            done = await do()
            nursery.cancel_scope.cancel()
        return done


def python_engine(tun: Tun, memory: SessionMemory, sock: socket.socket) -> EngineMaker:
    """An engine within this process."""

    def make(device: Device, tailnet: Tailnet) -> Engine:
        sessions = SessionTable(memory, roaming=False)
        pipeline = Reference(sessions, device.routes, Filter(), mtu=TAILNET_MTU, vnet_hdr=tun.vnet_hdr)
        return PythonEngine(device, pipeline, tun, sock, tailnet)

    return make


def _one_line(text: str) -> str:
    """A text that may be a server's, so that a terminal shows it and does nothing else."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


__all__ = ["Node", "StartFailed", "Status"]

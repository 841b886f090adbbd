# SPDX-License-Identifier: BSD-3-Clause
"""The node process: what a keeper starts, with one node in it.

    keeper ──argv: its socket, the document, the node's folder──► main
           ◄── what the node needs (kept.py)
           ◄── "ready", or why it will never be
           ──► stop, or its own end: TUN closed, logged out, gone

What a user should read goes to the log in the node's folder, where Python's own last words end up, too. The document is
read once; secrets that are environment variables by nature (proxies with a password) become some in this process's
memory alone: /proc shows what a process was started with.
"""

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from ts4nsnet.drive import BoottimeClock
from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keeper.folder import LOCALAPI, remove_orphan
from ts4nsnet.keeper.log import Log
from ts4nsnet.keeper.messages import Message
from ts4nsnet.node import localapi, remember
from ts4nsnet.node.config import Config
from ts4nsnet.node.kept import KeeperSurroundings
from ts4nsnet.node.node import Node, StartFailed
from ts4nsnet.node.settings import Secrets, Settings
from ts4nsnet.node.state import remembered
from ts4nsnet.node.statefile import StateError
from ts4nsnet.sandbox import CAP_NET_BIND_SERVICE, allow_files, give_up_rights, hide

# ours: file descriptors; two for each connection through a published port, one for each that is published
MAX_FILES = 65536


def main() -> None:
    """Be the node process; ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the keeper decides, and its socket tells
    hide("ts4nsnet-node")
    give_up_rights(kept=CAP_NET_BIND_SERVICE)  # for published ports; all else that takes any is the keeper's to do
    allow_files(MAX_FILES)
    keeper, document, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    sock = socket.socket(fileno=keeper)
    sys.exit(trio.run(_Process(sock, document, folder).run, clock=BoottimeClock()))


class _Process:
    """The node and its keeper, brought together."""

    def __init__(self, sock: socket.socket, document: int, folder: Path) -> None:
        self._keeper = KeeperSurroundings(sock)
        self._document = document
        self._folder = folder
        self._log = Log(folder, streams=(1, 2))
        self._has_outcome = False  # the keeper knows whether the start has gone well
        self._publishing = trio.CancelScope()

    async def run(self) -> int:
        """Run the node to its end; the exit status."""
        failures: list[str] = []
        crashed = False
        try:
            settings, secrets = _read(self._document)
            await self._run(settings, Config.of(settings, secrets))
        except* (Ts4nsnetError, OSError) as errors:
            failures += _texts(errors)
        except* Exception as errors:  # noqa: BLE001  a defect of ours, which the log shows in full
            traceback.print_exception(errors)
            crashed = self._has_outcome  # another start may do better, and the keeper makes one
            failures += () if crashed else (f"a defect of ts4nsnet: {text}" for text in _texts(errors))
        if failures:
            await self._keeper.tell({"do": "failed", "text": "; ".join(failures)})
        self._keeper.close()
        if self._keeper.is_gone:
            remove_orphan(self._folder)
        return 1 if failures or crashed else 0

    async def _run(self, settings: Settings, config: Config) -> None:
        for level, line in settings.notes:
            if level != "debug" or settings.log_level == "debug":
                self._log.write(line)
        node = Node(config, self._log.write, self._keeper)
        async with trio.open_nursery() as nursery:
            if settings.api_socket:
                await nursery.start(self._publish, Path(settings.api_socket), config)
            nursery.start_soon(self._keeper.listen, lambda: nursery.start_soon(self._stop, node))
            nursery.start_soon(self._announce, node, settings)
            nursery.start_soon(self._serve, node)
            await node.run()
            nursery.cancel_scope.cancel()
        with self._complaining("settings of a node that has left"):
            if settings.ephemeral and not remembered(Path(settings.runtime_folder), settings.container):
                remember.forget(settings)

    async def _announce(self, node: Node, settings: Settings) -> None:
        """Tell the keeper, once, how the start has gone."""
        try:
            await node.ready()
        except StartFailed as failure:
            await self._tell_outcome({"do": "failed", "text": str(failure)})
            node.stop()
        else:
            with self._complaining("settings for a restart without TS_* variables"):
                remember.keep(settings)
            await self._tell_outcome({"do": "ready"})

    async def _stop(self, node: Node) -> None:
        """Leave; a keeper that has waited in vain is told what for."""
        self._publishing.cancel()  # at once: the next start of the container wants the same ports
        status = node.status()
        await self._tell_outcome({"do": "failed", "text": status.hindrance if status else "it is still starting"})
        node.stop()

    async def _tell_outcome(self, message: Message) -> None:
        if not self._has_outcome:
            self._has_outcome = True
            await self._keeper.tell(message)

    async def _publish(self, path: Path, config: Config, task_status: trio.TaskStatus[None]) -> None:
        from ts4nsnet.node import hostfwd  # few ask for it, and a start shall be quick

        with self._publishing:
            guest, open_socket = config.own_address, self._keeper.container_socket
            await hostfwd.serve(path, guest, open_socket, self._log.write, self._folder, task_status=task_status)

    async def _serve(self, node: Node) -> None:
        with self._complaining("there is no LocalAPI"):
            await localapi.serve(self._folder / LOCALAPI, node.view)

    @contextmanager
    def _complaining(self, what: str) -> Iterator[None]:
        """What the node can live without is told, and no more."""
        try:
            yield
        except (StateError, localapi.LocalApiError) as error:
            self._log.write(f"{what}: {error}")


def _read(document: int) -> tuple[Settings, Secrets]:
    """What the node is told; the document is closed."""
    with open(document, "rb") as file:
        told = json.loads(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0))
    settings, secrets = Settings.from_json(told["settings"]), Secrets.from_json(told["secrets"])
    os.environ.update(settings.environ)
    os.environ.update(secrets.environ)
    return settings, secrets


def _texts(errors: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _texts(error)
        else:
            yield str(error) if isinstance(error, Ts4nsnetError | OSError) else repr(error)

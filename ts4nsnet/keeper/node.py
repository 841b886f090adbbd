# SPDX-License-Identifier: BSD-3-Clause
"""The node process as its keeper sees it: started, told, heard, and what became of it.

It is a fresh interpreter in a session of its own (a terminal's Ctrl-C is for the keeper alone). Its arguments:

    PROGRAM  the socket to its keeper  the document with settings and secrets  the node's folder

Its standard output and error are the node's log: what Python says of a crash is found there.
"""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from ts4nsnet.keeper import messages
from ts4nsnet.keeper.launch import ENVIRONMENT
from ts4nsnet.keeper.log import LOG
from ts4nsnet.netns.process import isolated

_NODE = "sys.argv.pop(0); import importlib; importlib.import_module(sys.argv[0]).main()"
_LAST_WORDS_BYTES = 600
_LOGGED = re.compile(r"\d{4}-\d\d-\d\dT")  # what comes from `Log`; Python itself knows no time
_KILL_TIME = 0.05  # ours: seconds


class NodeProcess:
    """A running node process.

    Attributes:
        sock: to it; non-blocking.
        pidfd: readable when it has ended.
    """

    def __init__(self, program: str, document: int, folder: Path) -> None:
        """Start it; raises OSError, and leaves nothing then."""
        self._log = folder / LOG
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, open(self._log, "ab") as log:
                self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                    isolated(_NODE, program, str(theirs.fileno()), str(document), str(folder)),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=ENVIRONMENT,
                    pass_fds=[theirs.fileno(), document], start_new_session=True,
                )  # fmt: skip
            self.sock.setblocking(False)
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            self.sock.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, message: messages.Message, fds: Sequence[int] = ()) -> None:
        """Send it a message; nothing happens when it has gone, or when it does not read."""
        with suppress(OSError):
            messages.send(self.sock, message, fds)

    def heard(self) -> Iterator[messages.Message | None]:
        """What it has said since the last time; None at the end of file. Raises `messages.Malformed`."""
        with suppress(OSError):
            while True:
                message = messages.receive(self.sock)
                yield message
                if message is None:
                    return

    def kill(self) -> None:
        """End it at once, and wait for that as long as the kernel usually needs."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILL_TIME)

    def how_it_ended(self) -> str:
        """What became of it, once `pidfd` is readable; with its last words."""
        status = self._process.wait()
        if status < 0:
            with suppress(ValueError):
                return f"the node process was killed by {signal.Signals(-status).name}"
        return f"the node process ended with status {status}, saying: {self._last_words()}"

    def _last_words(self) -> str:
        with suppress(OSError), open(self._log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
            said = (line.strip() for line in reversed(lines) if line.strip() and not _LOGGED.match(line))
            return next(said, "nothing")
        return "nothing"

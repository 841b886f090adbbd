# SPDX-License-Identifier: BSD-3-Clause
"""The node process and the worker as their keeper sees them: started, told, heard, and what became of them.

Each is a fresh interpreter in a session of its own (a terminal's Ctrl-C is for the keeper alone) and has a socket to
its keeper. Their standard output and error are the node's log: what Python says of a crash is found there.

    node      PROGRAM  its socket  the document with settings and secrets  the node's folder
    worker    see worker.py
"""

import os
import re
import select
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from ts4nsnet.keeper import messages
from ts4nsnet.keeper.launch import ENVIRONMENT
from ts4nsnet.keeper.log import LOG
from ts4nsnet.netns.process import isolated

# what cannot even be imported will not be the next time, either
HOPELESS = 2
# without garbage collection, which has nothing to find yet, a node is there a sixth sooner
_RUN = f"""
sys.argv.pop(0)
import gc, importlib, traceback
gc.disable()
try:
    module = importlib.import_module(sys.argv[0])
except ImportError:
    traceback.print_exc()
    sys.exit({HOPELESS})
gc.enable()
module.main()
"""
_LAST_WORDS_BYTES = 600
_LOGGED = re.compile(r"\d{4}-\d\d-\d\dT")  # what comes from `Log`; Python itself knows no time
_KILL_TIME = 0.05  # ours: seconds


class Process:
    """A running child.

    Attributes:
        sock: to it; non-blocking.
        pidfd: readable when it has ended.
        status: of its end, as `subprocess` has it; once `how_it_ended` was asked.
    """

    def __init__(
        self, what: str, sock: socket.socket, command: Sequence[object], fds: Sequence[int], log: Path
    ) -> None:
        """Start it; raises OSError, and leaves nothing then.

        Args:
            what: what to call it.
            sock: our end of its socket; belongs to this object from now on, whatever happens.
            command: its module, whose `main` is called, and its arguments.
            fds: that it inherits.
            log: that it writes to.
        """
        self.sock = sock
        self.status = 0
        self._what = what
        self._log = log
        try:
            with open(self._log, "ab") as file:
                self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                    isolated(_RUN, *map(str, command)),
                    stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=ENVIRONMENT,
                    pass_fds=fds, start_new_session=True,
                )  # fmt: skip
            self.sock.setblocking(False)
            self.pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            self.sock.close()
            raise

    @classmethod
    def node(cls, program: str, document: int, folder: Path) -> Self:
        """A node process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fds = (theirs.fileno(), document)
            return cls("the node process", ours, (program, *fds, folder), fds, folder / LOG)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, message: messages.Message, fds: Sequence[int] = ()) -> bool:
        """Send it a message; False: it does not read, so the message is lost. One that has gone misses nothing."""
        try:
            messages.send(self.sock, message, fds)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except OSError:
            return False
        return True

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
        if select.select([self.pidfd], [], [], _KILL_TIME)[0]:
            self._process.wait()

    def how_it_ended(self) -> str:
        """What became of it, once `pidfd` is readable; with its last words."""
        self.status = self._process.wait()
        if self.status < 0:
            with suppress(ValueError):
                return f"{self._what} was killed by {signal.Signals(-self.status).name}"
        return f"{self._what} ended with status {self.status}, saying: {self._last_words()}"

    def close(self) -> None:
        """Let go of what belongs to it."""
        self.sock.close()
        os.close(self.pidfd)

    def _last_words(self) -> str:
        with suppress(OSError), open(self._log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
            said = (line.strip() for line in reversed(lines) if line.strip() and not _LOGGED.match(line))
            return next(said, "nothing")
        return "nothing"


class Ends:
    """How often something has ended of late.

    Args:
        many: so many ends …
        seconds: … within this time are too many.
    """

    def __init__(self, many: int, seconds: float) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=many)

    def are_too_many(self, now: float) -> bool:
        """Count one more; whether that is too many."""
        self._times.append(now)
        return len(self._times) == self._times.maxlen and now - self._times[0] < self._seconds

# SPDX-License-Identifier: BSD-3-Clause
"""The worker, which carries the packets of established sessions: started when the node asks for one, and again whenever
it ends, for nothing of the sessions is in it.

    keeper ──argv: two sockets, the files below, how──► worker
           ──{"do": "node"} and a socket──────────────► the next node, when there is another
           ──end of file: leave───────────────────────►

    PROGRAM  socket to the node, socket to the keeper, TUN, UDP socket, session memory, counters  1: vnet_hdr  ENGINE

It says nothing to its keeper; how it ends says enough. Status 2 (`HOPELESS`): it can do nothing on this machine, and
its last line on standard error tells why. Any other end is an accident, and the next worker is started at once; after a
few of them there is a pause before each, and the node is told why.

To the node every worker is a fresh socket (messages.py), and all of them are one set of counters.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from ts4nsnet.keeper.inside import Watch
from ts4nsnet.keeper.log import LOG
from ts4nsnet.keeper.messages import Message
from ts4nsnet.keeper.process import HOPELESS, Ends, Process

# ours: so many ends within seconds are too many; then seconds before each start
MANY_ENDS, ENDS_TIME = 5, 10.0
PAUSE = 1.0
# ours: one page; several times what is counted
COUNTERS_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Gear:
    """What a worker works with; numbers of file descriptors of this process.

    Attributes:
        tun, udp, memory: a TUN queue, the socket under the tunnel, the session memory.
        vnet_hdr: whether the TUN's frames have one.
        engine: one of `messages.ENGINES`.
    """

    tun: int
    udp: int
    memory: int
    vnet_hdr: bool
    engine: str


class Worker:
    """The worker of one node, if any.

    Args:
        program: the module whose `main` is the worker.
        folder: the node's, with its log.
        watch: see `inside.Watch`.
        say: writes a line to the log.
        tell: tells the node something, with file descriptors, or nobody while there is none; False: it does not read.

    Attributes:
        counters: fd of their memory.
        due: when `serve_again` is to be called; monotonic seconds, inf: not at all.
    """

    def __init__(
        self,
        program: str,
        folder: Path,
        watch: Watch,
        say: Callable[[str], None],
        tell: Callable[[Message, Sequence[int]], bool],
    ) -> None:
        self.counters = os.memfd_create("ts4nsnet-counters", os.MFD_CLOEXEC)
        os.ftruncate(self.counters, COUNTERS_BYTES)
        self.due = inf
        self._program = program
        self._log = folder / LOG
        self._watch = watch
        self._say = say
        self._tell = tell
        self._gear: Gear | None = None
        self._process: Process | None = None
        self._ends = Ends(MANY_ENDS, ENDS_TIME)

    def serve(self, gear: Gear) -> None:
        """Give the node a socket to a worker with this gear: to the one that runs, or else to a new one."""
        self.due = inf
        if self._process is None or gear != self._gear:
            self.close()
            self._gear = gear
            self._start(gear)
        else:
            self._introduce(self._process)

    def serve_again(self) -> None:
        """Do as `serve` with the gear of the last time, if there was one."""
        if self._gear is not None:
            self.serve(self._gear)

    def close(self) -> None:
        """Kill it, and start no other."""
        self.due = inf
        if self._process is not None:
            self._process.kill()
            self._forget(self._process)

    def _introduce(self, process: Process) -> None:
        """Connect the node to a running worker."""
        try:
            nodes, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            self.due = time.monotonic() + PAUSE
            return
        with nodes, workers:
            if process.tell({"do": "node"}, [workers.fileno()]):
                self._tell_surely({"do": "worker"}, [nodes.fileno()])
            else:
                self.due = time.monotonic() + PAUSE

    def _start(self, gear: Gear) -> None:
        try:
            nodes, workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with nodes, workers:
                process = self._process = self._new_process(gear, workers.fileno())
                self._tell_surely({"do": "worker"}, [nodes.fileno()])
        except OSError as error:
            self._start_another(f"starting the worker: {error.strerror}")
        else:
            self._watch(process.pidfd, lambda: self._has_ended(process))

    def _new_process(self, gear: Gear, node: int) -> Process:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fds = (node, theirs.fileno(), gear.tun, gear.udp, gear.memory, self.counters)
            command = (self._program, *fds, int(gear.vnet_hdr), gear.engine)
            return Process("the worker", ours, command, fds, self._log)

    def _has_ended(self, process: Process) -> None:
        how = process.how_it_ended()
        self._forget(process)
        if process.status == HOPELESS:
            self._say(how)
            self._tell_surely({"do": "worker", "error": how}, ())
        else:
            self._start_another(how)

    def _start_another(self, how: str) -> None:
        now = time.monotonic()
        if self._ends.are_too_many(now):
            self.due = now + PAUSE
            self._say(f"{how}; there is another in {PAUSE:g} s")
            self._tell({"do": "worker", "trouble": how}, ())
        else:
            self._say(f"{how}; there is another at once")
            self.serve_again()

    def _tell_surely(self, message: Message, fds: Sequence[int]) -> None:
        """Tell the node what it must know; one that does not read (it may be stopped) will be served again."""
        if not self._tell(message, fds):
            self.due = time.monotonic() + PAUSE

    def _forget(self, process: Process) -> None:
        self._process = None
        self._watch(process.pidfd, None)
        process.close()

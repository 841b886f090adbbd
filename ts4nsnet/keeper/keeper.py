# SPDX-License-Identifier: BSD-3-Clause
"""The keeper: one loop over what can happen to a node, from its start to its end.

    STARTING ──ready──► RUNNING ──┬─ exit-fd, a signal, the target's end ──► LEAVING ──node has ended──► exit code 0
        │                         └─ the node gives up, or ends too often ─► LEAVING ──node has ended──► exit code 1
        └─ not ready in time, no TUN, the node gives up or ends ──────────► LEAVING ──node has ended──► exit code 1

Starting: nothing at all for a container that has ended already, so that no tailnet hears of it. Else the node process,
which takes its time to import things, and the netns child, which makes the TUN, at the same moment. Whatever the node
asks for before it is there is answered when it is.

Running: a node process that dies is started again, for all that it needs is here: the TUN, the UDP socket, the session
memory, the document, and the worker, which has carried packets on meanwhile (worker.py). One that dies before it was
ready is not, nor one that ends by itself: the next would fare no better.

Leaving: the worker is killed and the TUN closed here, the node is told to close it and to log out; the netns children
are killed, as nothing that they do matters any more. The node has `STOP_TIME`, then it is killed, and the file of its
API socket removed, unless a successor listens there. The node's folder goes last of all, unless something went wrong:
then its log is kept for whoever wants to know.

While nothing happens the keeper sleeps without a timer.
"""

import fcntl
import os
import selectors
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum, auto
from math import inf
from pathlib import Path

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keeper.folder import About, NodeFolder, remove_dead_socket
from ts4nsnet.keeper.inside import Inside
from ts4nsnet.keeper.log import Log
from ts4nsnet.keeper.messages import Malformed, Message
from ts4nsnet.keeper.plan import KeeperError, Plan
from ts4nsnet.keeper.process import Ends, Process
from ts4nsnet.keeper.watch import Watch
from ts4nsnet.keeper.worker import Gear, Worker
from ts4nsnet.netns import NetnsError
from ts4nsnet.sockets import open_socket

# ours: seconds for the node to leave; a container's end may take 2 in all
STOP_TIME = 1.85
# ours: requests of a node that wait for the TUN; later ones are dropped
MAX_WAITING = 64
# ours: the node process may die so often within seconds, less once; something is very wrong then
MANY_ENDS, ENDS_TIME = 6, 60.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class _Phase(Enum):
    STARTING = auto()
    RUNNING = auto()
    LEAVING = auto()
    ENDED = auto()


class Keeper:
    """Keeps one node.

    Args:
        plan: what it is to be.
        document: fd of what the node process is told.

    Raises:
        FolderError, KeeperError: it cannot be started.
    """

    def __init__(self, plan: Plan, document: int) -> None:
        self._plan = plan
        self._document = document
        self._phase = _Phase.STARTING
        self._deadline = time.monotonic() + plan.ready_time  # while STARTING or LEAVING; else inf
        self._error = ""  # what is to be said at the end; nothing if the end was asked for
        self._is_late = False  # not ready in time, and has not said why
        self._waiting: list[Message] = []  # requests for what is not there yet
        self._memory, self._memory_size = -1, 0
        self._selector = selectors.PollSelector()
        try:
            self._udp = open_socket(plan.port)
        except OSError as error:
            advice = "give another port" if plan.port else "see ulimit -n"
            raise KeeperError(f"opening UDP port {plan.port or '(any)'}: {error.strerror}; {advice}") from None
        self._folder = NodeFolder.create(Path(plan.runtime_folder), plan.hostname)
        self._about = About(plan.hostname, plan.container, os.getpid(), started_at=time.time())
        self._log = Log(self._folder.path)
        self._node: Process | None = None
        self._node_ends = Ends(MANY_ENDS, ENDS_TIME)
        self._inside = Inside(plan.target, plan.interface, self._watch, self._answer_waiting)
        self._worker = Worker(plan.worker, self._folder.path, self._watch, self._log.write, self._tell)

    def run(self) -> int:
        """Start the node, and keep it until its end; the exit code."""
        with _signals() as signals, Watch(self._plan.target) as target:
            self._watch(signals, lambda: self._leave(f"received {_name(os.read(signals, 64))}"))
            if self._plan.exit_fd is not None:
                self._watch_for_the_end(self._plan.exit_fd, lambda: "the container tool asks for it (exit-fd)")
            if target.fd >= 0:
                self._watch_for_the_end(target.fd, lambda: "the container has ended" if target.has_ended() else "")
            self._act(0)  # on an end that has come already
            if self._phase is _Phase.STARTING:
                self._start()
            while self._phase is not _Phase.ENDED:
                self._step()
        return self._finish()

    def _watch(self, fd: int, called: Callable[[], object] | None) -> None:
        """Have `called` called whenever `fd` is readable or at its end; None: no longer."""
        if called is not None:
            self._selector.register(fd, selectors.EVENT_READ, called)
        elif fd in self._selector.get_map():
            self._selector.unregister(fd)

    def _watch_for_the_end(self, fd: int, reason: Callable[[], str]) -> None:
        """Leave once `fd` is readable and there is a reason; such an fd stays readable, so it is left alone then."""

        def look() -> None:
            if why := reason():
                self._watch(fd, None)
                self._leave(why)

        self._watch(fd, look)

    def _step(self) -> None:
        """Wait for something to happen, and act on it."""
        due = min(self._deadline, self._worker.due)
        has_happened = self._act(None if due == inf else max(0.0, due - time.monotonic()))
        now = time.monotonic()
        if not has_happened and now >= self._deadline:
            self._time_is_up()
        if now >= self._worker.due:
            self._worker.serve_again()

    def _act(self, timeout: float | None) -> bool:
        """Act on what happens within so many seconds, or ever; whether anything has."""
        happened = self._selector.select(timeout)
        for key, _ in happened:
            if self._selector.get_map().get(key.fd) is key:  # what happened before may have ended this watch
                key.data()
        return bool(happened)

    def _time_is_up(self) -> None:
        if self._phase is _Phase.STARTING:
            self._is_late = True
            self._fail(f"not ready within {self._plan.ready_time:g} s")
        else:
            self._log.write("the node process did not leave in time and is killed")
            if self._node is not None:
                self._node.kill()
            self._phase = _Phase.ENDED

    # --- starting -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._log.write(f"starting in {self._plan.target}")
        try:
            self._folder.write_about(self._about)  # a node that leaves sees by it that it has a successor
            self._start_node()
            self._inside.start()
        except (Ts4nsnetError, OSError) as error:
            self._fail(str(error))

    def _start_node(self) -> None:
        node = Process.node(self._plan.program, self._document, self._folder.path)
        self._node = node
        self._watch(node.sock.fileno(), lambda: self._hear(node))
        self._watch(node.pidfd, lambda: self._node_has_ended(node))
        self._folder.write_about(replace(self._about, node_pid=node.pid))

    # --- what the node says --------------------------------------------------------------------------------------

    def _hear(self, node: Process) -> None:
        try:
            for message in node.heard():
                if message is None:
                    self._watch(node.sock.fileno(), None)
                elif message["do"] == "ready":
                    self._is_ready()
                elif message["do"] == "failed":
                    self._fails(message["text"])
                else:
                    self._answer(message)
        except Malformed as error:
            self._watch(node.sock.fileno(), None)
            self._fail(str(error))

    def _is_ready(self) -> None:
        if self._phase is not _Phase.STARTING:
            return
        self._phase = _Phase.RUNNING
        self._deadline = inf
        self._log.write("ready")
        if self._plan.ready_fd is not None:
            with suppress(OSError):  # who waited for it has gone
                os.write(self._plan.ready_fd, b"1")
            os.close(self._plan.ready_fd)

    def _fails(self, why: str) -> None:
        """What the node says: the reason of the end, or that of having been late."""
        if self._is_late and self._phase is _Phase.LEAVING:
            self._error, self._is_late = f"{self._error}: {why}", False
        self._fail(why)

    def _answer_waiting(self) -> None:
        if self._inside.error is not None:
            self._fail(str(self._inside.error))
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self._answer(message)

    def _answer(self, message: Message) -> None:
        tun, answer = self._inside.tun, {"id": message.get("id")}
        if self._phase is _Phase.LEAVING:
            self._tell({**answer, "error": ["asking the keeper", "", "the node is to leave", "start ts4nsnet anew"]})
            return
        match message["do"]:
            case "udp":
                self._tell(answer, [self._udp.fileno()])
            case "memory":
                self._tell(answer, [self._session_memory(message["size"])])
                self._answer_waiting()
            case "counters":
                self._tell(answer, [self._worker.counters])
            case "tun" if tun is not None:
                self._tell({**answer, "name": tun.name, "vnet_hdr": tun.vnet_hdr, "offload": tun.offload}, tun.fds)
            case "worker" if tun is not None and self._memory >= 0:
                self._worker.serve(Gear(tun.fds[0], self._udp.fileno(), self._memory, tun.vnet_hdr, message["engine"]))
            case "netns" if self._inside.is_closed_off:
                try:
                    self._inside.give_child(lambda fds: self._tell(answer, fds))
                except NetnsError as error:
                    self._tell({**answer, "error": [error.step, error.namespace, error.reason, error.advice]})
            case _ if len(self._waiting) < MAX_WAITING:
                self._waiting.append(message)

    def _tell(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Tell the node something, if there is one; see `Process.tell`."""
        return self._node is None or self._node.tell(message, fds)

    def _session_memory(self, size: int) -> int:
        """The memory that the node before this one had, if it is of that size; else zeroes."""
        if size != self._memory_size:
            before = self._memory
            self._memory = os.memfd_create("ts4nsnet-sessions", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._memory, size)
            fcntl.fcntl(self._memory, fcntl.F_ADD_SEALS, _SEALS)
            self._memory_size = size
            if before >= 0:  # closed last: the new one's number is another, by which a worker's gear is told apart
                os.close(before)
        return self._memory

    # --- leaving ------------------------------------------------------------------------------------------------

    def _node_has_ended(self, node: Process) -> None:
        self._hear(node)  # its last words may explain it
        how = node.how_it_ended()
        self._watch(node.sock.fileno(), None)
        self._watch(node.pidfd, None)
        node.close()
        self._node = None
        self._waiting.clear()
        if self._phase is _Phase.LEAVING:
            self._phase = _Phase.ENDED
        elif self._phase is _Phase.STARTING or node.status == 0:
            self._fail(how)
        elif self._node_ends.are_too_many(time.monotonic()):
            self._fail(f"{how}; that was the {MANY_ENDS}th end within {ENDS_TIME:g} s")
        else:
            self._start_another_node(how)

    def _start_another_node(self, how: str) -> None:
        self._log.write(f"{how}; another is started")
        try:
            self._start_node()
        except (Ts4nsnetError, OSError) as error:
            self._fail(f"{how}; starting another: {error}")

    def _leave(self, why: str) -> None:
        """End the node in order; an end that was begun already goes on as it is."""
        if self._phase in {_Phase.LEAVING, _Phase.ENDED}:
            return
        self._phase = _Phase.LEAVING
        self._log.write(f"leaving: {why}")
        self._deadline = time.monotonic() + STOP_TIME
        self._worker.close()
        self._inside.close()
        if self._node is not None:
            self._node.tell({"do": "stop"})
            self._answer_waiting()
        else:
            self._phase = _Phase.ENDED

    def _fail(self, error: str) -> None:
        if self._phase not in {_Phase.LEAVING, _Phase.ENDED}:
            self._error = error
            self._leave(error)

    def _finish(self) -> int:
        if self._plan.api_socket and (self._node is not None or self._error):  # a node that leaves in order removes it
            remove_dead_socket(Path(self._plan.api_socket))
        if not self._error:
            self._log.close()
            self._folder.remove()
            return 0
        complain(f"{self._error}; more in `ts4nsnet logs {self._folder.name}`")
        return 1


def complain(text: str) -> None:
    """Say on standard error why there is no node; container tools show it."""
    with suppress(OSError):
        os.write(2, f"ts4nsnet: {text}\n".encode(errors="replace"))


@contextmanager
def _signals() -> Iterator[int]:
    """Those that end us, as bytes that can be read; what the caller has us ignore stays ignored."""
    readable, writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    yield readable


def _name(numbers: bytes) -> str:
    return signal.Signals(numbers[0]).name

# SPDX-License-Identifier: BSD-3-Clause
"""The process of `ts4nsnet run`: starts the command's process and the node's keeper, and waits for both.

    Entering   the command's process makes its namespaces         its word: Joining, or we end
    Joining    the keeper starts a node in them                   "1" on its ready-fd: Running; its end: we end
    Running    the command is executed, in the same process       its end: Leaving
    Leaving    exit-fd is closed, the keeper ends                 and so do we

The command's process is forked before the secrets are read, so they are in no memory that it executes from. It dies
with us. Signals are read from a signalfd(2), which also tells the terminal's own from those that somebody sent: the
terminal's have reached the command already, as it is in our process group. The keeper is in a session of its own.
"""

import ctypes
import json
import os
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from typing import NoReturn

from ts4nsnet.cli import namespaces
from ts4nsnet.cli.run import FAILED
from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keeper import Plan, launch
from ts4nsnet.netns import Target
from ts4nsnet.node.settings import DEFAULT_CIDR, Settings
from ts4nsnet.sandbox import hide

NOT_EXECUTABLE, NOT_FOUND = 126, 127
# ours: seconds; a keeper has 2
LEAVE_TIME = 5.0
NAMESERVER = str(IPv4Network(DEFAULT_CIDR)[3])
PASSED_ON = (
    signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
)  # fmt: skip
_PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)  # which it ignores, and what it executes should not
_SI_KERNEL = 0x80  # <asm-generic/siginfo.h>: nobody sent it, it was the terminal
_SIGINFO = struct.Struct("=Iii116x")  # of signalfd(2): signal, errno, code, …
_SIGSET_BYTES = 128  # of the C library
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> NoReturn:
    """Run `sys.argv[2:]`, with the document in the memory file `sys.argv[1]`."""
    document = int(sys.argv[1])
    os.set_inheritable(document, False)
    os._exit(Supervisor(sys.argv[2:]).run(document))


class Supervisor:
    """A command and its node.

    Args:
        command: the program and its arguments.
        become_keeper: what makes a process the keeper.
        leave_time: seconds until a keeper that does not end is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        become_keeper: Callable[[Plan, bytes], NoReturn] = launch,
        leave_time: float = LEAVE_TIME,
    ) -> None:
        self._command = command
        self._launch = become_keeper
        self._leave_time = leave_time
        signals = [s for s in PASSED_ON if signal.getsignal(s) != signal.SIG_IGN]
        self._old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, [*signals, signal.SIGCHLD])
        self._signals = _signalfd([*signals, signal.SIGCHLD])
        self._child = self._keeper = 0  # process ids; 0: there is none
        self._running = False
        self._result: int | None = None  # the exit code, once it is known

    def run(self, document: int) -> int:
        """From the beginning to the end; the exit code is returned.

        Args:
            document: descriptor of a file with what the node's process is to read; it is closed.
        """
        word, word_theirs = os.pipe()
        go_theirs, go = os.pipe()
        self._child = _fork(lambda: self._become_command(word_theirs, go_theirs, (document, word, go)))
        _close(word_theirs, go_theirs)
        if _hear(word):
            ready, ready_theirs = os.pipe()
            leave_theirs, leave = os.pipe()
            self._keeper = _fork(lambda: self._become_keeper(document, ready_theirs, leave_theirs, (leave, go)))
            _close(ready_theirs, leave_theirs, document)
            self._watch(ready, go)
            _close(leave)
        _close(go)
        exit_code = FAILED if self._result is None else self._result
        self._end()
        return exit_code

    def _become_command(self, word: int, go: int, others: Sequence[int]) -> int:
        """The child's life: namespaces, a word to the parent, and when that lets it go, the command."""
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _close(*others)
        if problem := namespaces.enter(NAMESERVER):
            _say(problem)
        os.write(word, b"1")
        os.close(word)
        if not os.read(go, 1):
            return FAILED
        for number in _PYTHONS_OWN:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        try:
            os.execvp(self._command[0], list(self._command))  # noqa: S606  (what we are for)
        except OSError as error:
            _say(f"{self._command[0]}: {error.strerror}")
            return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE

    def _become_keeper(self, document: int, ready: int, leave: int, others: Sequence[int]) -> int:
        hide("ts4nsnet")
        _close(*others)  # our end of `leave` above all: while it is open, nobody is told to leave
        os.setsid()  # the terminal's signals are not for it
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        text = os.pread(document, os.fstat(document).st_size, 0)
        settings = Settings.from_json(json.loads(text)["settings"])
        plan = Plan(Target(self._child), settings.hostname, settings.runtime_folder, ready_fd=ready, exit_fd=leave)
        self._launch(plan, text)

    def _watch(self, ready: int, go: int) -> None:
        """Until there is a result: signals, children that end, and the node that is ready."""
        poll = select.poll()
        poll.register(ready, select.POLLIN)  # first: what the keeper said, and then its end
        poll.register(self._signals, select.POLLIN)
        while self._result is None:
            for fd, _ in poll.poll():
                if fd == ready:
                    poll.unregister(ready)
                    self._running = bool(os.read(ready, 1))
                    with suppress(BrokenPipeError):  # it has been killed; that comes as a signal
                        os.write(go, b"1" * self._running)
                else:
                    self._handle_signal()

    def _handle_signal(self) -> None:
        number, _, code = _SIGINFO.unpack(os.read(self._signals, _SIGINFO.size))
        if number == signal.SIGCHLD:
            self._reap()
        elif not self._running:
            self._result = 128 + number
        elif code != _SI_KERNEL:
            os.kill(self._child, number)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, code = ended[0], os.waitstatus_to_exitcode(ended[1])
                if pid == self._child:
                    self._child = 0
                    self._result = (code if code >= 0 else 128 - code) if self._result is None else self._result
                elif pid == self._keeper:
                    self._keeper = 0
                    if not self._running and self._result is None:
                        self._result = FAILED  # it has said why

    def _end(self) -> None:
        """Both processes end, if need be by force."""
        if self._child:
            os.kill(self._child, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._signals, select.POLLIN)
        give_up_at = time.monotonic() + self._leave_time
        self._reap()
        while self._child or self._keeper:
            if poll.poll(max(0.0, give_up_at - time.monotonic()) * 1000):
                os.read(self._signals, _SIGINFO.size)
            elif self._keeper:
                os.kill(self._keeper, signal.SIGKILL)
                give_up_at += self._leave_time
            self._reap()


def _fork(become: Callable[[], int]) -> int:
    pid = os.fork()
    if pid:
        return pid
    exit_code = FAILED
    try:
        exit_code = become()
    except (Ts4nsnetError, OSError) as error:
        _say(str(error))
    except BaseException:  # a defect of ours, which the process shall not take along unsaid
        traceback.print_exc()
        raise
    finally:
        os._exit(exit_code)


def _hear(word: int) -> bool:
    """The command's process has its namespaces; if not, it has said why."""
    said = os.read(word, 1)
    os.close(word)
    return bool(said)


def _signalfd(signals: Sequence[int]) -> int:
    mask = sum(1 << (number - 1) for number in signals).to_bytes(_SIGSET_BYTES, sys.byteorder)
    fd: int = _libc.signalfd(-1, mask, os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "signalfd")
    return fd


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def _say(text: str) -> None:
    print(f"ts4nsnet run: {text}", file=sys.stderr, flush=True)  # noqa: T201  (a command's standard error)

# SPDX-License-Identifier: BSD-3-Clause
"""Network namespaces to run things in, and what runs there: the ground that tests/topology.py builds on.

A `Namespace` is entered by the calling thread (`setns`), for the length of a `with` block. What is made there stays
there: a socket keeps the namespace that it was made in, a child process that of the thread which started it. So the
same four lines serve commands, background processes and the test's own sockets, and no helper process is needed.

Output is never lost: a failing command shows all of it, a background process keeps its lines for `wait_for` and for
the report of a failed test. Waiting is always for an event and always has a time limit; nothing sleeps.
"""

import ctypes
import os
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM
from socket import socket as Socket  # noqa: N812  # Namespace has a method of that name

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
TIME_LIMIT = 10.0  # seconds; ours, for whatever does not say another
_libc = ctypes.CDLL(None, use_errno=True)


class CommandFailed(AssertionError):
    """A command in a namespace did not do what the test needs; the text holds the command and its output."""

    def __init__(self, where: str, command: Sequence[str], what: str, *texts: str) -> None:
        parts = [f"{where}: {shlex.join(command)}: {what}", *(text.rstrip() for text in texts if text)]
        super().__init__("\n".join(parts))


class Namespace:
    """A network namespace: run commands, start processes and make sockets in it."""

    def __init__(self, name: str, netns: str) -> None:
        self.name = name
        self.netns = netns  # a path for setns, nsenter and our own options
        self._inode = os.stat(netns).st_ino  # of the namespace; `netns` may be gone at the end
        self._processes: list[Process] = []
        self._sockets: list[Socket] = []

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in this namespace within the block. Do not await there: other tasks would be too."""
        with open("/proc/thread-self/ns/net") as ours, open(self.netns) as theirs:
            _enter(theirs.fileno())
            try:
                yield
            finally:
                _enter(ours.fileno())

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = TIME_LIMIT,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; raises CommandFailed after `timeout` seconds and, with `check`, when it fails."""
        try:
            with self.entered():
                done = subprocess.run(
                    command,
                    input=stdin,
                    capture_output=True,
                    text=True,
                    timeout=timeout,
                    env={**os.environ, **(env or {})},
                    check=False,
                )
        except subprocess.TimeoutExpired as expired:
            texts = [_text(output) for output in (expired.stdout, expired.stderr)]
            raise CommandFailed(self.name, command, f"still running after {timeout} s", stdin, *texts) from None
        if check and done.returncode:
            raise CommandFailed(self.name, command, f"exit code {done.returncode}", stdin, done.stdout, done.stderr)
        return done

    def start(self, *command: str, pass_fds: Sequence[int] = (), env: Mapping[str, str] | None = None) -> "Process":
        """Start a background process. It ends with the topology, at the latest."""
        with self.entered():
            popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            )
        process = Process(self.name, command, popen)
        self._processes.append(process)
        return process

    def socket(self, family: int = AF_INET, kind: int = SOCK_DGRAM) -> Socket:
        """A socket of the test process that sends and receives here. It waits 10 s at most; the topology closes it."""
        with self.entered():
            made = Socket(family, kind)
        made.settimeout(TIME_LIMIT)
        self._sockets.append(made)
        return made

    def close(self) -> str:
        """End every process here, also those that daemonized, and return what the started ones have said."""
        for sock in self._sockets:
            sock.close()
        reports = [process.close() for process in self._processes]
        for pid in _pids_in(self._inode):
            _end(pid)
        return "".join(reports)


class Process:
    """A background process in a namespace; stdout and stderr are one stream of lines."""

    def __init__(self, where: str, command: Sequence[str], popen: subprocess.Popen[bytes]) -> None:
        self.pid = popen.pid
        self._where = where
        self._command = command
        self._popen = popen
        self._lines: list[str] = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """Everything it has said so far."""
        with self._news:
            return "".join(self._lines)

    def wait_for(self, text: str, timeout: float = TIME_LIMIT) -> str:
        """The first line, old or new, that contains `text`; CommandFailed when none comes within `timeout` seconds."""
        until = time.monotonic() + timeout
        with self._news:
            seen = 0
            while True:
                for line in self._lines[seen:]:
                    if text in line:
                        return line
                seen = len(self._lines)
                if self._ended or not self._news.wait(until - time.monotonic()):
                    why = "ended" if self._ended else f"ran {timeout} s"
                    raise CommandFailed(self._where, self._command, f"{why} without saying {text!r}", *self._lines)

    def wait(self, timeout: float = TIME_LIMIT) -> int:
        """Its exit code (minus the signal that ended it); CommandFailed when it runs longer than `timeout` seconds."""
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            what = f"still running after {timeout} s"
            raise CommandFailed(self._where, self._command, what, self.output) from None
        return self._popen.returncode

    def said(self, timeout: float = TIME_LIMIT) -> str:
        """All that it says, once its output has ended; CommandFailed when that takes more than `timeout` seconds."""
        with self._news:
            if not self._news.wait_for(lambda: self._ended, timeout):
                raise CommandFailed(self._where, self._command, f"still there after {timeout} s", *self._lines)
            return "".join(self._lines)

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing happens when it has ended."""
        self._popen.send_signal(number)

    def stop(self, timeout: float = TIME_LIMIT) -> int:
        """Ask it to end (SIGTERM) and return its exit code; CommandFailed when it runs on."""
        self._popen.terminate()
        return self.wait(timeout)

    def close(self) -> str:
        """End it at once and return what a failed test shows of it."""
        how = "" if self._popen.poll() is None else f", exit code {self._popen.returncode}"
        self._popen.kill()
        self._popen.wait()
        self._reader.join(timeout=0.1)  # longer only where a child of it still holds the pipe
        return f"--- {self._where}: {shlex.join(self._command)}{how}\n{self.output}"

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for line in stream:
                with self._news:
                    self._lines.append(line.decode(errors="replace"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def _pids_in(inode: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it ended, or is a zombie
                if os.stat(entry / "ns/net").st_ino == inode:
                    found.append(int(entry.name))
    return found


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(TIME_LIMIT * 1000)
        finally:
            os.close(fd)
    with suppress(ChildProcessError):  # we are process 1: what daemonized has become our child
        os.waitpid(pid, 0)

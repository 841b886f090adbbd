# SPDX-License-Identifier: BSD-3-Clause
"""The parent's end: starts the netns child, asks it, and always gets rid of it.

Plain blocking calls with a deadline; they may be made from any thread and start none. The child is started by
`subprocess` (exec, no Python between fork and exec) with an empty environment, no standard input or output (a container
tool reads ours) and a memory file for its last words. The child dies with the *thread* that started it, so a
`NetnsChild` stays in one thread.

A child that has been idle may leave just when it is asked. It then ends with status 0 and without an answer, and the
request, which it never saw, is given to a fresh one.
"""

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ts4nsnet.netns import wire
from ts4nsnet.netns.model import Configured, Link, NetnsError, Target, Tun, check_name, check_queues

# ours: seconds; a namespace is configured in 0.2, some thousand routes take a second
REQUEST_TIME = 10.0
# ours: seconds that a child may take to leave after its socket is closed, before it is killed
LEAVE_TIME = 1.0
_LAST_WORDS = 600  # bytes of the child's stderr in an error
# what -I leaves out is where our own modules may be, as with `pip install --user`
_CHILD = "import sys; sys.path[:] = sys.argv[2:]; from ts4nsnet.netns.enter import main; main()"


@dataclass(frozen=True, slots=True)
class _Running:
    """A started child and what belongs to it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    stderr: int

    def end(self, wait_time: float) -> tuple[int | None, str]:
        """End the child within `wait_time` seconds or kill it, reap it, close all; (its status, its last words)."""
        self.sock.close()
        try:
            self.process.wait(wait_time)
        except subprocess.TimeoutExpired:
            self.process.kill()
            with suppress(subprocess.TimeoutExpired):  # the kernel holds it; subprocess reaps it later
                self.process.wait(LEAVE_TIME)
        except BaseException:  # an interrupt while waiting
            self.process.kill()
            self.process.wait()
            raise
        finally:
            start = max(0, os.fstat(self.stderr).st_size - _LAST_WORDS)
            words = os.pread(self.stderr, _LAST_WORDS, start).decode(errors="replace").strip()
            os.close(self.stderr)
        return self.process.returncode, words


class NetnsChild:
    """A child inside `target`, for several requests in a row; started when the first one comes.

        with NetnsChild(Target("/run/netns/web")) as child:
            tun = child.open_tun("tap0")
            child.configure(Link("tap0", addresses=("100.64.0.7",)))

    Leaving the block ends and reaps the child. One that is idle for a second leaves by itself (and is reaped by the
    next call); a later request starts another. All methods raise `NetnsError`.
    """

    def __init__(self, target: Target, *, request_time: float = REQUEST_TIME) -> None:
        """`request_time`: seconds for each request, the start of a child included."""
        self._target = target
        self._request_time = request_time
        self._running: _Running | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one that was not reaped."""
        return None if self._running is None else self._running.process.pid

    def open_tun(self, name: str, queues: int = 1) -> Tun:
        """Make the TUN `name` with `queues` queues; a TUN or TAP of that name is replaced, whoever has it open.

        It is down and has no addresses. The kernel's best: virtio_net_hdr and all offloads where it has them.

        Raises:
            NetnsError: a step failed; there is no new device and no open fd.
        """
        check_name(name)
        check_queues(queues)
        reply, fds = self._request({"do": "open_tun", "name": name, "queues": queues})
        tun = Tun(name, tuple(fds), reply["vnet_hdr"], reply["offload"])
        if len(fds) != queues:
            tun.close()
            raise self._error("receiving the TUN's file descriptors", f"{len(fds)} came, not {queues}")
        return tun

    def configure(self, link: Link) -> Configured:
        """Bring `lo` up and make the link as asked: adds what is missing, removes what we had added before.

        Nothing is touched that is as asked already, nor what others have added; open fds of the TUN never are.
        The link is up before its routes come; a route that changes is replaced, never absent.

        Raises:
            NetnsError: a step failed; what came before it stays. Asking again goes on from there.
        """
        reply, _ = self._request({"do": "configure", "link": link.to_message()})
        return Configured(reply["changes"], tuple(reply["skipped"]))

    def close(self) -> None:
        """End the child and reap it, within `LEAVE_TIME`; nothing where there is none."""
        if self._running is not None:
            running, self._running = self._running, None
            running.end(LEAVE_TIME)

    def _request(self, message: wire.Message) -> tuple[wire.Message, list[int]]:
        give_up_at = time.monotonic() + self._request_time
        message["target"] = {"netns": self._target.netns, "userns": self._target.userns}
        received = None
        while received is None:
            had_one, running = self._running is not None, self._start()
            try:
                received = self._exchange(running, message, give_up_at)
            except BaseException:
                self._running = None
                running.end(0)
                raise
            if received is None:
                self._running = None
                status, words = running.end(LEAVE_TIME)
                if status != 0 or not had_one:
                    raise self._error("waiting for the netns child", f"it ended with status {status}: {words or '-'}")
        reply, fds = received
        if "error" in reply:
            raise NetnsError(*reply["error"])
        return reply, fds

    def _exchange(
        self, running: _Running, message: wire.Message, give_up_at: float
    ) -> tuple[wire.Message, list[int]] | None:
        """One request and its answer; None when the child has gone."""
        try:
            wire.send(running.sock, message, (), give_up_at)
            return wire.receive(running.sock, give_up_at)
        except TimeoutError:
            raise self._error("waiting for the netns child", f"no answer in {self._request_time} s") from None
        except wire.FdsLost:
            reason = "this process has too many open files"
            raise self._error("receiving the TUN's file descriptors", reason, "raise ulimit -n") from None
        except (BrokenPipeError, ConnectionResetError):
            return None

    def _start(self) -> _Running:
        """The running child; a new one where there is none."""
        if self._running is not None:
            return self._running
        step = "starting the netns child"
        if not sys.executable:
            raise self._error(step, "Python does not know its own path (sys.executable)", "run it by its full path")
        ours = theirs = None
        stderr = -1
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            stderr = os.memfd_create("netns-child-stderr")
            process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                [sys.executable, "-I", "-c", _CHILD, str(theirs.fileno()), *filter(None, sys.path)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
                env={"LC_ALL": "C.UTF-8"}, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        except BaseException as error:
            if ours is not None:
                ours.close()
            if stderr >= 0:
                os.close(stderr)
            if isinstance(error, OSError):
                raise self._error(step, str(error), "see ulimit -n, ulimit -u and memory") from None
            raise
        finally:
            if theirs is not None:
                theirs.close()
        self._running = _Running(process, ours, stderr)
        return self._running

    def _error(self, step: str, reason: str, advice: str = "please report this with the words above") -> NetnsError:
        return NetnsError(step, str(self._target), reason, advice)


def open_tun(target: Target, name: str, queues: int = 1, *, request_time: float = REQUEST_TIME) -> Tun:
    """`NetnsChild.open_tun` by a child for this request alone."""
    with NetnsChild(target, request_time=request_time) as child:
        return child.open_tun(name, queues)


def configure(target: Target, link: Link, *, request_time: float = REQUEST_TIME) -> Configured:
    """`NetnsChild.configure` by a child for this request alone."""
    with NetnsChild(target, request_time=request_time) as child:
        return child.configure(link)

# SPDX-License-Identifier: BSD-3-Clause
"""The netns child as its parent sees it: a process, a socket to it, and its last words.

It is started by `subprocess` (exec, no Python between fork and exec) with an empty environment, no standard input or
output (a container tool reads ours) and a memory file for its last words. It dies with the *thread* that started it.

A keeper starts children on behalf of its node, which must not start any: it hands the node the socket and the memory
file, keeps the process, and reaps it.
"""

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import ts4nsnet
from ts4nsnet.netns.model import NetnsError, Target

# ours: seconds that a child may take to leave after its socket is closed, before it is killed
LEAVE_TIME = 1.0
_LAST_WORDS = 600  # bytes of the child's stderr in an error
_PREPARE = "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "


class Child(Protocol):
    """A child that can be asked."""

    @property
    def sock(self) -> socket.socket:
        """Where it is asked; blocking."""

    @property
    def pid(self) -> int | None:
        """Its process id, if it is ours to know."""

    def end(self, wait_time: float) -> tuple[int | None, str]:
        """Close what belongs to it; (its status if known, its last words)."""


@dataclass(frozen=True, slots=True)
class OwnChild:
    """A child that this process has started."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    stderr: int

    @property
    def pid(self) -> int | None:
        """See `Child`."""
        return self.process.pid

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
            words = _last_words(self.stderr)
            os.close(self.stderr)
        return self.process.returncode, words


@dataclass(frozen=True, slots=True)
class HandedChild:
    """A child that another process has started and will reap: its socket and its stderr came as file descriptors."""

    sock: socket.socket
    stderr: int

    @property
    def pid(self) -> int | None:
        """See `Child`."""
        return None

    def end(self, wait_time: float) -> tuple[int | None, str]:  # noqa: ARG002  its parent does the waiting
        """Close all: the child ends by that; (None, its last words)."""
        self.sock.close()
        words = _last_words(self.stderr)
        os.close(self.stderr)
        return None, words


def isolated(code: str, *arguments: str) -> list[str]:
    """The command of a fresh interpreter that runs `code`, with `arguments` from sys.argv[1] on.

    It sees nothing of PYTHON* variables and the current folder, and loses no time with what `site` looks for. The
    modules that we can import it can, too, wherever they are, as our own may be elsewhere; but not those of a
    PYTHONPATH: that is the caller's, and may hold a module of any name.
    """
    own = os.path.dirname(os.path.dirname(os.path.abspath(ts4nsnet.__file__)))
    callers = {os.path.abspath(folder) for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder}
    path = [os.path.abspath(folder) for folder in sys.path if folder and os.path.exists(folder)]
    path = [folder for folder in path if folder not in callers]
    path += [] if own in path else [own]
    return [sys.executable, "-I", "-S", "-c", _PREPARE + code, json.dumps(path), *arguments]


def start_child(target: Target) -> OwnChild:
    """Start a child for `target`, which it enters when it is asked for something.

    Raises:
        NetnsError: there is no room for it; nothing is left.
    """
    step = "starting the netns child"
    if not sys.executable:
        advice = "run it by its full path"
        raise NetnsError(step, str(target), "Python does not know its own path (sys.executable)", advice)
    ours = theirs = None
    stderr = -1
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        stderr = os.memfd_create("netns-child-stderr")
        process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            isolated("from ts4nsnet.netns.enter import main; main()",
                     str(theirs.fileno()), json.dumps([target.netns, target.userns])),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
            env={"LC_ALL": "C.UTF-8"}, pass_fds=[theirs.fileno()],
        )  # fmt: skip
    except BaseException as error:
        if ours is not None:
            ours.close()
        if stderr >= 0:
            os.close(stderr)
        if isinstance(error, OSError):
            raise NetnsError(step, str(target), str(error), "see ulimit -n, ulimit -u and memory") from None
        raise
    finally:
        if theirs is not None:
            theirs.close()
    return OwnChild(process, ours, stderr)


def _last_words(stderr: int) -> str:
    start = max(0, os.fstat(stderr).st_size - _LAST_WORDS)
    return os.pread(stderr, _LAST_WORDS, start).decode(errors="replace").strip()

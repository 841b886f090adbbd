# SPDX-License-Identifier: BSD-3-Clause
"""Code that is stopped, or killed, before any of its system calls: for what must be right in every order of events.

`Actors` are functions in threads of which exactly one runs at a time, for as many system calls as it is given. So a
list of (actor, calls) is an interleaving, and the same list is the same one again. `killed_before` runs a function in a
forked process that kills itself with SIGKILL before its n-th system call. Between two calls that change or read files
nothing happens that anybody else could see, so these are all the states there are.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

MAX_TURNS = 2000  # until actors are taken for hanging
STEP_LIMIT = 10.0  # seconds; an actor that takes longer waits for another one, which would be a finding
CALLS = {"close", "fchmod", "flock", "fstat", "fsync", "ftruncate", "listdir", "mkdir"}
CALLS |= {"open", "pwrite", "read", "rename", "stat", "unlink", "write"}


def _before_each_call(act: Callable[[], None]) -> Callable[[FrameType, str, Any], None]:
    # for sys.setprofile
    def profile(_: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function.__name__ in CALLS:
            act()

    return profile


class _Ended(BaseException):
    """Raised within an actor whose play is over."""


class Actors:
    """Functions that take turns.

    Args:
        functions: one per actor.
    """

    def __init__(self, *functions: Callable[[], None]) -> None:
        self._calls = 0
        self._ending = False
        self._stopped = threading.Semaphore(0)
        self._go = [threading.Semaphore(0) for _ in functions]
        self._threads = [threading.Thread(target=self._play, args=play) for play in enumerate(functions)]
        self._failed: list[BaseException] = []
        self.running = set(range(len(functions)))
        for thread in self._threads:
            thread.start()

    def run(self, actor: int, calls: int) -> None:
        """Let one actor run for so many system calls, or to its end; raises what any of them raised."""
        self._calls = calls
        self._go[actor].release()
        assert self._stopped.acquire(timeout=STEP_LIMIT), f"actor {actor} blocks"
        if self._failed:
            raise self._failed[0]

    def finish(self) -> None:
        """Let all run to their ends, in turns."""
        for _ in range(MAX_TURNS):
            for actor in sorted(self.running):
                self.run(actor, 7)
        assert not self.running, "the actors wait for each other"

    def end(self) -> None:
        """End those that still run, as if cancelled at their next system call."""
        self._ending = True
        for actor in sorted(self.running):
            self._go[actor].release()
        for thread in self._threads:
            thread.join(STEP_LIMIT)

    def _play(self, actor: int, function: Callable[[], None]) -> None:
        self._go[actor].acquire()
        sys.setprofile(_before_each_call(lambda: self._stop_if_due(actor)))
        try:
            function()
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001  # it is raised where the test is
            self._failed.append(error)
        finally:
            sys.setprofile(None)
            self.running.discard(actor)
            self._stopped.release()

    def _stop_if_due(self, actor: int) -> None:
        if self._calls <= 0 and not self._ending:
            self._stopped.release()
            self._go[actor].acquire()
        self._calls -= 1
        if self._ending:
            raise _Ended


def killed_before(call: int, function: Callable[[int], None]) -> tuple[bytes, bool]:
    """Run `function` in a process of its own, killed before its system call number `call` (the first is 0).

    Returns:
        What `function` has written to the descriptor that it is given, and whether it has come to its end.
    """
    report, ours = os.pipe()
    child = os.fork()
    if child == 0:
        _live(call, lambda: function(ours))
    os.close(ours)
    with open(report, "rb") as file:
        said = file.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return said, False
    assert os.waitstatus_to_exitcode(status) == 0, said.decode()
    return said, True


def _live(calls: int, function: Callable[[], None]) -> None:
    def die_if_due() -> None:
        nonlocal calls
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        calls -= 1

    status = 1
    try:
        sys.setprofile(_before_each_call(die_if_due))
        function()
        status = 0
    finally:
        os._exit(status)

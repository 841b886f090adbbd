# SPDX-License-Identifier: BSD-3-Clause
"""The container's namespaces as the keeper sees them: the TUN there, and the netns children that go in.

The first child is started together with the node process, makes the TUN, and then sees to it that nothing can leak as
long as nobody routes anything: `unreachable default` for both families, behind every other route. The node gets that
child as it is, for it has done its slow imports; later ones are started when the node asks for them. All of them are
ours to reap, and to kill: at the end nobody waits for what the kernel may hold a child for.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress

from ts4nsnet.netns import Link, NetnsError, Route, Target, Tun, wire
from ts4nsnet.netns.client import ask_for_tun, ask_to_configure, read_tun
from ts4nsnet.netns.model import MAX_PRIORITY
from ts4nsnet.netns.process import LEAVE_TIME, OwnChild, start_child

NO_WAY = tuple(Route(all_, priority=MAX_PRIORITY, unreachable=True) for all_ in ("0.0.0.0/0", "::/0"))
# ours: seconds; what is sent and read in one piece
_MESSAGE_TIME = 1.0

# calls `called` whenever `fd` is readable; None: no longer
Watch = Callable[[int, Callable[[], None] | None], None]


class Inside:
    """The TUN and the netns children of one target.

    Args:
        target: the container's namespaces.
        interface: the name of the TUN.
        watch: see `Watch`.
        changed: is called when there is more to ask for: `tun`, a child; or when `error` says why there is not.

    Attributes:
        tun: once it is made.
        error: why it could not be; nothing more will come.
    """

    def __init__(self, target: Target, interface: str, watch: Watch, changed: Callable[[], None]) -> None:
        self.tun: Tun | None = None
        self.error: NetnsError | None = None
        self._target = target
        self._interface = interface
        self._watch = watch
        self._changed = changed
        self._children: dict[int, OwnChild] = {}  # by pidfd; those that were not reaped
        self._first: OwnChild | None = None  # until it is given away
        self._is_closed_off = False

    def start(self) -> None:
        """Have the TUN made; raises `NetnsError` when there is no room for a child."""
        first = self._first = self._start()
        self._watch(first.sock.fileno(), lambda: self._answered(first))
        self._ask(first, ask_for_tun(self._interface))

    @property
    def is_closed_off(self) -> bool:
        """Whether nothing can leak any more, so that the node may have a child."""
        return self._is_closed_off

    def give_child(self, give: Callable[[list[int]], object]) -> None:
        """Have `give` hand the fds of a child, its socket and its stderr, to the node; raises `NetnsError`."""
        child, self._first = self._first, None
        if child is None:
            child = self._start()
        else:
            self._watch(child.sock.fileno(), None)
        with child.sock:
            give([child.sock.fileno(), child.stderr])
        os.close(child.stderr)

    def close(self) -> None:
        """Kill the children and close the TUN."""
        if self.tun is not None:
            self.tun.close()
        for child in self._children.values():
            child.process.kill()
        self._drop_first()

    def _start(self) -> OwnChild:
        child = start_child(self._target)
        pidfd = os.pidfd_open(child.process.pid)
        self._children[pidfd] = child
        self._watch(pidfd, lambda: self._ended(pidfd))
        return child

    def _ask(self, child: OwnChild, message: wire.Message) -> None:
        with suppress(OSError):  # it has ended, which its end of file says
            wire.send(child.sock, message, (), time.monotonic() + _MESSAGE_TIME)

    def _answered(self, child: OwnChild) -> None:
        received = None
        try:
            received = wire.receive(child.sock, time.monotonic() + _MESSAGE_TIME)
        except wire.FdsLost:
            reason = "this process has too many open files"
            self._fail(NetnsError("receiving the TUN", str(self._target), reason, "raise ulimit -n"))
            return
        except OSError:
            pass  # it ended before it had read what we ask
        if received is None:
            self._first_is_gone(child)
            return
        reply, fds = received
        if "error" in reply:
            self._fail(NetnsError(*reply["error"]))
        elif self.tun is None:
            self.tun = read_tun(reply, fds)
            self._ask(child, ask_to_configure(Link(self._interface, routes=NO_WAY, up=False)))
        else:
            self._is_closed_off = True
        self._changed()

    def _first_is_gone(self, child: OwnChild) -> None:
        if self._is_closed_off:  # it was idle
            self._drop_first()
            return
        self._watch(child.sock.fileno(), None)
        status, words = child.end(LEAVE_TIME)
        self._first = None
        reason = f"it ended with status {status}: {words or '-'}"
        advice = "please report this with the words above"
        self._fail(NetnsError("waiting for the netns child", str(self._target), reason, advice))

    def _fail(self, error: NetnsError) -> None:
        self._drop_first()
        self.error = error
        self._changed()

    def _drop_first(self) -> None:
        if self._first is not None:
            self._watch(self._first.sock.fileno(), None)
            self._first.sock.close()
            os.close(self._first.stderr)
            self._first = None

    def _ended(self, pidfd: int) -> None:
        self._watch(pidfd, None)
        self._children.pop(pidfd).process.wait()
        os.close(pidfd)

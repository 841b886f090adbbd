# SPDX-License-Identifier: BSD-3-Clause
"""Seeing the end of a container that says nothing about it.

An open TUN keeps its network namespace alive, and nothing ever happens on it when the container has died. So what the
container tool named is watched:

    a process, /proc/PID/…      its pidfd
    /run/…/netns/NAME           inotify on the folder: the tool unmounts the file, then removes it. The removal is
                                seen in every mount namespace, for the folder is the same, and takes our mount along.
                                Whether the name still means the same namespace decides.

Where neither is possible (a user has 128 inotify instances by default) there is nothing to see: the exit-fd tells, or
a signal. Neither wakes anybody up in between.

Source: pidfd_open(2), inotify(7), user_namespaces(7); notes container-tools.md 1 (15), 3.4.
"""

import ctypes
import os
import re
from contextlib import suppress
from typing import Self

from ts4nsnet.netns import Target

_IN_CLOEXEC, _IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_IN_MOVED_FROM, _IN_DELETE, _IN_DELETE_SELF, _IN_MOVE_SELF = 0x40, 0x200, 0x400, 0x800
_EVENTS = _IN_MOVED_FROM | _IN_DELETE | _IN_DELETE_SELF | _IN_MOVE_SELF
_READ_BYTES = 65536
_OF_PROCESS = re.compile(r"/proc/([0-9]+)/")


class Watch:
    """Watches one target; `fd` becomes readable when it may have ended, -1 where nothing can be seen."""

    def __init__(self, target: Target) -> None:
        self.fd = -1
        self._path = "" if isinstance(target.netns, int) else target.netns
        process = _OF_PROCESS.match(self._path)
        with suppress(OSError):
            if not self._path or process:
                self.fd = os.pidfd_open(int(process[1]) if process else int(target.netns))
                self._path = ""
            else:
                self._namespace = os.stat(self._path)
                self.fd = _inotify(os.path.dirname(os.path.abspath(self._path)))

    def has_ended(self) -> bool:
        """Whether the target is gone; asked when `fd` is readable."""
        if not self._path:
            return True
        with suppress(BlockingIOError):
            while os.read(self.fd, _READ_BYTES):
                pass
        try:
            return not os.path.samestat(os.stat(self._path), self._namespace)
        except OSError:
            return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def _inotify(folder: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(_IN_CLOEXEC | _IN_NONBLOCK)
    if fd >= 0 and libc.inotify_add_watch(fd, os.fsencode(folder), _EVENTS) >= 0:
        return int(fd)
    error = ctypes.get_errno()
    if fd >= 0:
        os.close(fd)
    raise OSError(error, os.strerror(error), folder)

# SPDX-License-Identifier: BSD-3-Clause
"""What a process of ours gives up about itself: nobody looks into one that has been a secret's home.

A process that is not dumpable is closed to the user's other processes: no ptrace, no /proc/PID/mem, fd, environ; and
the kernel writes no core file of it, nor does RLIMIT_CORE allow one. All of that is asked anew after each execution
of a program, as the kernel forgets the first (limits stay).

One who may look all the same is the owner of the user namespace that the program was executed in, for he has every
capability there: a rootless podman's user into his containers' network tools. So nothing may lie around to begin with.

Source: PR_SET_DUMPABLE(2const), proc(5), setrlimit(2).
"""

import ctypes
import resource

_PR_SET_DUMPABLE, _PR_SET_NAME = 4, 15


def hide(name: str) -> None:
    """Close this process to others, for the rest of its life, and have tools such as `ps` call it `name`.

    Args:
        name: at most 15 bytes; the rest is cut off.

    Raises:
        OSError: the kernel refuses; nothing secret may be read then.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "this process cannot be hidden from others (PR_SET_DUMPABLE)")
    libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

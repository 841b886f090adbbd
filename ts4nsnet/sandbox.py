# SPDX-License-Identifier: BSD-3-Clause
"""What a process of ours gives up about itself: nobody looks into one that has been a secret's home.

A process that is not dumpable is closed to the user's other processes: no ptrace, no /proc/PID/mem, fd, environ; and
the kernel writes no core file of it, nor does RLIMIT_CORE allow one. All of that is asked anew after each execution
of a program, as the kernel forgets the first (limits stay).

One who may look all the same is the owner of the user namespace that the program was executed in, for he has every
capability there: a rootless podman's user into his containers' network tools. So nothing may lie around to begin with.

A process that only uses what it was given gives up all capabilities, and the ways to get any.

The other limit that is set here is the number of files, for those processes that serve many.

Source: PR_SET_DUMPABLE(2const), proc(5), setrlimit(2), capabilities(7).
"""

import ctypes
import resource
import struct

_PR_SET_DUMPABLE, _PR_SET_NAME = 4, 15
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
CAP_NET_BIND_SERVICE = 1 << 10  # <linux/capability.h>
_CAPABILITY_VERSION_3 = 0x20080522  # <linux/capability.h>


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


def allow_files(wanted: int) -> None:
    """Let this process have `wanted` open files, or as many as it may allow itself."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else min(most, wanted), most))


def give_up_rights(kept: int = 0) -> None:
    """Have no capability from now on, and get none by executing a program either.

    Args:
        kept: a set of capabilities below 32, as bits, to be kept as far as they are there.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for what there is not, and without CAP_SETPCAP
    header, held = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    libc.capget(header, held)
    kept &= struct.unpack_from("=I", held, 4)[0]  # permitted
    left = struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or libc.capset(header, left) != 0:
        raise OSError(ctypes.get_errno(), "this process cannot give up its capabilities")

# SPDX-License-Identifier: BSD-3-Clause
"""The netns child: enter the target's namespaces, then do what the parent asks.

It is a fresh, isolated interpreter with the parent's module path; its arguments are one end of a socket pair and the
target. Each request is answered once (see wire.py). The first one makes the child enter. All that happens before is the
standard library's import: setns(user) is refused to a process with a second thread, and whatever third-party code does
at its import shall do it inside.

The child leaves at the end of file, after `IDLE_TIME` without a request, after a failure to enter (it may be half
inside) and, by the kernel's hand, with its parent. Joining a user namespace takes that last promise away from a process
whose user does not own it (kernel/cred.c, commit_creds), so it is made once more inside.

Sources: setns(2), ioctl_ns(2), PR_SET_PDEATHSIG(2const); /proc/PID/ns is ruled by ptrace's access mode (namespaces(7)).
"""

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from types import ModuleType

from ts4nsnet.netns import tun, wire
from ts4nsnet.netns.model import Link, NetnsError, Target

# ours: seconds without a request until the child leaves
IDLE_TIME = 1.0

_NS_GET_USERNS, _NS_GET_NSTYPE, _NS_GET_OWNER_UID = 0xB701, 0xB703, 0xB704
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_NAMES = {_CLONE_NEWUSER: "user", _CLONE_NEWNET: "network"}
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd: int, kind: int) -> None:
    """os.setns, which Python has from 3.12 on; OSError."""
    if sys.version_info >= (3, 12):
        os.setns(fd, kind)
    elif _libc.setns(fd, kind) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter(target: Target) -> None:
    """Move this process, which must have one thread, into the target's namespaces.

    Raises:
        NetnsError: the process may be inside the user namespace already.
    """
    with ExitStack() as opened:
        net = _open(target.netns_path, _CLONE_NEWNET, target, opened)
        if target.userns is not None:
            _join_user(_open(target.userns, _CLONE_NEWUSER, target, opened), target.userns)
        else:
            try:
                setns(net, _CLONE_NEWNET)
            except PermissionError:
                _join_user(_owner(net, target, opened), f"the one that owns the network namespace of {target}")
            else:
                return
        try:
            setns(net, _CLONE_NEWNET)
        except OSError as error:
            raise _refused("network", str(target), error, net) from None
    die_with_parent()


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _open(path: str, kind: int, target: Target, opened: ExitStack) -> int:
    """Open a namespace's file and see that it is one of that kind."""
    step = f"opening the {_NAMES[kind]} namespace"
    which = f"{target}: {path}" if path == target.netns_path and isinstance(target.netns, int) else path
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us
    except OSError as error:
        raise NetnsError(step, which, error.strerror or "", _open_advice(error, path)) from None
    opened.callback(os.close, fd)
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError:
        advice = "is its bind mount gone, or not visible in this mount namespace? Give a path such as /proc/PID/ns/net"
        raise NetnsError(step, which, "the file is not a namespace", advice) from None
    if found != kind:
        advice = f"give the path of a {_NAMES[kind]} namespace"
        raise NetnsError(step, which, f"the file is a namespace of another kind ({found:#x})", advice)
    return fd


def _open_advice(error: OSError, path: str) -> str:
    gone = error.errno in {errno.ENOENT, errno.ESRCH, errno.ENOTDIR}
    if gone:
        return "the process has ended" if path.startswith("/proc/") else "give the path of a namespace that exists"
    if error.errno not in {errno.EACCES, errno.EPERM}:
        return "see namespaces(7)"
    whose = ""
    if path.startswith("/proc/"):
        with suppress(OSError):
            whose = f", which belongs to uid {os.stat('/'.join(path.split('/')[:3])).st_uid}"
    return f"this process is uid {os.geteuid()} and may not look into it{whose}: run as its owner or as root"


def _join_user(fd: int, which: str) -> None:
    own, other = os.stat("/proc/self/ns/user"), os.fstat(fd)
    if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino):
        return  # joining one's own is EINVAL; if its capabilities are missing, what comes next says so
    try:
        setns(fd, _CLONE_NEWUSER)
    except OSError as error:
        raise _refused("user", which, error, fd) from None


def _owner(net: int, target: Target, opened: ExitStack) -> int:
    """The user namespace that owns a network namespace, as an fd."""
    try:
        fd = fcntl.ioctl(net, _NS_GET_USERNS)
    except OSError as error:
        step = "looking for the user namespace that owns the network namespace"
        advice = "it is outside of this process's own user namespace: start ts4nsnet there, or as root"
        raise NetnsError(step, str(target), error.strerror or "", advice) from None
    opened.callback(os.close, fd)
    return fd


def _refused(kind: str, which: str, error: OSError, fd: int) -> NetnsError:
    """The error for a setns that failed."""
    advice = "see setns(2)"
    if error.errno == errno.EPERM:
        whose = "it belongs to nobody in this user namespace"  # outside of our own: its owner has no number here
        with suppress(OSError), open(os.dup(fd) if kind == "user" else fcntl.ioctl(fd, _NS_GET_USERNS)) as user:
            number = fcntl.ioctl(user, _NS_GET_OWNER_UID, bytes(4))
            whose = f"it belongs to uid {int.from_bytes(number, sys.byteorder)}"
        advice = (
            f"CAP_SYS_ADMIN is needed in it and in one's own user namespace; {whose}, this process is uid "
            f"{os.geteuid()}: run as its owner or as root; in a container, allow setns in its seccomp profile"
        )
    return NetnsError(f"entering the {kind} namespace", which, error.strerror or "", advice)


def answer(request: wire.Message, namespace: str) -> tuple[wire.Message, list[int]]:
    """Do what an entered child is asked; the answer and the fds that go with it.

    Raises:
        NetnsError: nothing is left open.
    """
    if request["do"] == "configure":
        done = _link(namespace).configure(Link.from_message(request["link"]), namespace)
        return {"changes": done.changes, "skipped": list(done.skipped)}, []
    if request["do"] == "open_socket":
        return {}, [_open_socket(request["family"], request["kind"], namespace)]
    fds, vnet_hdr, offload = tun.make(request["name"], request["queues"], namespace, _remove)
    return {"name": request["name"], "vnet_hdr": vnet_hdr, "offload": offload}, fds


def _open_socket(family: int, kind: int, namespace: str) -> int:
    try:
        return socket.socket(family, kind).detach()
    except OSError as error:
        step = f"making a socket of family {family}, kind {kind}"
        raise NetnsError(step, namespace, error.strerror or "", "ask for one that the kernel has there") from None


def _remove(name: str, namespace: str) -> None:
    _link(namespace).remove(name, namespace)


def _link(namespace: str) -> ModuleType:
    # imported only where it is needed: it takes 0.1 s
    try:
        from ts4nsnet.netns import link
    except (ImportError, PermissionError) as error:
        # what root may read outside, it may not inside of a user's namespaces
        advice = f"install ts4nsnet where uid {os.geteuid()} can read it from inside the container's namespaces"
        raise NetnsError("loading pyroute2", namespace, str(error), advice) from None
    return link


def serve(sock: socket.socket, target: Target) -> None:
    """Answer requests until there are no more."""
    entered = False
    while True:
        try:
            received = wire.receive(sock, time.monotonic() + IDLE_TIME)
        except TimeoutError:
            return
        if received is None:
            return
        request, fds = received[0], list[int]()
        try:
            if not entered:
                enter(target)
                entered = True
            reply, fds = answer(request, str(target))
        except NetnsError as error:
            reply = {"error": [error.step, error.namespace, error.reason, error.advice]}
        try:
            wire.send(sock, reply, fds, time.monotonic() + IDLE_TIME)
        finally:
            for fd in fds:
                os.close(fd)
        if not entered:
            return


def main() -> None:
    """Be the child."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the parent decides, and the socket tells
    number, target = int(sys.argv[1]), Target(*json.loads(sys.argv[2]))
    gone = suppress(BrokenPipeError, ConnectionResetError)  # the parent has given up
    with socket.socket(fileno=number) as sock, gone:
        serve(sock, target)

# SPDX-License-Identifier: BSD-3-Clause
"""Namespaces for `ts4nsnet run`: a network and mounts of the command's own, and nothing else that is different.

The command stays who it was: its user and group are the only ones that its user namespace knows, under the same
numbers, so files belong to whom they belonged, and at its execution it loses the capabilities that made the rest
possible. Root needs no user namespace, and gets one only where it may not do without (in a container).

In the mount namespace names are asked at the node, whatever asks: /etc/resolv.conf is another file, and two sockets are
covered by which the C library would ask the host instead (nscd, systemd-resolved).

There is no process namespace: the command can be seen, debugged and left behind as without us, and /proc need not be
mounted, which the kernel refuses in many containers.

Source: user_namespaces(7), mount_namespaces(7), nsswitch.conf(5), nss-resolve(8).
"""

import ctypes
import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from ts4nsnet.errors import Ts4nsnetError

RESOLV_CONF = "/etc/resolv.conf"
HOSTS_RESOLVERS = ("/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve")
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceError(Ts4nsnetError):
    """The machine gives us no namespaces; the text says what to do."""


def enter(nameserver: str) -> str:
    """Put this process, which must have one thread, into namespaces of its own.

    Args:
        nameserver: the address that names are asked at from now on.

    Returns:
        what is not as it should be, for the user; "" for nothing.

    Raises:
        NamespaceError: there are no namespaces for us.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        _unshare(user, group)
    except OSError as error:
        raise NamespaceError(_advice(error)) from None
    try:
        _mount("none", "/", _MS_REC | _MS_PRIVATE)
        for path in HOSTS_RESOLVERS:
            if os.path.exists(path):
                _mount("/dev/null", path, _MS_BIND)
        problem = _replace_resolv_conf(nameserver)
    except OSError as error:
        raise NamespaceError(f"{_advice(error)} (it was {error.filename} that could not be mounted)") from None
    with suppress(OSError):  # ping without privilege; a comfort
        Path("/proc/sys/net/ipv4/ping_group_range").write_text(f"{group} {group}")
    return problem


def _unshare(user: int, group: int) -> None:
    if user == 0:
        with suppress(PermissionError):
            _call(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET))
            return
    _call(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET))
    Path("/proc/self/setgroups").write_text("deny")  # else nobody without privilege may write the next but one
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _replace_resolv_conf(nameserver: str) -> str:
    if not os.path.exists(RESOLV_CONF):
        return f"{RESOLV_CONF} is not there, so the command cannot look up names; create an empty one"
    with tempfile.NamedTemporaryFile("w", prefix="ts4nsnet-") as file:  # a mounted file needs no name
        file.write(f"# ts4nsnet run\nnameserver {nameserver}\n")
        file.flush()
        os.chmod(file.name, 0o644)
        _mount(file.name, RESOLV_CONF, _MS_BIND)
    return ""


def _mount(source: str, target: str, flags: int) -> None:
    _call(_libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None), target)


def _call(result: int, path: str = "") -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def _advice(error: OSError) -> str:
    reason = error.strerror
    if error.errno == errno.ENOSPC:
        reason = "user.max_user_namespaces is reached"
    return (
        f"no namespaces for the command: {reason}; as root, set the sysctls that are there: "
        "user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 "
        "kernel.apparmor_restrict_unprivileged_userns=0; in a container, start that with --privileged"
    )

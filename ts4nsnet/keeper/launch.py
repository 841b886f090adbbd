# SPDX-License-Identifier: BSD-3-Clause
"""Becoming the keeper: the process that a container tool has started executes itself anew.

Same process, so its id, its parent, its children's signal (PR_SET_PDEATHSIG) and its place in a process group stay.
What does not stay is all that could show a secret or keep something of the tool's alive: the environment with TS_* in
it, memory, the command line, file descriptors that the tool has leaked, the current folder.

    ts4nsnet … (TS_AUTHKEY in its environment)
       │ settings and secrets ──► a sealed memory file, which has no name and which only the node process reads
       └ execve: python -I -S, LC_ALL alone, fds 0 to 2, ready, exit and that file

The kernel opens a process to its user anew with each execution, until it hides itself again. So for some tens of
milliseconds another process of the same user can open the memory file by /proc/PID/fd, of the keeper and later of the
node; as it could the environment before. docs/settings.md says so.

Source: notes container-tools.md 1 (7, 17), 3.3; memfd_create(2), execve(2).
"""

import fcntl
import os
import sys
from dataclasses import replace
from typing import NoReturn

from ts4nsnet.keeper.plan import KeeperError, Plan
from ts4nsnet.netns import Target
from ts4nsnet.netns.process import isolated
from ts4nsnet.sandbox import hide

ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
_KEEPER = "from ts4nsnet.keeper.main import main; main()"


def launch(plan: Plan, document: bytes) -> NoReturn:
    """Replace this process by the keeper.

    Args:
        plan: what the keeper needs to know.
        document: what the node process needs to know, secrets included.

    Raises:
        KeeperError: it cannot be; the process goes on as it was, but hidden from others.
    """
    kept = {0, 1, 2}
    for option, fd in (("ready-fd", plan.ready_fd), ("exit-fd", plan.exit_fd)):
        if fd is not None:
            _check_open(option, fd)
            kept.add(fd)
    if not sys.executable:
        raise KeeperError("Python does not know its own path (sys.executable): run ts4nsnet by its full path")
    try:
        hide("ts4nsnet")
        _open_standard_fds()
        memory = _sealed(document)
        kept.add(memory)
        _keep_only(kept)
        plan = replace(plan, target=_absolute(plan.target))
        os.execve(sys.executable, isolated(_KEEPER, str(memory), plan.to_json()), ENVIRONMENT)  # noqa: S606
    except OSError as error:
        raise KeeperError(f"starting the keeper: {error.strerror}; see ulimit -n and memory") from None


def _check_open(option: str, fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except (OSError, OverflowError):
        raise KeeperError(
            f"--{option}: got {fd}, which is no open file descriptor; want one that the caller has opened"
        ) from None


def _absolute(target: Target) -> Target:
    """The target, from whatever folder it is looked at."""
    netns = target.netns if isinstance(target.netns, int) else os.path.abspath(target.netns)
    return Target(netns, target.userns and os.path.abspath(target.userns))


def _open_standard_fds() -> None:
    """Let no file of ours become standard output because a caller has closed it."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _sealed(document: bytes) -> int:
    fd = os.memfd_create("ts4nsnet", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(fd, "wb", closefd=False) as file:
        file.write(document)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def _keep_only(kept: set[int]) -> None:
    """Have all file descriptors but these closed by the execution of a program."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            os.set_inheritable(fd, fd in kept)
        except OSError:
            continue  # the one that the folder was read by

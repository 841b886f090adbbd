# SPDX-License-Identifier: BSD-3-Clause
"""A pytest run in namespaces of its own: why tests/system and tests/interop need no root and leave nothing behind.

The idea: when pytest is started on such tests, the whole process is replaced, once, by

    unshare --user --map-root-user --net --mount --pid --fork --kill-child --mount-proc -- python -m pytest …

with the arguments it had. Everything from there on is ordinary pytest, except that

* it is root over its own network, mounts and processes, whoever started it;
* its only interface is a loopback of its own, its /run (so also /run/netns, /run/wireguard) an empty tmpfs;
* it is process 1 of its pid namespace. When that ends, the kernel ends every process below it, and with the last
  process go the network namespaces, interfaces and mounts. `--kill-child` ends process 1 when `unshare` is killed.
  So nothing survives: not after Ctrl-C, not after SIGKILL, and no test has to be trusted to clean up.

What to know: `unshare` itself ignores SIGINT and SIGTERM (util-linux 2.38). A signal has to reach the process group,
as from Ctrl-C or `timeout`; whoever knows one process id only sends SIGHUP, SIGQUIT or SIGKILL.

tests/conftest.py decides when to enter; tests/host/test_reexec.py shows that it holds; see docs/testing.md.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
# the folders whose tests run inside
DIRECTORIES = (TESTS / "system", TESTS / "interop")

UNSHARE = (
    *("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid"),
    *("--fork", "--kill-child", "--mount-proc", "--"),
)
# holds the user namespace that pytest was started in, so that a value left over in a shell does no harm
MARKER = "TS4NSNET_TESTS_STARTED_IN"


class Unavailable(Exception):
    """This machine gives us no namespaces; the text says why and what to do."""


def needed_by(path: Path) -> bool:
    """Whether tests in the file or folder `path` run inside."""
    return any(path.is_relative_to(directory) for directory in DIRECTORIES)


def inside() -> bool:
    """Whether this process runs in namespaces that `enter` made."""
    return os.environ.get(MARKER) not in (None, _user_namespace())


def enter(config: pytest.Config) -> None:
    """Start this pytest anew in namespaces of its own; returns only in the one that is inside already.

    Raises Unavailable where that is impossible; with CI=true pytest.UsageError, as nobody reads what CI skips.
    """
    if inside():
        furnish()
        return
    _try_out()
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        capture.stop_global_capturing()  # pytest has put files over 0, 1 and 2; the new process wants ours
    sys.stdout.flush()
    sys.stderr.flush()
    # inside, everybody is root: a folder for each user that pytest was started by
    folder = Path(tempfile.gettempdir(), f"ts4nsnet-tests-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(folder))
    os.environ[MARKER] = _user_namespace()
    # orig_argv also keeps what stood before pytest: "-X dev", "-m coverage run"
    os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, *sys.orig_argv[1:]])


def _user_namespace() -> str:
    return os.readlink("/proc/self/ns/user")


def furnish() -> None:
    """Give new namespaces an empty /run and a loopback, and let this process, the first in them, end on signals."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    # the kernel drops signals that process 1 has no handler for; end as on Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _try_out() -> None:
    try:
        done = subprocess.run(
            [*UNSHARE, "ip", "link", "set", "lo", "up"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        why = done.stderr.strip() or f"exit code {done.returncode}"
    except FileNotFoundError as error:
        why = str(error)
    else:
        if done.returncode == 0:
            return
    message = f"no namespaces for tests/system and tests/interop: {why}; run .ci/prepare as root, see docs/testing.md"
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(message)
    raise Unavailable(message)

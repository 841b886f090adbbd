# SPDX-License-Identifier: BSD-3-Clause
"""Keepers where container tools start them: from the host's namespaces, as a user without rights there.

As rootlesskit does (no capability, target in a user namespace of that user, SIGKILL with the parent) and in podman's
rootless user namespace. Another process of the same user, outside, looks into theirs.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.host.test_netns import _device, _root, as_user, in_podman
from tests.system.keepers import ROOT, SECRET

__all__ = ["_device", "_root", "as_user", "in_podman"]

TIME_LIMIT = 30.0

# arguments: a folder, then the flags of unshare for the target
STARTER = """
import json, sys
from pathlib import Path
from tests.system.keepers import Holder, Kept
from ts4nsnet.netns import Target
folder, *flags = sys.argv[1:]
with Holder(*flags) as holder:
    with Kept(Path(folder), Target(holder.pid), prefix=("setpriv", "--pdeathsig", "KILL")).until_ready() as kept:
        about = json.loads((kept.node_folder / "about.json").read_text())
        print(json.dumps({"keeper": kept.process.pid, "node": about["node_pid"], "seen": kept.seen()}), flush=True)
        sys.stdin.read()
        kept.exit_fd.close()
        print(json.dumps({"exit_code": kept.wait(), "output": kept.output()}), flush=True)
"""

# arguments: process ids; prints what could be seen of them
LOOKER = """
import os, sys
for pid in sys.argv[1:]:
    os.stat(f"/proc/{pid}")
    for name in ("environ", "mem", "maps", "auxv"):
        try:
            open(f"/proc/{pid}/{name}", "rb").read(1)
            print(pid, name)
        except PermissionError:
            pass
    for name in ("fd", "map_files"):
        try:
            os.listdir(f"/proc/{pid}/{name}")
            print(pid, name)
        except PermissionError:
            pass
"""

pytestmark = pytest.mark.usefixtures("_device")
ROOTLESSKIT = ("--user", "--map-root-user")


@pytest.fixture
def folder(as_user: list[str]) -> Iterator[Path]:
    """One of the user's."""
    done = subprocess.run([*as_user, "mktemp", "-d"], capture_output=True, text=True, check=True)
    yield Path(done.stdout.strip())
    shutil.rmtree(done.stdout.strip())


class Starter:
    """The tool that has started a keeper, and what it told about it."""

    def __init__(self, prefix: list[str], folder: Path, *flags: str) -> None:
        command = [*prefix, "env", f"PYTHONPATH={ROOT}", sys.executable, "-c", STARTER, str(folder), *flags]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
        self.told = self.line()

    def line(self) -> Any:
        """What it says next."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], TIME_LIMIT)[0]
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.kill()


def look(as_user: list[str], *pids: int) -> str:
    """What another process of the user sees of those."""
    command = [*as_user, sys.executable, "-I", "-c", LOOKER, *map(str, pids)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def leave(starter: Starter, folder: Path) -> None:
    """End the keeper in order, and see that it was one."""
    assert starter.process.stdin is not None
    starter.process.stdin.close()
    assert starter.line() == {"exit_code": 0, "output": ""}
    assert (folder / "runtime" / "stopped").read_text() == '{"do": "stop"}'


def test_nobody_looks_into_a_keeper_or_its_node(as_user: list[str], folder: Path) -> None:
    with Starter(as_user, folder, *ROOTLESSKIT) as starter:
        assert starter.told["seen"][0][1] == ["/dev/net/tun"]
        assert look(as_user, starter.told["keeper"], starter.told["node"]) == ""
        leave(starter, folder)


def test_in_podmans_user_namespace_nothing_shows_the_secret(in_podman: list[str], folder: Path) -> None:
    """The namespace's owner has every right in it, so he may look; there is nothing to be seen by the way."""
    with Starter(in_podman, folder) as starter:
        assert starter.told["seen"][0][1] == ["/dev/net/tun"]
        for pid in (starter.told["keeper"], starter.told["node"]):
            assert Path(f"/proc/{pid}/environ").read_bytes() == b"LC_ALL=C.UTF-8\0"
            assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        assert not any(SECRET.encode() in path.read_bytes() for path in files)
        leave(starter, folder)


def test_a_keeper_that_dies_with_its_parent(as_user: list[str], folder: Path) -> None:
    """rootlesskit asks the kernel for that, and kills its tool besides; no logout is possible but the node's own."""
    with Starter(as_user, folder, *ROOTLESSKIT) as starter:
        watched = [os.pidfd_open(starter.told[name]) for name in ("keeper", "node")]
        starter.process.send_signal(signal.SIGKILL)
        for pidfd in watched:
            assert select.select([pidfd], [], [], TIME_LIMIT)[0]
            os.close(pidfd)
        # the target ends at the same moment, and the keeper may have seen that before it was killed
        assert (folder / "runtime" / "stopped").read_text() in {"end of file", '{"do": "stop"}'}

# SPDX-License-Identifier: BSD-3-Clause
"""The demo's containers where there is no podman: a user, a network and a mount namespace each.

    ts4nsnet --configure --ready-fd=N --exit-fd=N … PID tap0            what podman would have typed

The namespaces belong to a process that ends when its standard input does, ts4nsnet ends with its exit-fd; both are
pipes of the demo, so they go whatever happens to it.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ts4nsnet.lab.demo_boxes import COMMAND, GUEST, need
from ts4nsnet.lab.demo_processes import answer, end, last_line, spawn
from ts4nsnet.lab.errors import LabError

NAMES_SERVER = "10.0.2.3"  # slirp4netns' address for DNS
START_TIME = 40.0  # seconds; ts4nsnet itself gives up after 30


class Namespaces:
    """Containers that are a user, a network and a mount namespace, in the background of `folder`'s demo.

    Raises:
        Unusable: a program is missing.
    """

    kind = "bare namespaces"

    def __init__(self, folder: Path) -> None:
        need({"unshare": "util-linux", "nsenter": "util-linux", "mount": "mount"})
        self._folder = folder
        self._names = folder / "resolv.conf"
        self._names.write_text(f"nameserver {NAMES_SERVER}\n")
        self._running: dict[str, tuple[subprocess.Popen[str], subprocess.Popen[str], int]] = {}

    def start(self, name: str, variables: Mapping[str, str]) -> float:
        """See `Boxes`."""
        pings = "echo 0 0 >/proc/sys/net/ipv4/ping_group_range"  # as in podman's containers
        script = f'{pings}; mount --bind "{self._names}" /etc/resolv.conf && exec "$@"'
        unshare = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
        holder = spawn([*unshare, "sh", "-c", script, "sh", sys.executable, "-I", str(GUEST), "hold"])
        try:
            answer(holder)
        except LabError as error:
            raise LabError(f"no namespaces for a container: {error}; run .ci/prepare as root") from None
        began = time.monotonic()
        ready, ready_end = os.pipe()
        exit_end, alive = os.pipe()
        options = ["--configure", "--mtu=65520", "--enable-ipv6", "--disable-host-loopback"]
        options += [f"--ready-fd={ready_end}", f"--exit-fd={exit_end}"]
        tool = spawn(
            [str(COMMAND), *options, str(holder.pid), "tap0"],
            pass_fds=(ready_end, exit_end),
            variables={"XDG_RUNTIME_DIR": str(self._folder), **variables},
        )
        self._running[name] = (holder, tool, alive)
        os.close(ready_end)
        os.close(exit_end)
        try:
            if not select.select([ready], [], [], START_TIME)[0] or not os.read(ready, 1):
                tool.kill()
                raise LabError(f"{name}: {last_line(tool.communicate()[1])}")
        finally:
            os.close(ready)
        return time.monotonic() - began

    def spawn(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """See `Boxes`."""
        holder, _, _ = self._running[name]
        enter = ["nsenter", f"--target={holder.pid}", "--user", "--preserve-credentials", "--net", "--mount"]
        return spawn([*enter, sys.executable, "-I", str(GUEST), *arguments])

    def stop(self) -> None:
        """See `Boxes`."""
        for holder, tool, alive in self._running.values():
            os.close(alive)
            end(holder)
            end(tool)
        self._running.clear()

    def close(self) -> None:
        """See `Boxes`."""
        self.stop()

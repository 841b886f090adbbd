# SPDX-License-Identifier: BSD-3-Clause
"""`make demo`: two containers join a tailnet, find each other by name and carry 100 MB each way.

    python -m ts4nsnet.lab.demo

    tailnet       `ts4nsnet lab serve`, on this machine alone
    alice, bob    containers (demo_podman, or else demo_namespaces), each on ts4nsnet where slirp4netns would be
    guest         what runs in them (demo_guest)

Everything is real: the command line, the packets, the encryption. Nothing is downloaded and nothing is kept: all files
are in one temporary folder, all processes are ended in reverse order, also by Ctrl-C, SIGTERM and SIGHUP, of which a
second one is ignored while the first is obeyed. Exit code: 0, 1 when something failed, 130 after Ctrl-C.
"""

import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from ts4nsnet.lab.demo_boxes import COMMAND, Boxes, Unusable, ask
from ts4nsnet.lab.demo_namespaces import Namespaces
from ts4nsnet.lab.demo_podman import Podman
from ts4nsnet.lab.demo_processes import answer, end, spawn
from ts4nsnet.lab.errors import LabError

MEGABYTE = 1_000_000
DATA_BYTES = 100 * MEGABYTE
NOWHERE = "198.51.100.1"  # for documentation (RFC 5737): no way leads there
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Demo:
    """One run: what is said, and the rows of the table."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._rows: list[tuple[str, str]] = []

    def say(self, text: str) -> None:
        """A step of the way."""
        print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)  # noqa: T201  (progress)

    def note(self, what: str, measured: str) -> None:
        """A row of the table."""
        self._rows.append((what, measured))
        self.say(f"{what}: {measured}")

    def table(self) -> None:
        """All that was measured."""
        width = max(len(what) for what, _ in self._rows)
        lines = [f"  {what:<{width}}   {measured}" for what, measured in self._rows]
        print("\n".join(["", *lines, ""]), flush=True)  # noqa: T201  (the result)

    def run(self, stack: ExitStack) -> None:
        """Everything; `stack` ends it."""
        folder = Path(stack.enter_context(_folder()))
        variables = self._tailnet(folder, stack)
        found = self._boxes(folder, stack)
        self.note("containers", found.kind)
        for name in "alice", "bob":
            self.say(f"{name}: starting")
            seconds = found.start(name, {**variables, "TS_HOSTNAME": name})
            self.note(f"{name}: from start to ready", f"{seconds:.1f} s")
        self._ping(found)
        self._carry(found)
        self._refused(found)
        began = time.monotonic()
        found.stop()
        self.note("containers ended, nodes logged out", f"{time.monotonic() - began:.1f} s")

    def _tailnet(self, folder: Path, stack: ExitStack) -> dict[str, str]:
        """Start control server and relay; the variables that lead there."""
        self.say("tailnet: starting")
        command = [str(COMMAND), "lab", "serve", "--listen=127.0.0.1:0", f"--state={folder}/lab"]
        process = spawn(["setpriv", "--pdeathsig=TERM", *command])
        stack.callback(end, process)
        line = answer(process)
        trust = folder / "ca.pem"  # podman's user may be another
        shutil.copy(line["ca"], trust)
        trust.chmod(0o644)
        self.note("tailnet", f"control server and relay at {line['control_url']}")
        return {
            "TS_AUTHKEY": line["auth_key"],
            "TS_CONTROL_URL": line["control_url"],
            "SSL_CERT_FILE": str(trust),
        }

    def _boxes(self, folder: Path, stack: ExitStack) -> Boxes:
        """Containers of podman, or else namespaces."""
        try:
            podman = Podman(folder)
            stack.callback(podman.close)
            podman.prepare()
        except Unusable as error:
            self.say(f"no rootless podman here ({error}), so bare namespaces")
            namespaces = Namespaces(folder)
            stack.callback(namespaces.close)
            return namespaces
        return podman

    def _ping(self, found: Boxes) -> None:
        ask(found, "alice", "ping", "bob")  # the first ones find the path
        pong = ask(found, "alice", "ping", "bob")
        self.note("alice pings bob by name", f"{pong['address']}, {statistics.median(pong['times']):.1f} ms")

    def _carry(self, found: Boxes) -> None:
        server = found.spawn("bob", "serve")
        try:
            answer(server)
            for arrow, count in ("alice → bob", DATA_BYTES), ("bob → alice", -DATA_BYTES):
                self.say(f"100 MB, {arrow}: on the way")
                seconds = ask(found, "alice", "carry", "bob", str(count))
                speed = DATA_BYTES * 8 / seconds / MEGABYTE
                self.note(f"100 MB, {arrow}", f"{seconds:.1f} s, {speed:.0f} Mbit/s, SHA-256 equal")
        finally:
            end(server)

    def _refused(self, found: Boxes) -> None:
        refused = ask(found, "alice", "refused", NOWHERE)
        self.note("what has no way", f"refused after {refused['time']:.1f} ms: {refused['reason']}")


@contextmanager
def _folder() -> Iterator[str]:
    made = tempfile.mkdtemp(prefix="ts4nsnet-demo-")
    os.chmod(made, 0o711)  # noqa: S103  (podman may be another user; what is secret is in folders of 0700)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for each in ENDS:
        signal.signal(each, signal.SIG_IGN)  # once is enough, and what follows is to be finished
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """Run the demo; the exit code is returned."""
    for number in ENDS:
        signal.signal(number, _interrupt)
    demo = Demo()
    try:
        with ExitStack() as stack:
            demo.run(stack)
        demo.table()
    except KeyboardInterrupt as interrupt:
        demo.say(f"{interrupt}: everything is ended and removed")
        return 130
    except (LabError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)  # noqa: T201  (a command's standard error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

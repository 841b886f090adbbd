# SPDX-License-Identifier: BSD-3-Clause
"""Where the time of a packet goes: `python -m perf.profile [--contender uring@1280] [--time 3]`, as root.

`perf record` watches the machine while a scenario of the harness runs. For the processes of each end, shares of samples
by symbol become shares by kind of work, and with the CPU time that the scenario finds, microseconds a packet. Of TCP, a
packet is a segment that fills the MTU.

The kernel shows its symbols to the machine's root alone; that is why this one runs in namespaces of its own but for the
user namespace.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import ts4nsnet.uring
from perf.__main__ import INSIDE, contender, positive
from perf.bench.contenders import Contender
from perf.bench.processes import End
from perf.bench.run import topology
from perf.bench.scenarios import SCENARIOS, Figures
from perf.bench.sites import Site
from tests import namespaces

WATCHED = ("tcp-up", "udp-64", "udp-1200", "relayed")
HEADERS = 20 + 20 + 12  # bytes of IPv4 and TCP with timestamps
FREQUENCY = 1999  # samples a second; no multiple of any timer's
IDENTITY = "0 0 4294967295"  # what /proc/self/uid_map holds outside of all user namespaces

COMPILED = "|".join(path.stem for path in Path(ts4nsnet.uring.__path__[0]).glob("*.pyx"))
# kinds of work: what the program or library is called, what the symbol; the first that fits
KINDS = (
    ("the cipher", r"_rust\.|libcrypto|_sodium", r""),
    ("copies", r"", r"copy|memcpy|memmove|memset|clear_page"),
    ("cutting, coalescing, checksums", rf"^({COMPILED})\.", r""),
    ("waiting and waking", r"kernel", r"sched|wake|switch|pick_|futex|swait|queue_task|update_curr|idle"),
    ("the kernel: TUN, sockets, network", r"kernel|vdso", r""),
    ("Python", r"", r""),
)


def kind(library: str, symbol: str) -> str:
    """What sort of work a symbol belongs to."""
    return next(name for name, dso, what in KINDS if re.search(dso, library) and re.search(what, symbol))


def shares(report: str) -> dict[str, float]:
    """Of each kind of work, from `perf report -t ';' -F overhead,pid,dso,sym`; they add up to 1."""
    found = dict.fromkeys((name for name, _, _ in KINDS), 0.0)
    for line in report.splitlines():
        percent, *where = line.split(";")
        if len(where) == 3 and percent.strip().endswith("%"):
            _, library, symbol = where
            found[kind(library.strip(), symbol.strip())] += float(percent.strip().rstrip("%"))
    total = sum(found.values())
    return {name: value / total for name, value in found.items()} if total else {}


def table(columns: Mapping[str, tuple[float, Mapping[str, float]]]) -> str:
    """Microseconds a packet: of each column's title, how many in all, and the shares of them."""
    rows = [["µs a packet", *columns], ["all", *(f"{cost:.2f}" for cost, _ in columns.values())]]
    for name, _, _ in KINDS:
        rows.append([name, *(f"{cost * found.get(name, 0):.2f}" for cost, found in columns.values())])
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]))


class Recording:
    """Samples of all that this machine does, until told otherwise."""

    def __init__(self, file: Path) -> None:
        self._file = file
        command = ("perf", "record", "-q", "-a", "-F", str(FREQUENCY), "-o", str(file))
        self._recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def end(self) -> None:
        """Stop."""
        self._recorder.send_signal(signal.SIGINT)
        said, _ = self._recorder.communicate()
        if not self._file.exists():
            raise RuntimeError(f"perf record has written nothing: {said}")

    def shares(self, end: End) -> dict[str, float]:
        """Of each kind of work in what the processes of an end did."""
        pids = ",".join(map(str, end.pids()))
        # without "pid" a symbol's samples of all processes are one line, which --pid gives to one of them
        words = ("--stdio", "-F", "overhead,pid,dso,sym", "-t", ";", "-i", str(self._file), "--pid", pids)
        said = subprocess.run(("perf", "report", *words), capture_output=True, text=True, check=True)
        found = shares(said.stdout)
        if not found:
            raise RuntimeError(f"perf has seen nothing of processes {pids}:\n{said.stdout}{said.stderr}")
        return found


def cost(figures: Figures, side: str, mtu: int) -> float:
    """Microseconds a packet that a scenario has found for a side."""
    if found := figures.get(f"{side} µs/packet"):
        return found
    return figures[f"{side} s/GB"] * (mtu - HEADERS) / 1e3


def profile(who: Contender, seconds: float, folder: Path) -> str:
    """Run the scenarios; the table is returned."""
    columns = {}
    for number, name in enumerate(WATCHED):
        scenario = SCENARIOS[name]
        own = folder / name
        own.mkdir(0o700)
        with topology() as made:
            pair = who.kind.stand(Site(made, number, scenario.way, who.mtu, own))
            recording = Recording(own / "perf.data")
            figures = scenario.measure(pair, seconds)
            recording.end()
            for side, way, end in zip(("client", "server"), ("out", "in"), pair.ends, strict=True):
                columns[f"{name}, {way}"] = (cost(figures, side, who.mtu or 0), recording.shares(end))
    return table(columns)


def main(words: Sequence[str]) -> int:
    """Run the command; the exit status is returned."""
    parser = argparse.ArgumentParser(prog="python -m perf.profile", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--contender", type=contender, default="uring@1280", metavar="NAME@MTU")
    parser.add_argument("--time", type=positive, default=3, help="seconds of each scenario; default: 3")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.inside:
        namespaces.furnish()
        with tempfile.TemporaryDirectory() as folder:
            print(profile(options.contender, options.time, Path(folder)))
        return 0
    if why := what_is_missing(options.contender):
        print(f"perf.profile: {why}", file=sys.stderr)
        return 2
    shares_users = [word for word in namespaces.UNSHARE if word not in ("--user", "--map-root-user")]
    return subprocess.run([*shares_users, sys.executable, "-m", "perf.profile", INSIDE, *words], check=False).returncode


def unprivileged() -> bool:
    """Whether this is not the machine's root, but perhaps a user namespace's."""
    return os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split() != IDENTITY.split()


def what_is_missing(who: Contender) -> str:
    """Why it cannot be done; empty: it can."""
    if unprivileged():
        return "the kernel shows its symbols to the machine's root alone: run it as root"
    if not shutil.which("perf"):
        return "it needs perf: apt-get install linux-perf"
    if who.mtu is None or who.kind.is_bare or who.kind.is_one_sided:
        return f"{who.name}: expected a tunnel and its MTU, as in uring@1280"
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

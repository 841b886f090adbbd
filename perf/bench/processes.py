# SPDX-License-Identifier: BSD-3-Clause
"""What the processes of one end of a tunnel use: CPU time, memory, wake-ups; from /proc.

An end is one process and all that descend from it, asked for anew each time. CPU time is user and system time in the
kernel's ticks (10 ms), so a figure per gigabyte needs a transfer of a second. Memory is PSS: pages that processes share
count once in all. A wake-up is a voluntary context switch: a thread had waited and was woken.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


def ticks(stat: str) -> int:
    """User and system time of a process, from its `stat`; its name may hold anything."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def pss_kib(rollup: str) -> int:
    """From `smaps_rollup`."""
    found = re.search(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)
    if not found:
        raise ValueError(f"no line of Pss in\n{rollup}")
    return int(found[1])


def switches(status: str) -> int:
    """Voluntary context switches of a thread, from its `status`."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
    if not found:
        raise ValueError(f"no line of voluntary_ctxt_switches in\n{status}")
    return int(found[1])


TICKS = os.sysconf("SC_CLK_TCK")  # a second
Counts = dict[str, int]  # of each process or thread so far


def grown(before: Counts, after: Counts) -> int:
    """By how much; of who has ended meanwhile, as netns children do, nobody knows."""
    return sum(count - before.get(name, 0) for name, count in after.items())


@dataclass(frozen=True)
class End:
    """The processes of one end: `root` and its descendants; `worker` says which of them carries the packets."""

    root: int
    worker: Callable[[], int]

    def cpu(self) -> Counts:
        """CPU time of all of them, ticks."""
        return {pid: ticks(stat) for pid in map(str, self.pids()) for stat in _texts([pid], "stat")}

    def memory_mb(self) -> float:
        """PSS of all of them."""
        return _memory_mb(self.pids())

    def worker_memory_mb(self) -> float:
        """PSS of the worker alone."""
        return _memory_mb([self.worker()])

    def wakeups(self) -> Counts:
        """Of all their threads."""
        return _wakeups(self.pids())

    def worker_wakeups(self) -> Counts:
        """Of the worker's threads."""
        return _wakeups([self.worker()])

    def pids(self) -> list[int]:
        """Of all of them."""
        found, unseen = [], [self.root]
        while unseen:
            pid = unseen.pop()
            found.append(pid)
            for children in _texts(_threads(pid), "children"):
                unseen += map(int, children.split())
        return found


def _memory_mb(pids: Iterable[int]) -> float:
    return sum(map(pss_kib, _texts(pids, "smaps_rollup"))) / 1000 * 1.024


def _wakeups(pids: Iterable[int]) -> Counts:
    threads = [thread for pid in pids for thread in _threads(pid)]
    return {thread: switches(status) for thread in threads for status in _texts([thread], "status")}


def _threads(pid: int) -> list[str]:
    with suppress(OSError):
        return [f"{pid}/task/{thread}" for thread in os.listdir(PROC / str(pid) / "task")]
    return []


def _texts(tasks: Iterable[int | str], name: str) -> Iterator[str]:
    for task in tasks:
        with suppress(OSError):  # it has ended meanwhile
            yield (PROC / str(task) / name).read_text()

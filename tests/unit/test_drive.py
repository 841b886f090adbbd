# SPDX-License-Identifier: BSD-3-Clause
"""The node's clock: the kernel's, so that processes agree on it and sleep counts."""

import subprocess
import sys
import time
from math import inf

import trio

from ts4nsnet.drive import BoottimeClock


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_now_is_boot_time() -> None:
    before = boottime()
    assert before <= BoottimeClock().current_time() <= boottime()


def test_trio_sleeps_by_it() -> None:
    async def sleep() -> tuple[float, float]:
        start = trio.current_time()
        await trio.sleep_until(start + 0.02)
        return start, trio.current_time()

    before = boottime()
    start, end = trio.run(sleep, clock=BoottimeClock())
    assert before <= start <= start + 0.02 <= end <= boottime()


def test_a_deadline_that_never_comes_is_infinitely_far() -> None:
    clock = BoottimeClock()
    clock.start_clock()
    assert clock.deadline_to_sleep_time(inf) == inf
    assert clock.deadline_to_sleep_time(clock.current_time() - 1) <= -1


def test_two_processes_agree() -> None:
    program = (
        "import trio; from ts4nsnet.drive import BoottimeClock\n"
        "async def now(): return trio.current_time()\n"
        "print(repr(trio.run(now, clock=BoottimeClock())))"
    )
    before = boottime()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert before <= float(done.stdout) <= boottime()

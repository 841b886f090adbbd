# SPDX-License-Identifier: BSD-3-Clause
"""The clock that the node runs on.

`now` is CLOCK_BOOTTIME in every process of ours: it counts while the machine sleeps, as WireGuard's key lifetimes
must, and two processes agree on it. trio's own clock does neither, so trio gets this one, and `trio.current_time()` is
then the `now` that our protocol classes take.
"""

import time

import trio.abc


class BoottimeClock(trio.abc.Clock):
    """trio's clock in seconds of CLOCK_BOOTTIME: `trio.run(main, clock=BoottimeClock())`."""

    def start_clock(self) -> None:
        """Nothing to start: the kernel's clock runs."""

    def current_time(self) -> float:
        """Seconds since boot, sleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Seconds from now to `deadline`; a machine that sleeps meanwhile wakes up late, and sees it by the clock."""
        return deadline - self.current_time()

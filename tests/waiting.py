# SPDX-License-Identifier: BSD-3-Clause
"""Waiting until something has come about."""

import time
from collections.abc import Callable


def until(done: Callable[[], bool], within: float) -> None:
    """Ask until it is so, for at most so many seconds."""
    give_up_at = time.monotonic() + within
    while not done():
        assert time.monotonic() < give_up_at, f"it did not come to that in {within} s"
        time.sleep(0.02)

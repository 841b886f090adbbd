# SPDX-License-Identifier: BSD-3-Clause
"""Named timers."""

from ts4nsnet.lab.timers import Timers


def test_timers_come_in_their_order_once() -> None:
    timers: Timers[str] = Timers()
    timers.set("b", 2.0)
    timers.set("a", 1.0)
    timers.set("c", 3.0)
    timers.set("a", 2.5)
    timers.cancel("c")
    timers.cancel("unknown")
    assert timers.next() == 2.0
    assert "a" in timers
    assert "c" not in timers
    assert [timers.pop_due(2.5) for _ in range(3)] == ["b", "a", None]
    assert timers.next() is None


def test_timer_that_was_set_twice_to_one_time_comes_once() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    timers.set("a", 1.0)
    assert [timers.pop_due(1.0), timers.pop_due(1.0)] == ["a", None]


def test_nothing_is_due_before_its_time() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 1.0)
    assert timers.pop_due(0.9) is None

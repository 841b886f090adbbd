# SPDX-License-Identifier: BSD-3-Clause
"""What /proc says, read; and of this process."""

import os

import pytest

from perf.bench.processes import End, grown, pss_kib, switches, ticks

STAT = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 123 45 6 7 20 0 1 0 1000 2000 300 0"
ROLLUP = "5581a000-7ffd1000 ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:  4321 kB\nPss_Dirty:  100 kB\n"
STATUS = "Name:\tx\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n"


def test_cpu_time_behind_a_name_with_brackets() -> None:
    assert ticks(STAT) == 123 + 45


def test_pss_is_the_line_of_that_name() -> None:
    assert pss_kib(ROLLUP) == 4321


def test_only_voluntary_switches_are_wakeups() -> None:
    assert switches(STATUS) == 17


def test_processes_come_and_go() -> None:
    assert grown({"1/task/1": 100, "2/task/2": 900}, {"1/task/1": 103, "3/task/3": 2}) == 3 + 2


def test_what_is_no_such_file_is_refused() -> None:
    with pytest.raises(ValueError, match="no line of Pss"):
        pss_kib(STATUS)
    with pytest.raises(ValueError, match="no line of voluntary_ctxt_switches"):
        switches(ROLLUP)


def test_this_process() -> None:
    end = End(os.getpid(), os.getpid)
    assert end.cpu()[str(os.getpid())] > 0
    assert end.wakeups().keys() == end.worker_wakeups().keys()
    assert f"{os.getpid()}/task/{os.getpid()}" in end.wakeups()
    assert end.memory_mb() >= end.worker_memory_mb() > 1


def test_who_has_ended_uses_nothing() -> None:
    end = End(1 << 30, lambda: 1 << 30)  # beyond every process id
    assert (end.cpu(), end.memory_mb(), end.wakeups()) == ({}, 0, {})

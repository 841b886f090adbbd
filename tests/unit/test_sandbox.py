# SPDX-License-Identifier: BSD-3-Clause
"""Limits and rights of a process, seen in one of their own."""

import subprocess
import sys

import pytest

from ts4nsnet.sandbox import CAP_NET_BIND_SERVICE

ASK = """
import resource, sys
from ts4nsnet.sandbox import allow_files
resource.setrlimit(resource.RLIMIT_NOFILE, (32, int(sys.argv[1])))
allow_files(int(sys.argv[2]))
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("most", "wanted", "allowed"), [(100, 50, 50), (100, 100, 100), (100, 1000, 100)])
def test_as_many_files_as_are_wanted_or_allowed(most: int, wanted: int, allowed: int) -> None:
    command = [sys.executable, "-c", ASK, str(most), str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{allowed} {most}\n"


GIVE_UP = """
import sys
from ts4nsnet.sandbox import give_up_rights
before = open("/proc/self/status").read()
give_up_rights(int(sys.argv[1]))
print(before, open("/proc/self/status").read(), sep="")
"""


@pytest.mark.parametrize("kept", [0, CAP_NET_BIND_SERVICE])
def test_rights_are_given_up_but_for_those_that_are_kept(kept: int) -> None:
    command = [sys.executable, "-c", GIVE_UP, str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.partition(":\t") for line in done.stdout.splitlines()]
    had, has = (
        {name: value for name, _, value in part} for part in (lines[: len(lines) // 2], lines[len(lines) // 2 :])
    )
    want = int(had["CapPrm"], 16) & kept
    assert {name: int(has[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {
        "CapEff": want, "CapPrm": want, "CapInh": 0, "CapAmb": 0,
    }  # fmt: skip
    assert has["NoNewPrivs"] == "1"

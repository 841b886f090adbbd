# SPDX-License-Identifier: BSD-3-Clause
"""`make demo` with rootless podman, as a plain user; tests/system/lab/test_demo.py is the same with bare namespaces."""

import signal
import sys
from pathlib import Path
from tempfile import gettempdir

import pytest

from tests.host.podman import Machine
from tests.processes import Process


def start(machine: Machine) -> Process:
    return machine.start(*machine.as_user(sys.executable, "-m", "ts4nsnet.lab.demo"))


def left() -> list[Path]:
    return list(Path(gettempdir()).glob("ts4nsnet-demo-*"))


def test_demo(machine: Machine) -> None:
    """Two containers of podman, ping by name, 100 MB both ways, a table; it keeps nothing."""
    before, folders = machine.traces(), left()
    demo = start(machine)
    assert demo.wait(90) == 0
    assert "containers of rootless podman" in demo.output
    assert "alice pings bob by name" in demo.output
    assert demo.output.count("SHA-256 equal") == 4  # on the way, and in the table
    assert left() == folders
    machine.wait_for_traces(before)


@pytest.mark.parametrize("step", ["tailnet:", "containers:", "bob: starting", "bob → alice: on"])
def test_demo_that_is_interrupted(machine: Machine, step: str) -> None:
    """Ctrl-C at any time."""
    before, folders = machine.traces(), left()
    demo = start(machine)
    demo.wait_for(step, timeout=60)
    demos = [pid for pid, words in machine.processes("ts4nsnet.lab.demo").items() if words.startswith(sys.executable)]
    machine.kill(demos, signal.SIGINT)
    assert demo.wait(30) == 130
    assert left() == folders
    machine.wait_for_traces(before)

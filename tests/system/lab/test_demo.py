# SPDX-License-Identifier: BSD-3-Clause
"""`make demo` where there is no rootless podman, as below another user namespace; see tests/host/test_demo.py."""

import os
import signal
import sys
from pathlib import Path
from tempfile import gettempdir

import pytest

from tests.topology import Host, Topology


@pytest.fixture
def host(topology: Topology) -> Host:
    return topology.host("host")


def left() -> list[Path]:
    return list(Path(gettempdir()).glob("ts4nsnet-demo-*"))


def alive() -> set[int]:
    """All processes but zombies, whose parent we have become; we are process 1."""
    folders = (entry for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return {int(folder.name) for folder in folders if "\nState:\tZ" not in (folder / "status").read_text()}


def test_demo_in_bare_namespaces(host: Host) -> None:
    folders, before = left(), alive()
    demo = host.start(sys.executable, "-m", "ts4nsnet.lab.demo")
    assert demo.wait(90) == 0
    assert "bare namespaces" in demo.output
    assert demo.output.count("SHA-256 equal") == 4  # on the way, and in the table
    assert (left(), alive()) == (folders, before)


@pytest.mark.parametrize("step", ["alice: starting", "bob: starting", "bob → alice: on"])
def test_demo_that_is_interrupted(host: Host, step: str) -> None:
    folders, before = left(), alive()
    demo = host.start(sys.executable, "-m", "ts4nsnet.lab.demo")
    demo.wait_for(step, timeout=60)
    os.kill(demo.pid, signal.SIGINT)
    assert demo.wait(30) == 130
    assert (left(), alive()) == (folders, before)

# SPDX-License-Identifier: BSD-3-Clause
"""The processes of one node: what they may do, what of the caller's reaches them, what they cost while nothing happens.

They are started as root with every capability, as by a root's podman.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.machine import Machine, Started
from tests.system.product import NODE, WORKER
from ts4nsnet.sandbox import CAP_NET_BIND_SERVICE

NETNS_CHILD = "ts4nsnet.netns.enter"
CHILD_TIME = 20.0  # seconds; a netns child that nobody asks for anything ends before
IDLE_TIME = 10.0  # seconds that are looked at
IDLE_SHARE = 0.002  # of a CPU, of all processes of a node together
TICK = 1 / os.sysconf("SC_CLK_TCK")
# every module that one of our processes may import and that is not Python's own
HOSTILE = ("dns", "trio", "nacl", "cryptography", "h2", "h11", "attr", "idna", "outcome")


@pytest.fixture(scope="module")
def node(machine: Machine) -> Iterator[Started]:
    """A node that has all its processes."""
    pytest.importorskip("ts4nsnet.uring.pipeline", reason="the engine is not compiled")
    box = machine.container("web")
    started = machine.start(box, "-c", str(box.pid), "tap0")
    started.wait_until_ready()
    assert started.child(NODE)
    assert started.child(WORKER)
    yield started
    assert started.leave() == 0


def status(pid: int) -> dict[str, str]:
    """/proc/PID/status by its names."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize(("program", "kept"), [(NODE, CAP_NET_BIND_SERVICE), (WORKER, 0)], ids=["node", "worker"])
def test_what_needs_no_rights_has_none(node: Started, program: str, kept: int) -> None:
    has = status(node.child(program))
    rights = {name: int(has[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")}
    assert rights == {"CapEff": kept, "CapPrm": kept, "CapInh": 0, "CapAmb": 0, "CapBnd": 0}
    assert has["NoNewPrivs"] == "1"


def test_an_idle_node_costs_nothing(node: Started) -> None:
    until = time.monotonic() + CHILD_TIME
    while node.child(NETNS_CHILD):
        assert time.monotonic() < until
        time.sleep(0.1)
    pids = [node.process.pid, *node.children()]
    before = sum(map(cpu_time, pids))
    time.sleep(IDLE_TIME)  # what is to be shown is that nothing happens
    assert [node.process.pid, *node.children()] == pids
    assert len(pids) == 3
    assert sum(map(cpu_time, pids)) - before < IDLE_SHARE * IDLE_TIME + 1.5 * TICK


def cpu_time(pid: int) -> float:
    """What a process has used, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


@pytest.mark.parametrize("by", ["variable", "folder"])
def test_modules_of_the_callers_are_not_imported(machine: Machine, tmp_path: Path, by: str) -> None:
    """A PYTHONPATH, or the current folder, may hold a module of any name."""
    for name in HOSTILE:
        (tmp_path / f"{name}.py").write_text(f'open("{tmp_path}/imported", "a").write("{name} "); raise SystemExit(7)')
    box = machine.container(f"hostile-{by}")
    variables = {"PYTHONPATH": str(tmp_path)} if by == "variable" else {}
    wrapper = ("env", "-C", str(tmp_path)) if by == "folder" else ()
    started = machine.start(box, "-c", str(box.pid), "tap0", wrapper=wrapper, **variables)
    started.wait_until_ready()
    for pid in (started.process.pid, started.child(NODE)):
        assert Path(f"/proc/{pid}/environ").read_bytes() == b"LC_ALL=C.UTF-8\0"
    assert started.leave() == 0
    assert not (tmp_path / "imported").exists()

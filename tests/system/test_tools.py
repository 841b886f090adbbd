# SPDX-License-Identifier: BSD-3-Clause
"""`ts4nsnet list`, `status` and `logs` of nodes that really run."""

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.system.machine import SCRIPT, TIME_LIMIT, Machine, Started


@pytest.fixture(scope="module")
def nodes(machine: Machine) -> Iterator[tuple[Started, Started]]:
    """Two nodes of one user, ready."""
    web, db = (
        machine.start(box, "-c", "--netns-type=path", box.netns, "tap0")
        for box in map(machine.container, ("web", "db"))
    )
    for node in (web, db):
        node.wait_until_ready()
    yield web, db
    for node in (web, db):
        assert node.leave() == 0


@pytest.fixture(scope="module")
def tool(machine: Machine) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command of ours as the user of the nodes."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {"XDG_RUNTIME_DIR": str(machine.folder), "PATH": ""}
        return subprocess.run(
            [SCRIPT, *words], env=env, capture_output=True, text=True, timeout=TIME_LIMIT, check=False
        )

    return run


def test_list_shows_the_nodes(nodes: tuple[Started, Started], tool: Callable[..., Any]) -> None:
    web, db = nodes
    _, *rows = (line.split() for line in tool("list").stdout.splitlines())
    assert [row[0] for row in rows] == ["db", "web"]
    for row, node in zip(rows, (db, web), strict=True):
        tailnet = {each.partition("/")[0] for each in node.addresses() if each.startswith(("100.", "fd7a:"))}
        assert set(row[1].split(",")) == tailnet
    assert [int(row[-3]) for row in rows] == [db.process.pid, web.process.pid]
    assert [row[-2] for row in rows] == ["Running", "Running"]


def test_status_shows_the_traffic_with_a_peer(nodes: tuple[Started, Started], tool: Callable[..., Any]) -> None:
    web, _ = nodes
    own, peer = (line.split() for line in tool("status", "db").stdout.splitlines())
    assert (own[1], own[-1]) == ("db", "-")
    assert peer[1] == "web"
    web.box.run("ping", "-c", "3", "-i", "0.05", "-W", "5", own[0])
    status = json.loads(tool("status", "--json", "db").stdout)
    (peer_status,) = status["Peer"].values()
    assert peer_status["HostName"] == "web"
    assert peer_status["RxBytes"] >= 3 * 84
    assert peer_status["TxBytes"] >= 3 * 84
    assert peer_status["Active"] is True
    assert peer_status["LastHandshake"][:19] >= status["Self"]["Created"][:19]  # seconds
    assert " active; " in tool("status", "db").stdout.splitlines()[1]


def test_logs_are_those_of_the_node(nodes: tuple[Started, Started], tool: Callable[..., Any]) -> None:
    web, _ = nodes
    assert tool("logs", "web").stdout == web.log
    assert web.log

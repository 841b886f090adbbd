# SPDX-License-Identifier: BSD-3-Clause
"""The lab between hosts: the command itself, and a client whose link is cut."""

import json
import signal
import sys
from pathlib import Path

import trio

from tests.topology import Topology
from tests.unit.lab.clients import until
from ts4nsnet.lab import Settings, Tailnet

PROGRAM = str(Path(sys.executable).with_name("ts4nsnet"))


def test_command_serves_a_host_and_comes_back_as_the_same(topology: Topology, tmp_path: Path) -> None:
    server, node = topology.host("server"), topology.host("node")
    topology.link(node, "192.0.2.2/24", server, "192.0.2.1/24")
    command = (PROGRAM, "lab", "serve", "--listen", "192.0.2.1:8443", "--state", str(tmp_path / "state"))
    lines = []
    for number in (signal.SIGTERM, signal.SIGINT):
        lab = server.start(*command)
        line = json.loads(lab.wait_for("control_url"))
        poller = node.start(sys.executable, "-m", "tests.programs.lab_poll", *line.values())
        poller.wait_for("polling")
        poller.stop()
        lab.send_signal(number)
        assert lab.wait() == 0
        assert lab.output.count("\n") == 1, "one line and nothing else"
        lines.append(line)
    assert lines[0] == lines[1]
    assert set(lines[0]) == {"control_url", "ca", "auth_key"}
    state = json.loads((tmp_path / "state" / "state.json").read_text())
    assert [node["label"] for node in state["nodes"]] == ["poller"]


def test_node_whose_link_is_cut_goes_offline(topology: Topology, tmp_path: Path) -> None:
    server, node = topology.host("server"), topology.host("node")
    link = topology.link(node, "192.0.2.2/24", server, "192.0.2.1/24")

    async def watch() -> None:
        settings = Settings(dead_time=2, offline_grace_time=0.1)
        async with Tailnet(tmp_path, ("192.0.2.1", 0), settings=settings) as tailnet:
            key = tailnet.auth_key()
            node.start(sys.executable, "-m", "tests.programs.lab_poll", tailnet.control_url, str(tailnet.ca), key)
            await until(lambda: any(each.online for each in tailnet.nodes()))
            link.set_loss(up=1.0, down=1.0)
            await until(lambda: not any(each.online for each in tailnet.nodes()))

    with server.entered():
        trio.run(watch)

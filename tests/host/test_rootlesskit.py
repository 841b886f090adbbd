# SPDX-License-Identifier: BSD-3-Clause
"""rootlesskit starts ts4nsnet in the place of slirp4netns: without a capability, and with a TAP device already there.

It is what rootless Docker, nerdctl and BuildKit run in. It gives the container 10.0.2.100 itself, after we are ready;
what it runs inherits all variables. It ends us by SIGKILL, so the node process alone can log out.
"""

import re
import sys

import pytest

from tests.host.podman import ADDRESS, COMMAND, Machine
from tests.processes import Process
from tests.waiting import until

OPTIONS = ("--net=slirp4netns", f"--slirp4netns-binary={COMMAND}", "--copy-up=/etc", "--disable-host-loopback")


def start(machine: Machine, name: str, *options: str, script: str) -> Process:
    """rootlesskit with a shell in it."""
    command = ("rootlesskit", *OPTIONS, *options, "sh", "-c", script)
    return machine.start(*machine.as_user(*command, env=machine.variables(name)))


def test_a_command_in_rootlesskit_is_a_node(machine: Machine) -> None:
    """Addresses, ping by name, and how rootlesskit's own address lives beside ours."""
    box = machine.container("anna")
    script = "ip address show dev tap0; cat /etc/resolv.conf; ping -c1 anna; echo done; exec sleep 1000"
    process = start(machine, "bert", script=script)
    process.wait_for("done", timeout=30)
    addresses = re.findall(r"inet6? (\S+)/", process.output)
    assert set(machine.nodes()["bert"]["addresses"]) | {"10.0.2.100"} <= set(addresses)
    assert "nameserver 10.0.2.3" in process.output
    assert "1 received" in process.output
    assert "1 packets received" in box.run("ping", "-c", "1", "bert")


@pytest.mark.parametrize("victim", ["child", "rootlesskit"])
def test_the_end(machine: Machine, victim: str) -> None:
    """rootlesskit kills us, or is killed itself: the node leaves, and nothing is left."""
    before = machine.traces()
    process = start(machine, "carl", "--state-dir=state", script="echo up; exec sleep 1000")
    process.wait_for("up", timeout=30)
    assert "carl" in machine.nodes()
    starts = ("sh -c", "sleep") if victim == "child" else ("rootlesskit",)
    machine.kill(pid for pid, words in machine.processes("sleep 1000").items() if words.startswith(starts))
    process.wait()
    machine.wait_for_traces(before)


def test_options(machine: Machine) -> None:
    """What rootlesskit passes on: network, MTU, interface, sandbox and seccomp as far as we say that we have them."""
    machine.container("dora")
    sandbox = ("--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto")
    options = ("--cidr=10.77.0.0/24", "--ifname=ts0", "--mtu=1280", "--ipv6", *sandbox)
    script = "ip address show dev ts0; cat /etc/resolv.conf; ping -c1 dora; echo done"
    process = start(machine, "emil", *options, script=script)
    process.wait_for("done", timeout=30)
    assert "10.77.0.100" in process.output
    assert "nameserver 10.77.0.3" in process.output
    assert "1 received" in process.output


def test_published_port(machine: Machine) -> None:
    """rootlesskit's own port driver reaches what listens inside."""
    ports = ("--port-driver=builtin", "-p", f"{ADDRESS}:18081:80/tcp")
    script = f"exec {sys.executable} -I -m http.server --bind 0.0.0.0 80"
    start(machine, "fred", *ports, script=script)
    until(lambda: "Directory listing" in machine.get(18081), 30)

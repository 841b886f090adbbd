# SPDX-License-Identifier: BSD-3-Clause
"""`ts4nsnet run` by a user without privileges, on a machine as it is: his command is a node, and nothing remains."""

import signal

from tests.host.podman import COMMAND, TIME_LIMIT, Machine
from tests.processes import Process


def start(machine: Machine, hostname: str, *command: str) -> Process:
    """A command as a node."""
    words = [str(COMMAND), "run", "--", *command]
    return machine.start(*machine.as_user(*words, env=machine.variables(hostname)))


def test_a_users_command_is_a_node(machine: Machine) -> None:
    before = machine.traces()
    first = start(machine, "frida", "sh", "-c", "id -u; env; echo up; exec sleep 1000")
    first.wait_for("up", TIME_LIMIT)
    assert str(machine.user.pw_uid) in first.output.splitlines()
    assert machine.lab["auth_key"] not in first.output
    second = start(machine, "gerd", "sh", "-c", "ping -c1 -w10 frida; cat /etc/resolv.conf; exit 7")
    assert second.wait(TIME_LIMIT) == 7
    assert " 1 received" in second.output
    assert "nameserver 10.0.2.3" in second.output
    sleeping = [pid for pid, words in machine.processes("sleep 1000").items() if words.startswith("sleep")]
    machine.kill(sleeping, signal.SIGTERM)
    assert first.wait(TIME_LIMIT) == 128 + signal.SIGTERM
    machine.wait_for_traces(before)

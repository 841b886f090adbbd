# SPDX-License-Identifier: BSD-3-Clause
"""How the lab's coordination server bears many nodes: `python -m perf.lab [nodes]`.

The server runs as a process of its own (`ts4nsnet lab serve`); this process holds the map polls, over TLS and ts2021 on
the loopback interface, as clients do. Then one more node joins. Shown: the time from its registration until each poll
has the delta (median, last), and what the server's process spent on it (user and system time).

Must show (issue 4): 1,000 polls, all have it within 2 s, for at most 2 s of the server's CPU.
"""

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import trio

from tests.unit.lab.clients import Node, control

MAX_TIME, MAX_CPU_TIME = 2.0, 2.0  # seconds


@dataclass(frozen=True)
class Address:
    """What clients need of a server."""

    control_url: str
    ca: Path


def cpu_time(pid: int) -> float:
    """User and system time that a process has spent, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Poll:
    """One node's map poll, and when it heard of the newcomer."""

    def __init__(self, number: int, random: Random) -> None:
        self.node = Node(f"node{number}", random)
        self.heard_at = 0.0

    async def run(self, address: Address, random: Random, auth_key: str, dials: trio.Semaphore, gate: "Gate") -> None:
        """Join, then read the poll until the newcomer is in it."""
        await dials.acquire()
        async with control(address, self.node.machine, random) as client:
            await client.call("/machine/register", self.node.register(auth_key))
            stream = await client.start("/machine/map", self.node.poll())
            await client.next_message(stream)
            dials.release()
            gate.standing.release()
            while not self.heard_at:
                message = await client.next_message(stream)
                assert message is not None, "the server ended a poll"
                if any(peer["Name"].startswith("newcomer.") for peer in message.get("PeersChanged", ())):
                    self.heard_at = time.monotonic()
            gate.heard.release()
            await trio.sleep_forever()


class Gate:
    """Released once by every poll that stands, and by every one that has heard of the newcomer."""

    def __init__(self) -> None:
        self.standing = trio.Semaphore(0)
        self.heard = trio.Semaphore(0)


async def measure(nodes: int, line: dict[str, str], pid: int) -> int:
    """Run the clients; the exit code is returned."""
    random = Random(7)
    address = Address(line["control_url"], Path(line["ca"]))
    polls = [Poll(number, random) for number in range(nodes)]
    gate, dials = Gate(), trio.Semaphore(8)
    started = time.monotonic()
    async with trio.open_nursery() as nursery:
        for poll in polls:
            nursery.start_soon(poll.run, address, random, line["auth_key"], dials, gate)
        for _ in polls:
            await gate.standing.acquire()
        print(f"{nodes} polls stand after {time.monotonic() - started:.1f} s, server CPU {cpu_time(pid):.1f} s")
        await trio.sleep(3.0)
        idle_cpu, idle_at = cpu_time(pid), time.monotonic()
        await trio.sleep(5.0)
        print(f"idle: {(cpu_time(pid) - idle_cpu) / (time.monotonic() - idle_at):.1%} of a CPU")
        newcomer = Node("newcomer", random)
        async with control(address, newcomer.machine, random) as client:
            before, began = cpu_time(pid), time.monotonic()
            await client.call("/machine/register", newcomer.register(line["auth_key"]))
            await client.call("/machine/map", newcomer.map(OmitPeers=True))
            for _ in polls:
                await gate.heard.acquire()
            await trio.sleep(0.5)
            spent = cpu_time(pid) - before
        delays = sorted(poll.heard_at - began for poll in polls)
        nursery.cancel_scope.cancel()
    print(f"join to delta: median {statistics.median(delays):.3f} s, last {delays[-1]:.3f} s (at most {MAX_TIME})")
    print(f"server CPU for it: {spent:.2f} s (at most {MAX_CPU_TIME})")
    return int(delays[-1] > MAX_TIME or spent > MAX_CPU_TIME)


def main(argv: Sequence[str]) -> int:
    """Start a server, measure, stop it."""
    nodes = int(argv[0]) if argv else 1000
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as directory:
        program = str(Path(sys.executable).with_name("ts4nsnet"))
        command = [program, "lab", "serve", "--listen", "127.0.0.1:0", "--state", directory]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                line = json.loads(server.stdout.readline())
                return trio.run(measure, nodes, line, server.pid)
            finally:
                server.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

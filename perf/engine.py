# SPDX-License-Identifier: BSD-3-Clause
"""The `python` engine beside wireguard-go and beside the bare network: TCP throughput each way, and round-trip times.

    python -m perf engine                                  three rounds of three seconds
    python -m perf.engine --rounds 5 --seconds 10

Each pair of peers has two hosts of its own with a veth between them, and all pairs stand at the same time: a round
measures one after the other, so that whatever else the machine does meets all of them. Everything runs on one machine,
hence both peers, iperf3's client and its server share its processors: what counts is the ratio.

It replaces itself by a process in namespaces of its own, as tests/system does, and needs no privileges.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from statistics import median

from tests import namespaces
from tests.interop.wireguard_peers import ALICE, BOB, Ours, WireGuardGo, WireGuardPeer
from tests.processes import Namespace, Process
from tests.topology import Topology

INSIDE = "--inside"  # set for the process in the namespaces
TARGET = 200.0  # Mbit/s of TCP, of ours to ours
PING_INTERVAL = 0.02  # seconds
IDLE_PINGS = 50


class Unhindered(WireGuardGo):
    """wireguard-go with as many threads as it likes."""

    threads = ""


Make = Callable[..., WireGuardPeer]


@dataclass
class Pair:
    """Two ends between which to measure, and what was measured."""

    name: str
    client: Namespace
    server: Namespace
    address: str  # of the server
    peers: Sequence[WireGuardPeer] = ()  # ours run as long as somebody holds them
    listener: Process | None = None
    transfers: int = 0  # so far
    forth: list[float] = field(default_factory=list)  # Mbit/s
    back: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)  # milliseconds, of each ping
    loaded: list[float] = field(default_factory=list)

    def measure(self, seconds: int) -> None:
        """One round."""
        self.idle += self._ping(IDLE_PINGS)
        forth = self._transfer(seconds)
        self.loaded += self._ping(round((seconds - 0.5) / PING_INTERVAL))
        self.forth.append(_throughput(forth, seconds))
        self.back.append(_throughput(self._transfer(seconds, "--reverse"), seconds))

    def _transfer(self, seconds: int, *options: str) -> Process:
        """Begin a transfer; iperf3's server begins to listen anew after each."""
        self.listener = self.listener or self.server.start("iperf3", "--server", "--forceflush")
        self.transfers += 1
        self.listener.wait_for(f"(test #{self.transfers})")
        command = ("iperf3", "--client", self.address, "--time", str(seconds), "--json", *options)
        return self.client.start(*command)

    def _ping(self, number: int) -> list[float]:
        command = ("ping", "-n", "-c", str(number), "-i", str(PING_INTERVAL), self.address)
        # lost pings have no time
        answers = self.client.run(*command, check=False, timeout=number * PING_INTERVAL + 20).stdout
        return [float(time) for time in re.findall(r"time=([\d.]+) ms", answers)]


def _throughput(transfer: Process, seconds: int) -> float:
    """Wait for the end of a transfer; Mbit/s as the receiver saw them."""
    transfer.wait(seconds + 20)
    result = json.loads(transfer.output)
    if "error" in result:
        raise RuntimeError(f"iperf3: {result['error']}")
    received: float = result["end"]["sum_received"]["bits_per_second"]
    return received / 1e6


def _tunnel(topology: Topology, number: int, name: str, make_alice: Make, make_bob: Make) -> Pair:
    """Two peers on hosts of their own, with a session."""
    hosts = topology.host(f"a{number}"), topology.host(f"b{number}")
    topology.link(hosts[0], "192.0.2.1/24", hosts[1], "192.0.2.2/24")
    identities = replace(ALICE, name=f"alice{number}"), replace(BOB, name=f"bob{number}")
    alice = make_alice(topology, hosts[0], *identities)
    bob = make_bob(topology, hosts[1], *reversed(identities))
    for peer in (alice, bob):
        peer.start()
    bob.know(None)
    alice.know("192.0.2.2")
    return Pair(name, alice.inside, bob.inside, BOB.v4, (alice, bob))


def _bare(topology: Topology) -> Pair:
    client, server = topology.host("client"), topology.host("server")
    topology.link(client, "192.0.2.1/24", server, "192.0.2.2/24")
    return Pair("bare veth", client, server, "192.0.2.2")


def compare(rounds: int, seconds: int) -> list[Pair]:
    """Measure all pairs, alternating; the one that the others are compared with is the third."""
    topology = Topology()
    try:
        pairs = [
            _tunnel(topology, 1, "ours ↔ ours", Ours, Ours),
            _tunnel(topology, 2, "ours ↔ wireguard-go", Ours, Unhindered),
            _tunnel(topology, 3, "wireguard-go ↔ wireguard-go", Unhindered, Unhindered),
            _bare(topology),
        ]
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for pair in pairs:
                pair.measure(seconds)
    finally:
        with redirect_stdout(StringIO()):  # what the peers said
            topology.close()
    return pairs


def show(pairs: Sequence[Pair]) -> None:
    """Print the table: medians, and in brackets how many times wireguard-go's."""
    reference = pairs[2]
    columns = ["forth", "back", "idle", "loaded"]
    print(f"{'':28}{'TCP →':>16}{'TCP ←':>16}{'RTT idle':>16}{'RTT loaded':>16}")
    print(f"{'':28}{'Mbit/s':>16}{'Mbit/s':>16}{'ms':>16}{'ms':>16}")
    for pair in pairs:
        cells = []
        for column in columns:
            value, other = median(getattr(pair, column)), median(getattr(reference, column))
            cells.append(f"{value:.{0 if value > 50 else 2}f} ({value / other:.2f})")
        print(f"{pair.name:28}" + "".join(f"{cell:>16}" for cell in cells))
    slowest = min(median(pairs[0].forth), median(pairs[0].back))
    print(f"target: {TARGET:.0f} Mbit/s from ours to ours; {'reached' if slowest >= TARGET else 'missed'}")


def main(arguments: Sequence[str] = ()) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m perf.engine", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each transfer")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.inside:
        command = [*namespaces.UNSHARE, sys.executable, "-m", "perf.engine", INSIDE, *arguments]
        subprocess.run(command, check=True)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    show(compare(options.rounds, options.seconds))


if __name__ == "__main__":
    main(sys.argv[1:])

# SPDX-License-Identifier: BSD-3-Clause
"""Our engines beside wireguard-go and the bare network: TCP each way, small and large datagrams, CPU, round trips.

    python -m perf engine                                  three rounds of two seconds
    python -m perf.engine --rounds 5 --seconds 10 --pairs epoll uring wireguard-go

Each pair of peers has two hosts of its own with a veth between them, and all pairs stand at the same time: a round
measures one after the other, so that whatever else the machine does meets all of them. Everything runs on one machine,
hence both peers, iperf3's client and its server share its processors: what counts is the ratio. CPU time is that of
the two peers' processes, per gigabyte of TCP payload, each side; it says more than throughput where others work, too.
Datagrams are iperf3's, one per call, as many as it can make: it takes a processor of its own for that.

It replaces itself by a process in namespaces of its own, as tests/system does, and needs no privileges.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

from tests import namespaces
from tests.interop import wireguard_peers
from tests.interop.wireguard_peers import ALICE, BOB, Ours, WireGuardGo, WireGuardPeer
from tests.processes import Namespace, Process
from tests.topology import Topology

INSIDE = "--inside"  # set for the process in the namespaces
MTU = 1280  # a tailnet's
REFERENCE = "wireguard-go"  # what the others are compared with
PING_INTERVAL = 0.02  # seconds
IDLE_PINGS = 50
# a buffer for what comes while iperf3's server does not run
DATAGRAMS = ("--udp", "--bitrate", "0", "--window", "4M")


class Unhindered(WireGuardGo):
    """wireguard-go with as many threads as it likes."""

    threads = ""


class Epoll(Ours):
    """The compiled engine on plain system calls."""

    engine = "epoll"


class Uring(Ours):
    """The compiled engine on io_uring."""

    engine = "uring"


Make = Callable[..., WireGuardPeer]
KINDS: dict[str, Make] = {"epoll": Epoll, "uring": Uring, "python": Ours, REFERENCE: Unhindered}
BARE = "bare veth"


# of the table, and their units
COLUMNS = {
    "TCP →": "Mbit/s",
    "TCP ←": "Mbit/s",
    "CPU": "s/GB a side",
    "UDP 64": "kpps",
    "UDP 1200": "kpps",
    "ping idle": "ms",
    "ping loaded": "ms",
}


@dataclass
class Pair:
    """Two ends between which to measure, and what was measured."""

    name: str
    client: Namespace
    server: Namespace
    address: str  # of the server
    peers: Sequence[Any] = ()  # with a `process` each; ours run as long as somebody holds them
    listener: Process | None = None
    transfers: int = 0  # so far
    found: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in COLUMNS})

    def measure(self, seconds: int) -> None:
        """One round."""
        self.found["ping idle"] += self._ping(IDLE_PINGS)
        before = self.cpu_time()
        forth = self._transfer(seconds)
        self.found["ping loaded"] += self._ping(round((seconds - 0.5) / PING_INTERVAL))
        megabits = _throughput(forth, seconds)
        self.found["TCP →"].append(megabits)
        if self.peers:
            self.found["CPU"].append((self.cpu_time() - before) / 2 / (megabits * seconds / 8e3))
        self.found["TCP ←"].append(_throughput(self._transfer(seconds, "--reverse"), seconds))
        for size in (64, 1200):
            transfer = self._transfer(seconds, *DATAGRAMS, "--length", str(size))
            self.found[f"UDP {size}"].append(_packet_rate(transfer, seconds))

    def cpu_time(self) -> float:
        """What the peers have used so far, seconds."""
        total = 0.0
        for peer in self.peers:
            fields = Path(f"/proc/{peer.process.pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total

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


def _result(transfer: Process, seconds: int) -> dict[str, Any]:
    """Wait for the end of a transfer; what iperf3 says of it."""
    transfer.wait(seconds + 20)
    result: dict[str, Any] = json.loads(transfer.output)
    if "error" in result:
        raise RuntimeError(f"iperf3: {result['error']}")
    end: dict[str, Any] = result["end"]
    return end


def _throughput(transfer: Process, seconds: int) -> float:
    """Mbit/s as the receiver saw them."""
    received: float = _result(transfer, seconds)["sum_received"]["bits_per_second"]
    return received / 1e6


def _packet_rate(transfer: Process, seconds: int) -> float:
    """Thousands of datagrams a second that arrived."""
    total = _result(transfer, seconds)["sum"]
    received: float = (total["packets"] - total["lost_packets"]) / total["seconds"]
    return received / 1e3


def tunnel(topology: Topology, number: int, name: str, make_alice: Make, make_bob: Make) -> Pair:
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


def bare(topology: Topology) -> Pair:
    client, server = topology.host("client"), topology.host("server")
    topology.link(client, "192.0.2.1/24", server, "192.0.2.2/24")
    return Pair(BARE, client, server, "192.0.2.2")


def alternate(pairs: Sequence[Pair], rounds: int, seconds: int) -> None:
    """Measure pairs one after the other, again and again."""
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for pair in pairs:
            pair.measure(seconds)


def compare(names: Sequence[str], rounds: int, seconds: int) -> list[Pair]:
    """Measure these pairs, alternating."""
    topology = Topology()
    wireguard_peers.MTU = MTU
    try:
        pairs = [
            bare(topology) if name == BARE else tunnel(topology, number, name, KINDS[name], KINDS[name])
            for number, name in enumerate(names)
        ]
        alternate(pairs, rounds, seconds)
    finally:
        with redirect_stdout(StringIO()):  # what the peers said
            topology.close()
    return pairs


Compare = Callable[[Sequence[str], int, int], Sequence[Pair]]


def show(pairs: Sequence[Pair]) -> None:
    """Print the table: medians, and in brackets how many times wireguard-go's."""
    reference = next((pair for pair in pairs if pair.name == REFERENCE), None)
    print(f"{'':14}" + "".join(f"{name:>16}" for name in COLUMNS))
    print(f"{'':14}" + "".join(f"{unit:>16}" for unit in COLUMNS.values()))
    for pair in pairs:
        cells = []
        for name, values in pair.found.items():
            if not values:
                cells.append("")
                continue
            value = median(values)
            other = median(reference.found[name]) if reference else 0
            cells.append(f"{value:.{0 if value > 50 else 2}f}" + (f" ({value / other:.2f})" if other else ""))
        print(f"{pair.name:14}" + "".join(f"{cell:>16}" for cell in cells))


def run(module: str, doc: str, every: Sequence[str], compare: Compare, arguments: Sequence[str]) -> None:
    """Read the arguments of a benchmark of pairs, and run it in namespaces of its own.

    Args:
        module: to be executed there.
        doc: the module's.
        every: the pairs that there are.
        compare: measures some of them, so many rounds of so many seconds.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each transfer")
    parser.add_argument("--pairs", nargs="+", choices=every, default=every, help="which to measure")
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if not options.inside:
        command = [*namespaces.UNSHARE, sys.executable, "-m", module, INSIDE, *arguments]
        subprocess.run(command, check=True)
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    show(compare(options.pairs, options.rounds, options.seconds))


def main(arguments: Sequence[str] = ()) -> None:
    """Run the benchmark."""
    run("perf.engine", __doc__ or "", [*KINDS, BARE], compare, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])

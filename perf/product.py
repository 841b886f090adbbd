# SPDX-License-Identifier: BSD-3-Clause
"""The whole product beside wireguard-go: slirp4netns' command line, the embedded tailnet, packet filter and worker.

    python -m perf product                                 three rounds of two seconds
    python -m perf.product --rounds 5 --seconds 5 --pairs uring wireguard-go "uring relayed"

As `perf.engine`, whose table and way of measuring this has; but the ends are containers of two nodes, and the CPU time
is that of all processes of both. A relayed pair may not use UDP: its packets pass the lab's relay, which runs on the
first host and whose CPU time is not counted.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from perf.engine import BARE, KINDS, REFERENCE, Pair, alternate, bare, run, tunnel
from tests.interop import wireguard_peers
from tests.processes import Process
from tests.topology import Container, Host, Topology

PROGRAM = Path(sys.executable).with_name("ts4nsnet")
LAB_PORT = 8443
START_TIME = 30.0  # seconds
RELAYED = " relayed"
PRODUCTS = ("uring", "epoll", "python", f"uring{RELAYED}", f"python{RELAYED}")
NO_UDP = (
    "add table inet no-udp",
    "add chain inet no-udp out { type filter hook output priority filter; }",
    'add rule inet no-udp out oifname != "lo" meta l4proto udp drop',
)


class Nodes(Pair):
    """A pair whose peers are nodes: keepers, and what those have started."""

    keepers: Sequence[Process] = ()

    def cpu_time(self) -> float:
        """What all processes of both nodes have used so far, seconds."""
        total = 0.0
        for keeper in self.keepers:
            for task in (keeper.pid, *_children(keeper.pid)):
                fields = Path(f"/proc/{task}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return total


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def nodes(topology: Topology, number: int, name: str, folder: Path) -> Pair:
    """Two containers on a tailnet of their own, whose nodes know each other."""
    hosts = topology.host(f"c{number}"), topology.host(f"d{number}")
    topology.link(hosts[0], "192.0.2.1/24", hosts[1], "192.0.2.2/24")
    if name.endswith(RELAYED):
        for host in hosts:
            host.nft(*NO_UDP)
    serve = [str(PROGRAM), "lab", "serve", "--listen", f"192.0.2.1:{LAB_PORT}", "--state", str(folder / "lab")]
    told = json.loads(hosts[0].start(*serve).wait_for("control_url", START_TIME))
    boxes = topology.container(f"box-c{number}"), topology.container(f"box-d{number}")
    engine = name.removesuffix(RELAYED)
    keepers = [_start(host, box, told, folder, engine) for host, box in zip(hosts, boxes, strict=True)]
    for box in boxes:
        _wait_for_address(box)
    address = _wait_for_address(boxes[1])
    boxes[0].run("ping", "-c3", "-w20", address, timeout=30)
    pair = Nodes(name, boxes[0], boxes[1], address, keepers)
    pair.keepers = keepers
    return pair


def _start(host: Host, box: Container, told: dict[str, str], folder: Path, engine: str) -> Process:
    env = {
        "TS_AUTHKEY": told["auth_key"],
        "TS_CONTROL_URL": told["control_url"],
        "TS_HOSTNAME": box.name,
        "SSL_CERT_FILE": told["ca"],
        "XDG_RUNTIME_DIR": str(folder),
        "TS4NSNET_ENGINE": engine,
    }
    return host.start(
        str(PROGRAM), "--mtu=65520", "--enable-ipv6", "-c", "--netns-type=path", box.netns, "tap0", env=env
    )


def _wait_for_address(box: Container) -> str:
    """The address of the tailnet, once the default route says that all is set."""
    until = time.monotonic() + START_TIME
    while "default dev tap0" not in box.run("ip", "route").stdout:
        if time.monotonic() > until:
            raise RuntimeError(f"{box.name}: not ready within {START_TIME:g} s")
        time.sleep(0.05)
    shown = json.loads(box.run("ip", "-json", "-4", "address", "show", "dev", "tap0").stdout)
    found: str = next(each["local"] for each in shown[0]["addr_info"] if each["local"].startswith("100."))
    return found


def compare(names: Sequence[str], rounds: int, seconds: int) -> list[Pair]:
    """Measure these pairs, alternating."""
    topology = Topology()
    wireguard_peers.MTU = 1280
    with tempfile.TemporaryDirectory() as folder:
        try:
            pairs: list[Pair] = []
            for number, name in enumerate(names):
                own = Path(folder) / str(number)
                own.mkdir(0o700)
                if name == BARE:
                    pairs.append(bare(topology))
                elif name == REFERENCE:
                    pairs.append(tunnel(topology, number, name, KINDS[name], KINDS[name]))
                else:
                    pairs.append(nodes(topology, number, name, own))
            alternate(pairs, rounds, seconds)
        finally:
            with redirect_stdout(StringIO()):  # what the programs said
                topology.close()
    return pairs


def main(arguments: Sequence[str] = ()) -> None:
    """Run the benchmark."""
    run("perf.product", __doc__ or "", [*PRODUCTS, REFERENCE, BARE], compare, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])

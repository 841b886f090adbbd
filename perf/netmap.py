# SPDX-License-Identifier: BSD-3-Clause
"""Netmaps of many peers: time and memory of the first message, and what a change of one peer costs.

    python -m perf.netmap

The peers are like those that a server sends: random keys, about 790 bytes of JSON each. One process writes the message
to a file, and another reads it, so that only that is measured. Memory is resident memory of the process: at its peak,
with the message (8 MB for 10,000 peers) and its JSON in it; and in the end. Targets for 10,000 peers: 1.5 s, 60 MB, and
5 ms for a change. A message with all peers again, which headscale sends when one comes or goes, is read in whole.
"""

import gc
import json
import multiprocessing
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from ts4nsnet.control.netmap import NetMap, NetMapDelta
from ts4nsnet.control.wire import read_map_response

PEERS = 10_000
ROUNDS = 100
WALL = 1.8e9  # unix seconds


def main(_arguments: Sequence[str] = ()) -> None:
    """Run everything, each in a process of its own, and print it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message.json"
        for work in (write_message, report):
            process = multiprocessing.get_context("spawn").Process(target=work, args=(path,))
            process.start()
            process.join()


def report(path: Path) -> None:
    """Take all measurements."""
    netmap = first_message(path)
    all_again(path, netmap)
    changes(netmap)


def write_message(path: Path) -> None:
    """A first message with all peers."""
    chance = random.Random(4)
    message = {"Node": peer(0, chance), "Peers": [peer(number, chance) for number in range(1, PEERS + 1)]}
    path.write_text(json.dumps(message, separators=(",", ":")))


def peer(number: int, chance: random.Random) -> dict[str, Any]:
    """What a server says about one peer."""
    node = number + 1
    own = [f"100.{64 + (node >> 16)}.{node >> 8 & 255}.{node & 255}/32", f"fd7a:115c:a1e0::{node:x}/128"]
    return {
        "ID": node,
        "StableID": f"n{chance.getrandbits(60):x}CNTRL",
        "Name": f"host-{node}.tail1234.ts.net.",
        "User": node % 100 + 1,
        "Key": f"nodekey:{chance.randbytes(32).hex()}",
        "KeyExpiry": "2027-05-01T06:15:57.965451156Z",
        "DiscoKey": f"discokey:{chance.randbytes(32).hex()}",
        "Addresses": own,
        "AllowedIPs": own,
        "Endpoints": [f"198.51.{node >> 8 & 255}.{node & 255}:41641", f"10.{node >> 8 & 255}.0.{node & 255}:41641"],
        "HomeDERP": node % 20 + 1,
        "Hostinfo": {
            "IPNVersion": "1.102.0-t0123456",
            "OS": "linux",
            "Hostname": f"host-{node}",
            "Services": [
                {"Proto": "peerapi4", "Port": 1024 + node % 60000},
                {"Proto": "peerapi6", "Port": 1024 + node % 60000},
                {"Proto": "peerapi-dns-proxy", "Port": 1},
            ],
        },
        "Created": "2026-11-23T06:15:57.965451156Z",
        "Cap": 131,
        "Online": node % 10 != 0,
        "MachineAuthorized": True,
    }


def first_message(path: Path) -> NetMap:
    """Read and apply the first message; print time and memory."""
    gc.collect()
    before = memory("VmRSS")
    start = perf_counter()
    data = path.read_bytes()
    response = read_map_response(data)
    read = perf_counter()
    netmap = NetMap.first(response, WALL)
    NetMapDelta.between(None, netmap)
    applied = perf_counter()
    print(f"first message: {len(netmap.peers)} peers, {len(data) / 1e6:.1f} MB")
    print(f"  read {1e3 * (read - start):.0f} ms, applied {1e3 * (applied - read):.0f} ms")
    peak = memory("VmHWM") - before
    del response, data
    gc.collect()
    print(f"  memory: {peak:.1f} MB more at the peak, {memory('VmRSS') - before:.1f} MB in the end")
    return netmap


def all_again(path: Path, netmap: NetMap) -> None:
    """The same peers, as changed ones."""
    data = path.read_bytes().replace(b'"Peers"', b'"PeersChanged"')
    start = perf_counter()
    response = read_map_response(data)
    read = perf_counter()
    _, delta = netmap.apply(response, WALL)
    print(f"all peers again: read {1e3 * (read - start):.0f} ms, applied {1e3 * (perf_counter() - read):.0f} ms")
    assert not delta


def changes(netmap: NetMap) -> None:
    """What several messages cost; prints the median and the worst of each."""
    chance = random.Random(5)
    every = sorted(netmap.peers)

    def changed(number: int) -> dict[str, Any]:
        return {"PeersChanged": [peer(every[number] - 1, chance)], "ControlTime": "2027-01-15T08:00:00Z"}

    def patched(number: int) -> dict[str, Any]:
        return {"PeersChangedPatch": [{"NodeID": every[number], "DERPRegion": number + 30}]}

    def removed(number: int) -> dict[str, Any]:
        return {"PeersRemoved": [every[number]]}

    measure("one peer changed", netmap, changed)
    measure("one field of a peer", netmap, patched)
    measure("one peer removed", netmap, removed)
    measure("only the time", netmap, lambda number: {"ControlTime": f"2027-01-15T08:00:{number % 60:02}Z"})


def measure(what: str, netmap: NetMap, message: Callable[[int], dict[str, Any]]) -> None:
    """Read and apply one message many times."""
    times = []
    for number in range(ROUNDS):
        data = json.dumps(message(number)).encode()
        start = perf_counter()
        netmap.apply(read_map_response(data), WALL)
        times.append(1e3 * (perf_counter() - start))
    print(f"{what}: median {statistics.median(times):.3f} ms, worst of {ROUNDS} {max(times):.3f} ms")


def memory(kind: str) -> float:
    """Resident memory of this process in MB: VmRSS now, VmHWM at most."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 1024
    raise LookupError(kind)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: BSD-3-Clause
"""Cryptokey routing with 10,000 peers: how long a look-up takes, and an update of one peer.

Each peer has a /32 and a /128, as in a tailnet; 2,000 of them are routers for one more subnet, of all lengths between 8
and 28 and between 48 and 64. So a look-up that finds nothing has to ask for every length in use.
"""

import os
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network
from random import Random
from statistics import median
from time import monotonic, perf_counter_ns, time_ns

from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.wireguard import AllowedIPs, Device, PeerConfig, SessionMemory
from ts4nsnet.wireguard.routing import Prefix

PEERS = 10_000
ROUTERS = 2_000
REPEATS = 20_000  # look-ups; a tenth of it updates
LOOKUP_TARGET = 2.0  # microseconds
UPDATE_TARGET = 100.0


def prefixes(number: int, random: Random) -> frozenset[Prefix]:
    """What peer `number` is allowed."""
    own: set[Prefix] = {
        IPv4Network((0x64400000 + number, 32)),
        IPv6Network((0xFD7A115CA1E0 << 80 | number, 128)),
    }
    if number < ROUTERS:
        own.add(subnet(number, random))
    return frozenset(own)


def subnet(number: int, random: Random) -> Prefix:
    """One more prefix, v4 or v6, of any of the lengths."""
    if number % 2:
        # in 10.0.0.0/8 to 99.0.0.0/8, so that it contains no peer's own address
        return IPv4Network((random.randrange(10 << 24, 100 << 24), random.randint(8, 28)), strict=False)
    return IPv6Network((0x2001 << 112 | random.getrandbits(112), random.randint(48, 64)), strict=False)


def timed(work: Callable[[int], object], repeats: int) -> list[float]:
    """Microseconds of each call, without what the measuring takes."""
    clock = perf_counter_ns
    overhead = median(-(clock() - clock()) for _ in range(1000))
    took = []
    for number in range(repeats):
        begin = clock()
        work(number)
        took.append(max(0.0, clock() - begin - overhead) / 1000)
    return sorted(took)


def asking(routes: AllowedIPs, addresses: list[bytes]) -> Callable[[int], int | None]:
    """Look the addresses up, one a call."""
    return lambda number: routes.lookup(addresses[number])


def report(name: str, took: list[float], target: float) -> None:
    """Print one row."""
    tail = took[len(took) * 99 // 100]
    print(f"  {name:<44} {median(took):8.2f} {tail:8.2f}   < {target:.0f}")


def main(_arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    random = Random(1)
    routes = AllowedIPs()
    allowed = [prefixes(number, random) for number in range(PEERS)]
    for number, wanted in enumerate(allowed):
        routes.set(number, wanted)
    own4 = [(0x64400000 + random.randrange(PEERS)).to_bytes(4, "big") for _ in range(REPEATS)]
    own6 = [(0xFD7A115CA1E0 << 80 | random.randrange(PEERS)).to_bytes(16, "big") for _ in range(REPEATS)]
    inside = [prefix for wanted in allowed[:ROUTERS] for prefix in wanted if 8 < prefix.prefixlen < 32]
    behind4 = [random.choice(inside)[-1].packed for _ in range(REPEATS)]
    miss4 = [(200 << 24 | random.getrandbits(24)).to_bytes(4, "big") for _ in range(REPEATS)]
    miss6 = [(0x2A00 << 112 | random.getrandbits(112)).to_bytes(16, "big") for _ in range(REPEATS)]
    assert routes.lookup(own4[0]) is not None
    assert routes.lookup(behind4[0]) is not None
    assert routes.lookup(miss4[0]) is None
    assert routes.lookup(miss6[0]) is None

    print(f"routing: {PEERS} peers, {ROUTERS} of them with a subnet")
    print(f"  {'microseconds':<44} {'median':>8} {'99 %':>8}   target")
    for name, addresses in (
        ("look-up, a peer's own IPv4 address", own4),
        ("look-up, a peer's own IPv6 address", own6),
        ("look-up, IPv4 in a subnet", behind4),
        ("look-up, IPv4 that is nobody's", miss4),
        ("look-up, IPv6 that is nobody's", miss6),
    ):
        report(name, timed(asking(routes, addresses), REPEATS), LOOKUP_TARGET)

    # each change gives a router another subnet, and perhaps is the first or last of its length
    changed = [allowed[number % ROUTERS] | {subnet(number, random)} for number in range(REPEATS // 10)]
    report(
        "update, one prefix of a peer (AllowedIPs.set)",
        timed(lambda number: routes.set(number % ROUTERS, changed[number]), len(changed)),
        UPDATE_TARGET,
    )

    memory = SessionMemory(bytearray(SessionMemory.size(PEERS)))
    device = Device(PrivateKey(os.urandom(32)), memory, os.urandom, time_ns)
    keys = [PublicKey(os.urandom(32)) for _ in range(PEERS)]
    added = timed(lambda number: device.set_peer(PeerConfig(keys[number], allowed[number]), monotonic()), PEERS)
    report("a new peer (Device.set_peer)", added, UPDATE_TARGET)
    updates = [PeerConfig(keys[number % ROUTERS], wanted) for number, wanted in enumerate(changed)]
    took = timed(lambda number: device.set_peer(updates[number], monotonic()), len(updates))
    report("update, one prefix of a peer (Device.set_peer)", took, UPDATE_TARGET)


if __name__ == "__main__":
    main()

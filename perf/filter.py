# SPDX-License-Identifier: BSD-3-Clause
"""The packet filter with a large tailnet's rules: how long one packet takes, and a change of the rules.

200 rules, of which each lets one of 20 groups of nodes in to a few ports of ours: a policy expanded to about 5 MB of
JSON. The data path asks once per packet, and nearly all packets are later ones of TCP connections.
"""

from collections.abc import Callable, Sequence
from ipaddress import ip_network
from random import Random
from statistics import median
from time import perf_counter_ns

from ts4nsnet.filter import Destination, Filter, Range, Rule, Verdict
from ts4nsnet.packet import ACK, SYN, TCP, UDP, IPv4, IPv6, carry

NODES, GROUPS, MEMBERS, RULES = 10_000, 20, 500, 200
REPEATS = 20_000
OURS4, OURS6 = bytes([100, 64, 0, 1]), bytes.fromhex("fd7a115ca1e000000000000000000001")


def address(number: int, version: int) -> int:
    """Of a node."""
    return (0x64410000 if version == 4 else 0xFD7A115CA1E0 << 80 | 1 << 32) + number


def rules(random: Random) -> list[Rule]:
    """What our node is sent."""
    groups = []
    for _ in range(GROUPS):
        members = sorted(random.sample(range(NODES), MEMBERS))
        groups.append(tuple(Range(v, address(n, v), address(n, v)) for v in (4, 6) for n in members))
    ours = [Range(4, *[int.from_bytes(OURS4, "big")] * 2), Range(6, *[int.from_bytes(OURS6, "big")] * 2)]
    return [
        Rule(sources=random.choice(groups), destinations=tuple(Destination(each, port, port + 9) for each in ours))
        for port in (random.randrange(1000, 60000) for _ in range(RULES))
    ]


def timed(decide: Callable[[bytes], Verdict], packets: Sequence[bytes]) -> list[float]:
    """Microseconds of each call, without what the measuring takes."""
    clock = perf_counter_ns
    overhead = median(-(clock() - clock()) for _ in range(1000))
    took = []
    for packet in packets:
        begin = clock()
        decide(packet)
        took.append(max(0.0, clock() - begin - overhead) / 1000)
    return sorted(took)


def packets(random: Random, layer4: Callable[[], TCP | UDP], version: int) -> list[bytes]:
    """Inbound packets of random nodes."""
    header, ours = (IPv4, OURS4) if version == 4 else (IPv6, OURS6)
    size = len(ours)
    nodes = (address(random.randrange(NODES), version).to_bytes(size, "big") for _ in range(REPEATS))
    return [carry(header(node, ours, 0), layer4()) for node in nodes]


def report(name: str, took: list[float], target: float) -> None:
    """Print one row."""
    print(f"  {name:<44} {median(took):8.2f} {took[len(took) * 99 // 100]:8.2f}   < {target:g}")


def main(_arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    random = Random(1)
    packet_filter, all_rules = Filter(), rules(random)
    ours = [ip_network("100.64.0.1/32"), ip_network("fd7a:115c:a1e0::1/128")]
    begin = perf_counter_ns()
    packet_filter.set_rules(all_rules, ours)
    compiled = (perf_counter_ns() - begin) / 1e6
    rows = sum(len(table.starts) for table in (packet_filter.v4.sources, packet_filter.v6.sources))

    print(f"filter: {RULES} rules, {GROUPS} groups of {MEMBERS} of {NODES} nodes, both families")
    print(f"  compiled in {compiled:.0f} ms to {rows} rows of sources")
    print(f"  {'microseconds':<44} {'median':>8} {'99 %':>8}   target")
    for version in (4, 6):
        data = packets(random, lambda: TCP(443, 5000, 1, flags=ACK), version)
        report(f"TCP of a connection, IPv{version}", timed(packet_filter.inbound, data), 1.5)
    begins = packets(random, lambda: TCP(40000, random.randrange(65536), 1, flags=SYN), 4)
    report("TCP that begins one, IPv4", timed(packet_filter.inbound, begins), 5)
    report("UDP without a flow, IPv4", timed(packet_filter.inbound, packets(random, lambda: UDP(53, 5000), 4)), 5)
    report(
        "UDP that leaves, a new flow each", timed(packet_filter.outbound, packets(random, lambda: UDP(53, 53), 4)), 5
    )
    answered = packets(random, lambda: UDP(5000, 5000), 6)
    for packet in answered:
        packet_filter.outbound(packet[:8] + packet[24:40] + packet[8:24] + packet[40:])
    report("UDP that answers, IPv6", timed(packet_filter.inbound, answered), 5)


if __name__ == "__main__":
    main()

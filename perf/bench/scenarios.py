# SPDX-License-Identifier: BSD-3-Clause
"""What is measured between two ends: each scenario one function from a pair to figures.

A figure's name has its unit. The first of each scenario is the one that contenders are compared by. CPU time is that of
the processes at one end of the tunnel, not of who sends and receives.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

from perf.bench import iperf, traffic
from perf.bench.processes import TICKS, Counts, grown
from perf.bench.sites import DIRECT, ONE_HOST, RELAYED, WIDE, Pair, Way

Figures = dict[str, float]
Measure = Callable[[Pair, float], Figures]

PORT = 5000
PING_INTERVALS = (0.01, 0.1)  # seconds
LOADED_PING_INTERVAL = 0.02
MAX_PINGS = 50
RAMP_TIME = 0.3  # seconds until a transfer is at its rate
SETTLING_TIME = 1.0  # seconds, after what was measured before
VXLAN = "vxlan0"
VXLAN_MTU = 1230  # 50 bytes less than what every contender carries
SAMPLES = 10  # of memory, in a long run


class Refused(Exception):
    """The contender did not do what was measured; the text says what happened."""


# --- TCP --------------------------------------------------------------------------------------------------------------


def tcp(pair: Pair, seconds: float, options: Sequence[str] = ()) -> Figures:
    """A transfer by iperf3, with these options of its."""
    before = _cpu_times(pair)
    transfer = iperf.start(pair.client, pair.server, pair.address, seconds, *options).end()
    cpu = _cpu(pair, before, transfer.received_bytes / 1e9, "s/GB")
    return {"Mbit/s": transfer.megabits, **cpu, "retransmits": transfer.retransmits}


def vxlan(pair: Pair, seconds: float) -> Figures:
    """A TCP transfer in a VXLAN in the tunnel: the kernel cuts it before, so each packet is one of its own."""
    back = _address_towards(pair)
    ends = ((pair.client, pair.address, "198.51.100.1"), (pair.server, back, "198.51.100.2"))
    try:
        for namespace, remote, own in ends:
            namespace.run(
                *("ip", "link", "add", VXLAN, "mtu", str(VXLAN_MTU), "type", "vxlan"),
                *("id", "1", "remote", remote, "dstport", "4789"),
            )
            namespace.run("ip", "address", "add", f"{own}/24", "dev", VXLAN)
            namespace.run("ip", "link", "set", VXLAN, "up")
        return tcp(Pair(pair.client, pair.server, "198.51.100.2", pair.ends), seconds)
    finally:
        for namespace, _, _ in ends:
            namespace.run("ip", "link", "delete", VXLAN, check=False)


def _address_towards(pair: Pair) -> str:
    (route,) = json.loads(pair.client.run("ip", "-json", "route", "get", pair.address).stdout)
    source: str = route["prefsrc"]
    return source


# --- datagrams --------------------------------------------------------------------------------------------------------


def udp(pair: Pair, seconds: float, *, size: int, options: Sequence[str] = ()) -> Figures:
    """Datagrams by perf.bench.traffic, with these options of its source."""
    program = (sys.executable, "-m", "perf.bench.traffic")
    numbers = (pair.address, str(PORT), str(size))
    sink = pair.server.start(*program, "sink", *numbers)
    try:
        sink.wait_for(traffic.READY)
        before = _cpu_times(pair)
        done = pair.client.run(*program, "source", *numbers, str(seconds), *options, timeout=seconds + iperf.END_TIME)
        sent: int = json.loads(done.stdout)["sent"]
        arrived = json.loads(sink.wait_for("received", traffic.BEGIN_TIME + iperf.END_TIME))
    finally:
        sink.close()
    received, span = arrived["received"], arrived["seconds"]
    if not received or not span:
        raise Refused(f"of {sent} datagrams {received} arrived")
    return {
        "kpps": received / span / 1e3,
        "lost %": 100 * max(0, sent - received) / sent,
        "reordered %": 100 * arrived["reordered"] / received,
        **_cpu(pair, before, received / 1e6, "µs/packet"),
        **_cpu(pair, before, received * size / 1e9, "s/GB"),
    }


# --- latency ----------------------------------------------------------------------------------------------------------


def ping_times(said: str) -> list[float]:
    """Round-trip times in what ping says, milliseconds; a lost one has none."""
    return [float(time) for time in re.findall(r"time=([\d.]+) ms", said)]


def ping_idle(pair: Pair, seconds: float) -> Figures:
    """Round trips while nothing else happens."""
    figures = {}
    for interval in PING_INTERVALS:
        times = _ping(pair, interval, seconds)
        figures[f"ms, every {interval * 1e3:g} ms"] = median(times)
    return figures


def ping_loaded(pair: Pair, seconds: float) -> Figures:
    """Round trips while a TCP transfer fills the way from client to server."""
    transfer = iperf.start(pair.client, pair.server, pair.address, seconds)
    time.sleep(RAMP_TIME)
    times = sorted(_ping(pair, LOADED_PING_INTERVAL, seconds - 2 * RAMP_TIME))
    megabits = transfer.end().megabits
    return {"ms": median(times), "worst ms": times[-1], "Mbit/s meanwhile": megabits}


def _ping(pair: Pair, interval: float, seconds: float) -> list[float]:
    number = max(5, min(MAX_PINGS, round(seconds / interval)))
    command = ("ping", "-n", "-c", str(number), "-i", f"{interval:g}", "-W2", pair.address)
    said = pair.client.run(*command, check=False, timeout=number * interval + iperf.END_TIME).stdout
    times = ping_times(said)
    if not times:
        raise Refused(f"no ping is answered: {said.strip()[-200:]!r}")
    return times


# --- what it costs to be there ----------------------------------------------------------------------------------------


def idle(pair: Pair, seconds: float) -> Figures:
    """Memory, and wake-ups for so many seconds without any traffic; of the end that has more."""
    time.sleep(SETTLING_TIME)
    whole, worker = _memory(pair)
    before = [(end.wakeups(), end.worker_wakeups()) for end in pair.ends]
    time.sleep(seconds)
    after = [(end.wakeups(), end.worker_wakeups()) for end in pair.ends]
    rates = [[grown(*each) / seconds for each in zip(*both, strict=True)] for both in zip(before, after, strict=True)]
    every, workers = (max(column) for column in zip(*rates, strict=True))
    return {"MB": whole, "worker's MB": worker, "wake-ups/s": every, "worker's wake-ups/s": workers}


def soak(pair: Pair, seconds: float) -> Figures:
    """A TCP transfer, for long: memory (PSS) at its end against its begin, and at most."""
    transfer = iperf.start(pair.client, pair.server, pair.address, seconds)
    time.sleep(RAMP_TIME)
    samples = []
    for _ in range(SAMPLES):
        time.sleep((seconds - 2 * RAMP_TIME) / SAMPLES)
        samples.append(_memory(pair))
    megabits = transfer.end().megabits
    whole, worker = zip(*samples, strict=True)
    return {
        "growth MB": whole[-1] - whole[0],
        "worker's growth MB": worker[-1] - worker[0],
        "most MB": max(whole),
        "worker's most MB": max(worker),
        "Mbit/s": megabits,
    }


def _memory(pair: Pair) -> tuple[float, float]:
    # of a whole end and of its worker, where they are more
    return max(end.memory_mb() for end in pair.ends), max(end.worker_memory_mb() for end in pair.ends)


def _cpu_times(pair: Pair) -> list[Counts]:
    return [end.cpu() for end in pair.ends]


def _cpu(pair: Pair, before: list[Counts], amount: float, unit: str) -> Figures:
    spent = [grown(then, now) / TICKS for then, now in zip(before, _cpu_times(pair), strict=True)]
    return {f"{name} {unit}": used / amount for name, used in zip(("client", "server"), spent, strict=False)}


# --- all of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """What to measure, and on which path.

    Attributes:
        needs_ends: it measures processes.
        needs_both: it needs both sides to reach each other.
    """

    title: str
    measure: Measure
    way: Way = DIRECT
    needs_ends: bool = False
    needs_both: bool = False


SCENARIOS = {
    "tcp-up": Scenario("TCP, one flow", tcp),
    "tcp-down": Scenario("TCP, one flow, from server to client", partial(tcp, options=["--reverse"])),
    "tcp-4": Scenario("TCP, four flows", partial(tcp, options=["--parallel", "4"])),
    "udp-64": Scenario("datagrams of 64 bytes, one per TUN read", partial(udp, size=64)),
    "udp-1200": Scenario("datagrams of 1200 bytes, one per TUN read (QUIC without GSO)", partial(udp, size=1200)),
    "udp-gso": Scenario(
        "datagrams of 1200 bytes, many a message (QUIC with GSO)", partial(udp, size=1200, options=["--gso"])
    ),
    "udp-flood": Scenario(
        "datagrams of 64 bytes, as many as the source can make", partial(udp, size=64, options=["--flood"])
    ),
    "vxlan": Scenario("TCP in a VXLAN inside, one packet per TUN read", vxlan, needs_both=True),
    "ping-idle": Scenario("ping, nothing else", ping_idle),
    "ping-loaded": Scenario("ping beside one TCP flow", ping_loaded),
    "idle": Scenario("at rest", idle, needs_ends=True),
    "jumbo": Scenario("TCP, one flow", tcp, WIDE),
    "relayed": Scenario("TCP, one flow, by the relay", tcp, RELAYED),
    "relayed-ping": Scenario("ping by the relay, nothing else", ping_idle, RELAYED),
    "one-host": Scenario("TCP, one flow between two containers of a host", tcp, ONE_HOST),
    "soak": Scenario("TCP for long: does memory grow?", soak, needs_ends=True),
}
# a soak is for a run of its own, with --time 600
USUAL = [name for name in SCENARIOS if name != "soak"]
QUICK = ["tcp-up", "tcp-down", "udp-64", "udp-1200", "ping-idle", "ping-loaded"]

# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks at work: a short run, of which only is asked that all of it was measured."""

from pathlib import Path

from perf.bench.contenders import parse
from perf.bench.run import Plan, run
from perf.bench.scenarios import SCENARIOS

MEASURED = {
    "tcp-up": ["Mbit/s", "client s/GB", "server s/GB", "retransmits"],
    "udp-64": ["kpps", "lost %", "reordered %", "client µs/packet", "server µs/packet", "client s/GB", "server s/GB"],
}


def test_a_round(tmp_path: Path) -> None:
    scenarios = {name: SCENARIOS[name] for name in MEASURED}
    results = run(Plan([parse("veth"), parse("python@1280")], scenarios, rounds=1, seconds=0.2), tmp_path)
    for scenario, names in MEASURED.items():
        ours, bare = results.of(scenario, "python@1280"), results.of(scenario, "veth")
        assert (ours.failures, bare.failures) == ([], [])
        assert list(ours.values) == names
        assert list(bare.values) == [name for name in names if not name.startswith(("client", "server"))]
        assert ours.values[names[0]][0] > 0

# SPDX-License-Identifier: BSD-3-Clause
"""The benchmarks at work: short runs, of which only is asked that all of it was measured."""

from pathlib import Path

from perf.bench.contenders import Contender, Kind, parse
from perf.bench.run import Plan, run
from perf.bench.scenarios import SCENARIOS, Figures, Refused, Scenario
from perf.bench.sites import DIRECT, Pair, Site

MEASURED = {
    "tcp-up": ["Mbit/s", "client s/GB", "server s/GB", "retransmits"],
    "udp-64": ["kpps", "lost %", "reordered %", "client µs/packet", "server µs/packet", "client s/GB", "server s/GB"],
}


def test_a_round(tmp_path: Path) -> None:
    scenarios = {name: SCENARIOS[name] for name in MEASURED}
    results = run(Plan([parse("python@1280")], scenarios, rounds=1, seconds=0.2), tmp_path)
    for scenario, names in MEASURED.items():
        series = results.of(scenario, "python@1280")
        assert series.failures == []
        assert list(series.values) == names
        assert series.values[names[0]][0] > 0


def test_contenders_take_turns_and_one_that_fails_stops_nobody(tmp_path: Path) -> None:
    turns = []

    def measure(pair: Pair, seconds: float) -> Figures:
        turns.append(pair.client.name)
        if len(turns) == 2:
            raise Refused("it broke\nin two")
        return {"s": seconds}

    def cannot_stand(_: Site) -> Pair:
        raise RuntimeError("no ground")

    contenders = [parse("veth@1280"), parse("veth@1500"), Contender("none", Kind(cannot_stand, (DIRECT,)))]
    results = run(Plan(contenders, {"x": Scenario("x", measure)}, rounds=2, seconds=0.5), tmp_path)
    assert turns == ["a0", "a1", "a1", "a0"]
    assert {name: (series.values, series.failures) for name, series in results.series["x"].items()} == {
        "veth@1280": ({"s": [0.5, 0.5]}, []),
        "veth@1500": ({"s": [0.5]}, ["Refused: it broke … in two"]),
        "none": ({}, ["RuntimeError: no ground"]),
    }

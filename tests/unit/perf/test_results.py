# SPDX-License-Identifier: BSD-3-Clause
"""Medians and spread of what rounds gave."""

import json

from perf.bench.results import Results, Series, Summary


def test_of_several_rounds() -> None:
    series = Series()
    for value in (3.0, 1.0, 10.0):
        series.add({"Mbit/s": value, "lost %": 0.0})
    assert series.summary("Mbit/s") == Summary(3.0, 1.0, 10.0)
    assert series.summary("kpps") is None


def test_names_of_figures_keep_their_order_though_the_first_contender_has_fewer() -> None:
    results = Results()
    results.of("tcp", "veth").add({"Mbit/s": 1, "retransmits": 4})
    results.of("tcp", "uring").add({"Mbit/s": 2, "client s/GB": 3, "retransmits": 5})
    assert results.figures("tcp") == ["Mbit/s", "client s/GB", "retransmits"]


def test_json_has_each_value_and_each_failure() -> None:
    results = Results()
    results.of("tcp", "uring").add({"Mbit/s": 1.0})
    results.of("tcp", "uring").add({"Mbit/s": 4.0})
    results.of("tcp", "pasta").failures.append("it has ended")
    assert json.loads(json.dumps(results.to_json())) == {
        "tcp": {
            "uring": {
                "figures": {"Mbit/s": {"median": 2.5, "least": 1.0, "most": 4.0, "values": [1.0, 4.0]}},
                "failures": [],
            },
            "pasta": {"figures": {}, "failures": ["it has ended"]},
        }
    }

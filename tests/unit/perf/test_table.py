# SPDX-License-Identifier: BSD-3-Clause
"""The text table."""

import pytest

from perf.bench.results import Results, Summary
from perf.bench.table import cell, facts, number, table


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (0.047, "0.05"), (1.666, "1.67"), (22.84, "22.8"), (-22.84, "-22.8"), (3995.7, "3996")],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_cells() -> None:
    assert cell(Summary(3000, 2500, 3100), spread=True) == "3000 (2500–3100)"
    assert cell(Summary(3000, 2500, 3100), spread=False) == "3000"
    assert cell(Summary(3000, 3000, 3000), spread=True) == "3000"
    assert cell(None, spread=True) == "-"


def test_a_block_compares_by_the_first_figure() -> None:
    results = Results()
    results.of("tcp-up", "uring").add({"Mbit/s": 4000, "client s/GB": 1.5})
    results.of("tcp-up", "wireguard-go").add({"Mbit/s": 400, "client s/GB": 12})
    results.of("tcp-up", "veth").failures.append("it broke")
    results.of("tcp-up", "veth").failures.append("it broke")
    assert table(results, "wireguard-go", str.upper).splitlines() == [
        "TCP-UP  [tcp-up]",
        "              Mbit/s  × wireguard-go  client s/GB",
        "uring           4000           10.00         1.50",
        "wireguard-go     400            1.00         12.0",
        "veth               -               -            -",
        "! veth: it broke",
    ]


def test_without_the_reference_there_are_no_ratios() -> None:
    results = Results()
    results.of("ping", "uring").add({"ms": 0.25})
    results.of("rest", "uring").failures.append("it broke")
    assert table(results, "wireguard-go", str).splitlines() == [
        *("ping  [ping]", "         ms", "uring  0.25", ""),
        *("rest  [rest]", "", "uring", "! uring: it broke"),
    ]


def test_the_spread_is_that_of_the_first_figure() -> None:
    results = Results()
    for value in (1.0, 2.0, 4.0):
        results.of("ping", "uring").add({"ms": value, "worst ms": value})
    assert table(results, "wireguard-go", str).splitlines()[2] == "uring  2.00 (1.00–4.00)      2.00"


def test_facts() -> None:
    assert facts({"kernel": "6.1", "processors": "2"}) == "kernel      6.1\nprocessors  2"

# SPDX-License-Identifier: BSD-3-Clause
"""Counting numbered datagrams: no matter how they are batched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.bench.arrivals import Arrivals


@pytest.mark.parametrize(
    ("batches", "received", "reordered", "expected"),
    [
        ([[0, 1, 2], [3, 4]], 5, 0, 5),
        ([[0, 1], [3, 4]], 4, 0, 5),  # a gap between batches
        ([[0, 4, 5]], 3, 0, 6),  # and in one
        ([[0, 2, 1, 3]], 4, 1, 4),
        ([[4, 5], [0, 1]], 4, 2, 6),  # late by a batch
        ([[3, 3]], 2, 1, 4),  # twice
        ([[]], 0, 0, 0),
    ],
)
def test_what_came(batches: list[list[int]], received: int, reordered: int, expected: int) -> None:
    arrivals = Arrivals()
    for numbers in batches:
        arrivals.add(numbers)
    assert (arrivals.received, arrivals.reordered, arrivals.expected) == (received, reordered, expected)


@given(st.lists(st.lists(st.integers(0, 40), max_size=8)))
def test_batches_make_no_difference(batches: list[list[int]]) -> None:
    batched, single = Arrivals(), Arrivals()
    for numbers in batches:
        batched.add(numbers)
        for number in numbers:
            single.add([number])
    assert vars(batched) == vars(single)

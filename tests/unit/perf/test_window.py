# SPDX-License-Identifier: BSD-3-Clause
"""The window of a source of datagrams."""

from hypothesis import given
from hypothesis import strategies as st

from perf.bench.window import FIRST, GROWTH, LEAST, MOST, Window


def test_what_is_on_its_way_takes_room() -> None:
    window = Window()
    assert window.room(0) == FIRST
    assert window.room(FIRST + 10) == -10
    window.acknowledge(100, 100, FIRST)
    assert window.room(FIRST) == 100 + GROWTH


def test_it_grows_to_its_limit() -> None:
    window = Window()
    for number in range(1000):
        window.acknowledge(number, number, number)
    assert window.size == MOST


def test_a_loss_halves_it_once() -> None:
    window = Window()
    for number in range(1000):
        window.acknowledge(number, number, number)
    window.acknowledge(1050, 1049, 1200)
    window.acknowledge(1100, 1090, 1250)  # of those that had left before
    assert window.size == MOST // 2
    window.acknowledge(1150, 1140, 1300)  # none more are lost
    assert window.size == MOST // 2 + GROWTH
    window.acknowledge(1260, 1249, 1300)
    assert window.size == (MOST // 2 + GROWTH) // 2


def test_silence_gives_up_what_is_on_its_way() -> None:
    window = Window()
    window.stalled(FIRST)
    assert window.room(FIRST) == window.size == FIRST // 2


def test_an_old_acknowledgement_takes_nothing_back() -> None:
    window = Window()
    window.acknowledge(200, 200, 256)
    window.acknowledge(100, 100, 256)
    assert window.acknowledged == 200


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000), st.booleans())))
def test_it_stays_within_its_limits(events: list[tuple[int, int, bool]]) -> None:
    window, sent = Window(), 0
    for expected, received, is_silent in events:
        sent = max(sent, expected)
        if is_silent:
            window.stalled(sent)
        else:
            window.acknowledge(expected, received, sent)
        assert LEAST <= window.size <= MOST
        assert window.acknowledged <= sent

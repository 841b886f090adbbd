# SPDX-License-Identifier: BSD-3-Clause
"""The replay window: the recorded tables, its exact edges, and a set of numbers as oracle."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.wireguard.pair import VECTORS
from ts4nsnet.wireguard.replay import BLOCK_BITS, BLOCKS, WINDOW_COUNTERS, WORDS, ReplayWindow
from ts4nsnet.wireguard.sessions import REJECT_AFTER_MESSAGES

U64 = 1 << 64


def window() -> ReplayWindow:
    return ReplayWindow(memoryview(bytearray(8 * WORDS)).cast("Q"))


@pytest.mark.parametrize("row", VECTORS["replay"], ids=lambda row: row["name"])
def test_recorded_tables(row: dict[str, Any]) -> None:
    replay = window()
    for text, accepted in zip(row["counters"], row["accepted"], strict=True):
        counter = int(text)
        # the session table asks for the limit before it asks the window
        assert (counter < REJECT_AFTER_MESSAGES and replay.accept(counter)) == accepted


@pytest.mark.parametrize("greatest", [8128, 8191, 8192, 20000, 1 << 40, REJECT_AFTER_MESSAGES - 1, U64 - 1])
def test_exactly_8128_counters_below_the_greatest_are_remembered(greatest: int) -> None:
    assert WINDOW_COUNTERS == 8128
    replay = window()
    assert replay.accept(greatest)
    assert replay.accept(greatest - 8128)
    if greatest > 8128:
        assert not replay.accept(greatest - 8129)
    assert not replay.accept(greatest)
    assert not replay.accept(greatest - 8128)


def test_check_asks_and_changes_nothing() -> None:
    replay = window()
    assert all(replay.check(1 << 50) for _ in range(2))
    assert replay.accept(0)
    assert not replay.check(0)
    assert replay.check(1)


@pytest.mark.parametrize("jump", [1, BLOCK_BITS - 1, BLOCK_BITS, BLOCKS * BLOCK_BITS - 1, BLOCKS * BLOCK_BITS, 1 << 40])
def test_a_jump_forgets_nothing_that_is_inside_the_window_and_invents_nothing(jump: int) -> None:
    replay = window()
    for counter in range(100):
        assert replay.accept(counter)
    greatest = 99 + jump
    assert replay.accept(greatest)
    for counter in range(max(0, greatest - 8128), greatest):
        assert replay.check(counter) == (counter > 99)


def test_reordered_packets_all_pass_once() -> None:
    replay = window()
    order = [block * 100 + offset for block in range(50) for offset in reversed(range(100))]
    assert all(replay.accept(counter) for counter in order)
    assert not any(replay.accept(counter) for counter in order)


counters = st.integers(0, 20_000) | st.integers(0, U64 - 1) | st.sampled_from([0, 63, 64, 8127, 8128, 8129, 8191, 8192])


@given(st.lists(st.tuples(counters, st.booleans()), max_size=60))
def test_the_window_agrees_with_a_set_of_numbers(steps: list[tuple[int, bool]]) -> None:
    replay = window()
    taken: set[int] = set()
    greatest = 0
    for number, near in steps:
        # half of the counters lie around the greatest one, where the window's edges are
        counter = min(max(0, greatest + number % 20_000 - 10_000), U64 - 1) if near else number
        wanted = counter not in taken and greatest - counter <= WINDOW_COUNTERS
        assert replay.check(counter) == wanted
        assert replay.accept(counter) == wanted
        if wanted:
            taken.add(counter)
            greatest = max(greatest, counter)


class Crash(Exception):
    """The process dies."""


class Mortal:
    """Words of a window whose owner dies after some stores."""

    def __init__(self, words: memoryview, stores: int) -> None:
        self._words = words
        self._left = stores

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])

    def __setitem__(self, index: int, value: int) -> None:
        if not self._left:
            raise Crash
        self._left -= 1
        self._words[index] = value


@pytest.mark.parametrize("stores", range(BLOCKS + 2))
def test_a_crash_while_the_window_moves_lets_nothing_old_in(stores: int) -> None:
    words = memoryview(bytearray(8 * WORDS)).cast("Q")
    seen = range(0, WINDOW_COUNTERS + 1, 61)
    for counter in seen:
        ReplayWindow(words).accept(counter)
    with suppress(Crash):
        ReplayWindow(Mortal(words, stores)).accept(seen[-1] + 9000)  # type: ignore[arg-type]
    assert [counter for counter in seen if ReplayWindow(words).accept(counter)] == []

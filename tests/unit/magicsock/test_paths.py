# SPDX-License-Identifier: BSD-3-Clause
"""Which of two paths is better; the rest of a peer's paths is seen from outside in test_conn.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.magicsock.net import at
from ts4nsnet.magicsock.paths import Best, is_better

PUBLIC, OTHER, PRIVATE, LOOPBACK, LINK_LOCAL, IPV6, ULA = (
    "192.0.2.1", "192.0.2.2", "10.0.0.1", "127.0.0.1", "169.254.0.1", "2001:db8::1", "fd00::1",
)  # fmt: skip

CASES = [
    ("faster", PUBLIC, 10, OTHER, 20, True),
    ("slower", PUBLIC, 20, OTHER, 10, False),
    ("equal", PUBLIC, 10, OTHER, 10, False),
    ("hardly faster", PUBLIC, 99.5, OTHER, 100, False),
    ("in our own network, a bit slower", PRIVATE, 20, OTHER, 17, True),
    ("in our own network, much slower", PRIVATE, 30, OTHER, 17, False),
    ("unique local, a bit slower", ULA, 13, IPV6, 12, True),
    ("IPv6, a bit slower", IPV6, 105, OTHER, 100, True),
    ("IPv6, slower", IPV6, 120, OTHER, 100, False),
    ("loopback before the own network", LOOPBACK, 1.2, PRIVATE, 1, True),
    ("link-local before the own network", LINK_LOCAL, 1.05, PRIVATE, 1, True),
    ("in no time at all", PUBLIC, 0, OTHER, 0, False),
    ("in no time at all, instead of some", PUBLIC, 0, OTHER, 1, True),
]


@pytest.mark.parametrize(
    ("new", "new_ms", "old", "old_ms", "better"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_a_path_is_left_for_a_better_one(new: str, new_ms: float, old: str, old_ms: float, better: bool) -> None:
    assert is_better(Best(at(new), new_ms / 1000), Best(at(old), old_ms / 1000)) == better


def test_any_path_is_better_than_none_and_none_is_better_than_itself() -> None:
    path = Best(at(PUBLIC), 0.01)
    assert is_better(path, None)
    assert not is_better(Best(at(PUBLIC), 0.001), path)


@given(
    st.sampled_from([PUBLIC, PRIVATE, IPV6]), st.floats(0, 1), st.sampled_from([OTHER, LOOPBACK, ULA]), st.floats(0, 1)
)
def test_no_two_paths_are_better_than_each_other(one: str, one_time: float, other: str, other_time: float) -> None:
    first, second = Best(at(one), one_time), Best(at(other), other_time)
    assert not (is_better(first, second) and is_better(second, first))

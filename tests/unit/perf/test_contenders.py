# SPDX-License-Identifier: BSD-3-Clause
"""Names of contenders."""

import pytest

from perf.bench.contenders import KINDS, Contender, Kind, Unknown, parse


def test_a_kind_as_it_is_and_with_a_capped_mtu() -> None:
    assert parse("uring") == Contender("uring", KINDS["uring"], None)
    assert parse("uring@1280") == Contender("uring@1280", KINDS["uring"], 1280)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("quick", "no contender 'quick'; there are uring, epoll, python"),
        ("uring@", "'' is no MTU; expected 1280 to 65520"),
        ("uring@1279", "'1279' is no MTU"),
        ("uring@65521", "'65521' is no MTU"),
        ("uring@12 80", "'12 80' is no MTU"),
    ],
)
def test_what_is_unknown_is_refused(name: str, why: str) -> None:
    with pytest.raises(Unknown, match=why):
        parse(name)


def test_what_is_not_installed_is_named() -> None:
    kind = Kind(KINDS["veth"].stand, (), ("sh", "no-such-program"))
    assert Contender("x", kind).missing == ["no-such-program"]

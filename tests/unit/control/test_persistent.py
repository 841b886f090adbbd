# SPDX-License-Identifier: BSD-3-Clause
"""The persistent map against a dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.control.persistent import PersistentMap

KEYS = st.integers(0, 40) | st.integers(-(2**63), 2**63)
UPDATES = st.lists(st.dictionaries(KEYS, st.none() | st.integers(0, 3), max_size=20), max_size=10)


def updated(before: dict[int, int], changes: dict[int, int | None]) -> dict[int, int]:
    return {key: value for key, value in (before | changes).items() if value is not None}


@given(UPDATES)
def test_every_version_is_what_a_dictionary_was_then(updates: list[dict[int, int | None]]) -> None:
    versions = [(PersistentMap[int](), dict[int, int]())]
    for changes in updates:
        persistent, plain = versions[-1]
        versions.append((persistent.updated(changes), updated(plain, changes)))
    for persistent, plain in versions:
        assert dict(persistent) == plain
        assert len(persistent) == len(plain)
        assert all(persistent[key] == plain[key] for key in plain)


@given(UPDATES, UPDATES)
def test_differences_lead_from_one_to_the_other(
    one: list[dict[int, int | None]], other: list[dict[int, int | None]]
) -> None:
    before = PersistentMap[int]()
    for changes in one:
        before = before.updated(changes)
    after = before
    for changes in other:
        after = after.updated(changes)
    found = list(after.differences(before))
    assert all(before.get(key) == old and after.get(key) == new and old != new for key, old, new in found)
    assert before.updated({key: new for key, _, new in found}) == after
    assert (before == after) is (found == [])


def test_an_update_of_nothing_is_the_same_map() -> None:
    persistent = PersistentMap[int]().updated({1: 2})
    assert persistent.updated({}) is persistent


def test_a_map_is_equal_to_no_other_thing() -> None:
    persistent = PersistentMap[int]().updated({1: 2})
    assert persistent != {1: 2}
    assert persistent == PersistentMap[int]().updated({3: 4, 1: 2}).updated({3: None})


def test_a_map_does_not_show_what_is_in_it() -> None:
    assert repr(PersistentMap[int]().updated({1: 2})) == "<PersistentMap of 1>"

# SPDX-License-Identifier: BSD-3-Clause
"""A map that is never changed: an update makes a new one, which shares with the old one what stayed the same.

So a netmap of 10,000 peers is a value: whoever holds one can go on reading it while newer ones are made, and a change
of one peer costs the change, not the table. The map is a tuple of 256 dictionaries, over which the keys are spread:

    ┌────┬────┬────┬─ … ─┬─────┐     update: copy the tuple, and the dictionaries that the changed keys are in
    │ {} │ {} │ {} │     │ {}  │     10,000 entries, one changed: 256 pointers and one dictionary of 40
    └────┴────┴────┴─ … ─┴─────┘     compare: dictionaries that are the same object need not be looked into

A tree (hash array mapped trie) copies less of a greater table, from about a million entries on, but is C or slow; up to
there a dictionary's own copy, in C, is the quickest thing in Python.
"""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

V = TypeVar("V")

_SHARDS = 256
# ours: keys are often consecutive or multiples of something, and the golden ratio spreads both (Knuth, 6.4)
_SPREAD = 0x9E3779B97F4A7C15
_TOP_BYTE = 56


def _shard(key: int) -> int:
    return (key * _SPREAD >> _TOP_BYTE) & 0xFF


class PersistentMap(Mapping[int, V], Generic[V]):
    """Integers to values other than None. Iterates in no particular order; equal to maps with equal entries."""

    __slots__ = ("_shards", "_size")

    def __init__(self) -> None:
        empty: dict[int, V] = {}
        self._shards = (empty,) * _SHARDS
        self._size = 0

    def updated(self, changes: Mapping[int, V | None]) -> "PersistentMap[V]":
        """A map with these entries set, or removed where the value is None; removing what is not there is nothing."""
        if not changes:
            return self
        shards = list(self._shards)
        size = self._size
        copied = set()
        for key, value in changes.items():
            number = _shard(key)
            if number not in copied:
                copied.add(number)
                shards[number] = shards[number].copy()
            shard = shards[number]
            size -= key in shard
            if value is None:
                shard.pop(key, None)
            else:
                size += 1
                shard[key] = value
        new = PersistentMap[V]()
        new._shards, new._size = tuple(shards), size
        return new

    def differences(self, before: "PersistentMap[V]") -> Iterator[tuple[int, V | None, V | None]]:
        """Yields key, value before and value now (None: none) wherever they are not equal."""
        for old, new in zip(before._shards, self._shards, strict=True):
            if old is new:
                continue
            for key, value in new.items():
                was = old.get(key)
                if was is not value and was != value:
                    yield key, was, value
            for key in old.keys() - new.keys():
                yield key, old[key], None

    def __getitem__(self, key: int) -> V:
        return self._shards[_shard(key)][key]

    def __iter__(self) -> Iterator[int]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PersistentMap) and self._shards == other._shards

    __hash__ = None  # type: ignore[assignment]  # as every Mapping

    def __repr__(self) -> str:
        return f"<PersistentMap of {self._size}>"

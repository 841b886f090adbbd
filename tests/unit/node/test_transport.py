# SPDX-License-Identifier: BSD-3-Clause
"""What of the transport is no I/O; the rest is shown by the system's tests, which have relays and paths."""

from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.node.transport import joined
from ts4nsnet.uring.trains import MAX_TRAIN_DATAGRAMS

ENDPOINT = bytes(range(32))


@given(st.lists(st.integers(1, 5).map(lambda size: size * 300), max_size=150))
def test_joined_datagrams_are_the_same_in_the_same_order(sizes: list[int]) -> None:
    datagrams = [n.to_bytes(2, "big") * (size // 2) for n, size in enumerate(sizes)]
    trains = joined(datagrams, ENDPOINT)
    assert [bytes(each) for train in trains for each in train.datagrams()] == datagrams
    assert all(len(train.payload) == 1 and train.endpoint == ENDPOINT for train in trains)


def test_datagrams_of_one_size_are_one_train_with_a_shorter_last_one() -> None:
    (train,) = joined([*[bytes(1312)] * 40, bytes(99)], ENDPOINT)
    assert (train.segment_bytes, train.datagram_count) == (1312, 41)


def test_a_train_is_not_longer_than_a_kernel_makes_it() -> None:
    assert [train.datagram_count for train in joined([b"a"] * 100, ENDPOINT)] == [MAX_TRAIN_DATAGRAMS, 36]

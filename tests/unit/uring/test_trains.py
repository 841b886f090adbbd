# SPDX-License-Identifier: BSD-3-Clause
"""Trains: what one call may carry, and that nothing is lost or moved on the way into one and out of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.uring.trains import MAX_TRAIN_BYTES, MAX_TRAIN_DATAGRAMS, Train, form_trains

WHERE = bytes(range(32))
SIZES = st.lists(st.sampled_from([32, 48, 64, 112, 1452, 1468, 9000, 33000, 65507]), max_size=200)


def shape(sizes: list[int]) -> list[list[int]]:
    """The sizes of the datagrams of each train that is made of messages of these sizes."""
    return [[len(each) for each in train.payload] for train in form_trains([bytes(size) for size in sizes], WHERE)]


@pytest.mark.parametrize(
    ("sizes", "trains"),
    [
        ([], []),
        ([100], [[100]]),
        ([100, 100, 100], [[100, 100, 100]]),
        ([100, 100, 60], [[100, 100, 60]]),
        ([100, 60, 60], [[100, 60], [60]]),
        ([60, 100, 100], [[60], [100, 100]]),
        ([100, 60, 100], [[100, 60], [100]]),
        ([32] * 65, [[32] * MAX_TRAIN_DATAGRAMS, [32]]),
        ([100] * 63 + [60, 60], [[100] * 63 + [60], [60]]),
        ([100] * 64 + [60], [[100] * 64, [60]]),
        ([1452] * 46, [[1452] * 45, [1452]]),  # 45 times 1452 are 65340
        ([1452] * 45 + [167], [[1452] * 45 + [167]]),  # 65507
        ([1452] * 45 + [168], [[1452] * 45, [168]]),
        ([32753, 32753, 2], [[32753, 32753], [2]]),
        ([32754, 32753], [[32754, 32753]]),
        ([32754, 32754], [[32754], [32754]]),
        ([65507, 65507], [[65507], [65507]]),
        ([65508, 1], [[65508], [1]]),  # the kernel will refuse it
    ],
)
def test_trains_end_where_the_kernel_wants_it(sizes: list[int], trains: list[list[int]]) -> None:
    assert shape(sizes) == trains


@pytest.mark.parametrize(
    ("sizes", "trains"),
    [
        ([100, 100, 60], [[100, 100, 60]]),
        ([100], [[100]]),
        ([100, 100], [[100], [100]]),
        ([100, 100, 200], [[100], [100], [200]]),
        ([100, 60, 60], [[100, 60], [60]]),
        ([100] * 64 + [60], [[100], [100] * 63 + [60]]),
        ([60_000, 30_000, 30_000, 100], [[60_000], [30_000], [30_000, 100]]),
        ([1452] * 51 + [700], [[1452]] * 7 + [[1452] * 44 + [700]]),
    ],
)
def test_without_equal_tails_trains_end_with_a_shorter_one(sizes: list[int], trains: list[list[int]]) -> None:
    made = form_trains([bytes(size) for size in sizes], WHERE, equal_tails=False)
    assert [[len(each) for each in train.payload] for train in made] == trains


@given(SIZES, st.integers(1, MAX_TRAIN_DATAGRAMS), st.booleans())
def test_trains_are_no_longer_than_wanted_and_nothing_is_lost(sizes: list[int], longest: int, equal: bool) -> None:
    messages = [number.to_bytes(4, "big") + bytes(size - 4) for number, size in enumerate(sizes)]
    trains = form_trains(messages, WHERE, longest=longest, equal_tails=equal)
    assert [message for train in trains for message in train.payload] == messages
    for train in trains:
        lengths = [len(message) for message in train.payload]
        assert 1 <= len(lengths) == train.datagram_count <= longest
        assert {*lengths[:-1]} <= {train.segment_bytes}
        assert len(lengths) == 1 or lengths[-1] < lengths[0] or (equal and lengths[-1] == lengths[0])


@given(SIZES)
def test_trains_keep_all_messages_in_their_order_and_their_limits(sizes: list[int]) -> None:
    messages = [number.to_bytes(4, "big") + bytes(size - 4) for number, size in enumerate(sizes)]
    trains = form_trains(messages, WHERE)
    assert [message for train in trains for message in train.payload] == messages
    for train in trains:
        lengths = [len(message) for message in train.payload]
        assert 1 <= len(lengths) == train.datagram_count <= MAX_TRAIN_DATAGRAMS
        assert sum(lengths) <= MAX_TRAIN_BYTES
        assert {*lengths[:-1]} <= {train.segment_bytes}
        assert 0 < lengths[-1] <= train.segment_bytes
        assert train.endpoint == WHERE


@given(st.lists(st.integers(32, 300), max_size=150))
def test_what_was_sent_in_a_train_is_received_in_it(sizes: list[int]) -> None:
    messages = [number.to_bytes(4, "big") + bytes(size - 4) for number, size in enumerate(sizes)]
    received = []
    for train in form_trains(messages, WHERE):
        arriving = Train.received(b"".join(train.payload), train.segment_bytes, WHERE)
        assert arriving.datagram_count == train.datagram_count
        received += list(arriving.datagrams())
    assert received == messages


@pytest.mark.parametrize(
    ("size", "segment_bytes", "lengths"),
    [
        (0, 0, [0]),  # a datagram without anything in it
        (0, 1200, [0]),
        (1, 0, [1]),
        (1400, 0, [1400]),  # the kernel did not merge
        (1400, 1400, [1400]),
        (1400, 9000, [1400]),
        (2800, 1400, [1400, 1400]),
        (2801, 1400, [1400, 1400, 1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_a_received_train_is_split_where_the_kernel_merged(size: int, segment_bytes: int, lengths: list[int]) -> None:
    payload = bytes(number % 256 for number in range(size))
    train = Train.received(memoryview(payload), segment_bytes, WHERE)
    assert train.endpoint == WHERE
    assert train.datagram_count == len(lengths)
    assert [len(datagram) for datagram in train.datagrams()] == lengths
    assert b"".join(train.datagrams()) == payload

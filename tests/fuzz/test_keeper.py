# SPDX-License-Identifier: BSD-3-Clause
"""What a node process that has been taken over may send to its keeper."""

import json

from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.keeper.messages import Malformed, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
WORDS = st.sampled_from(["ready", "failed", "tun", "udp", "memory", "netns", "counters", "worker", "stop"])
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "do": WORDS | VALUES,
        "id": st.integers() | VALUES,
        "size": st.integers() | VALUES,
        "engine": st.sampled_from(["auto", "uring", "epoll", "python"]) | VALUES,
        "text": VALUES,
    },
)


def accepted(data: bytes) -> bool:
    try:
        message = parse(data)
    except Malformed:
        return False
    assert parse(json.dumps(message).encode()) == message
    return True


@given(st.binary(max_size=200))
def test_bytes(data: bytes) -> None:
    assert not accepted(data) or data.strip().startswith(b"{")


@given(MESSAGES)
def test_objects(message: dict[str, object]) -> None:
    accepted(json.dumps(message).encode())


@given(VALUES)
def test_other_json(value: object) -> None:
    if not isinstance(value, dict):
        assert not accepted(json.dumps(value).encode())

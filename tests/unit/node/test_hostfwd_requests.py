# SPDX-License-Identifier: BSD-3-Clause
"""Requests and answers of the API socket, byte for byte those of slirp4netns.

The table is also put to the real one, in tests/system/slirp/test_api_socket.py.
"""

import json
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api_requests import REFUSED
from ts4nsnet.node.hostfwd_requests import (
    MAX_REQUEST_BYTES,
    Add,
    BadRequest,
    Forward,
    List,
    Remove,
    added,
    is_complete,
    kept,
    listed,
    parse,
    refused,
    removed,
    to_keep,
)

GUEST = IPv4Address("10.0.2.100")
ANY = IPv4Address("0.0.0.0")  # noqa: S104
FORWARDS = st.builds(
    Forward,
    st.sampled_from(["tcp", "udp"]),
    st.ip_addresses(v=4),
    st.integers(1, 65535),
    st.ip_addresses(v=4),
    st.integers(1, 65535),
)


def answer(data: bytes) -> bytes:
    with pytest.raises(BadRequest) as caught:
        parse(data, GUEST)
    return refused(caught.value)


@pytest.mark.parametrize(("data", "text"), REFUSED)
def test_what_is_refused(data: bytes, text: str) -> None:
    assert answer(data) == b'{"error":{"desc":"bad request: %s"}}' % text.encode()


def test_what_the_original_dies_of_or_wraps_around_is_refused() -> None:
    request = '{"execute":"add_hostfwd","arguments":%s}'
    for arguments, name in (
        ("{}", "proto"),
        ('{"host_port":1,"guest_port":1}', "proto"),
        ("[]", "proto"),
        ('{"proto":["tcp"]}', "proto"),
        ('{"proto":"tcp","host_port":65536,"guest_port":1}', "host_port"),
        ('{"proto":"tcp","host_port":-1,"guest_port":1}', "host_port"),
        ('{"proto":"tcp","host_port":1e999,"guest_port":1}', "host_port"),
        ('{"proto":"tcp","host_port":1,"guest_port":65536}', "guest_port"),
    ):
        assert answer((request % arguments).encode()).endswith(
            b": add_hostfwd: bad arguments.%s" % name.encode() + b'"}}'
        )


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        ('{"proto":"tcp","host_port":8080,"guest_port":80}', Forward("tcp", ANY, 8080, GUEST, 80)),
        (
            '{"proto":"udp","host_addr":"","host_port":53,"guest_addr":"","guest_port":54}',
            Forward("udp", ANY, 53, GUEST, 54),
        ),
        (
            '{"guest_port":1.9,"guest_addr":"10.0.2.99","host_port":65535,"host_addr":"127.0.0.1","proto":"tcp","x":{}}',
            Forward("tcp", IPv4Address("127.0.0.1"), 65535, IPv4Address("10.0.2.99"), 1),
        ),
        (
            '{"proto":"tcp","host_addr":1,"host_port":1,"guest_addr":null,"guest_port":2}',
            Forward("tcp", ANY, 1, GUEST, 2),
        ),
    ],
)
def test_add(arguments: str, want: Forward) -> None:
    assert parse(b'{"execute":"add_hostfwd","arguments":%s}' % arguments.encode(), GUEST) == Add(want)


@given(FORWARDS)
def test_add_and_list_are_the_same(forward: Forward) -> None:
    (entry,) = json.loads(listed([(7, forward)]))["entries"]
    assert entry.pop("id") == 7
    request = json.dumps({"arguments": entry, "execute": "add_hostfwd"}).encode()
    assert parse(request, GUEST) == Add(forward)


@given(st.integers(0), st.lists(st.tuples(st.integers(1), FORWARDS)))
def test_what_is_kept_is_the_same(last: int, forwards: list[tuple[int, Forward]]) -> None:
    assert kept(to_keep(last, forwards)) == (last, forwards)


def test_list_and_remove() -> None:
    assert parse(b'{"execute":"list_hostfwd"}', GUEST) == List()
    assert parse(b'{"execute":"remove_hostfwd","arguments":{"id":42}}', GUEST) == Remove(42)
    assert parse(b'{"execute":"remove_hostfwd"}', GUEST) == Remove(0)


@pytest.mark.parametrize("more", [b"", b"\n", b"x", b"{", b"\0", b'{"execute":"remove_hostfwd"}'])
@pytest.mark.parametrize("before", [b"", b" \t\r\n\v\f", b"\xef\xbb\xbf"])
def test_what_stands_around_a_request_does_not_matter(before: bytes, more: bytes) -> None:
    assert parse(before + b'{"execute":"list_hostfwd"}' + more, GUEST) == List()


def test_answers() -> None:
    assert added(1) == b'{"return":{"id":1}}'
    assert removed() == b'{"return":{}}'
    assert listed([]) == b'{"entries":[]}'
    forwards = [(1, Forward("tcp", ANY, 8080, GUEST, 80)), (3, Forward("udp", IPv4Address("127.0.0.1"), 53, GUEST, 53))]
    assert listed(forwards) == (
        b'{"entries":['
        b'{"id":1,"proto":"tcp","host_addr":"0.0.0.0","host_port":8080,"guest_addr":"10.0.2.100","guest_port":80},'
        b'{"id":3,"proto":"udp","host_addr":"127.0.0.1","host_port":53,"guest_addr":"10.0.2.100","guest_port":53}]}'
    )


def test_a_request_is_complete_with_its_last_byte() -> None:
    request = b'{"execute":"add_hostfwd","arguments":{"proto":"tcp"}}'
    assert [length for length in range(len(request) + 9) if is_complete((request + b" " * 8)[:length])] == list(
        range(len(request), len(request) + 9)
    )


def test_what_is_too_large_needs_no_end() -> None:
    assert not is_complete(b"[" * (MAX_REQUEST_BYTES - 1))
    assert is_complete(b"[" * MAX_REQUEST_BYTES)

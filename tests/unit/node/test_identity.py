# SPDX-License-Identifier: BSD-3-Clause
"""Identities and bindings: the file form both ways, and what others may have written into the file."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.keys import PrivateKey
from ts4nsnet.node.identity import Binding, Identity, decode, encode
from ts4nsnet.node.statefile import StateError, Unreadable

BINDING = Binding("https://control.example", "ab" * 32, "web", ("tag:web",), "0123456789ab")
IDENTITY = Identity(
    machine_key=PrivateKey(b"m" * 32),
    node_key=PrivateKey(b"n" * 32),
    old_node_key=PrivateKey(b"o" * 32),
    tailnet_lock_key=b"t" * 64,
    node_id=7,
    stable_id="n7CNTRL",
    registered=True,
    home_region=3,
    port=41641,
)

keys = st.binary(min_size=32, max_size=32).map(PrivateKey)
identities = st.builds(
    Identity, keys, keys, st.none() | keys, st.none() | st.binary(max_size=64), st.integers(), st.text(), st.booleans()
)
bindings = st.builds(
    Binding, st.text(), st.just("") | st.just("0f" * 32), st.text(), st.lists(st.text()).map(tuple), st.text()
)
values: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just([1]) | st.just({})
)


@given(bindings, identities)
def test_what_was_written_is_read(binding: Binding, identity: Identity) -> None:
    read_binding, read = decode(encode(binding, identity))
    assert read_binding == binding
    for field in fields(Identity):
        ours, theirs = getattr(identity, field.name), getattr(read, field.name)
        if isinstance(ours, PrivateKey):
            assert theirs.private_bytes() == ours.private_bytes()
        else:
            assert theirs == ours


@given(st.integers(0, len(encode(BINDING, IDENTITY))), st.binary(max_size=3), st.integers(0, 3))
def test_mutants_are_unreadable_or_read(at: int, inserted: bytes, removed: int) -> None:
    data = encode(BINDING, IDENTITY)
    try:
        decode(data[:at] + inserted + data[at + removed :])
    except Unreadable as error:
        shows_no_secret(error)


@given(st.sampled_from(["version", "binding", "identity"]), st.data())
def test_members_of_another_type_are_unreadable_or_read(part: str, data: st.DataObject) -> None:
    top: dict[str, Any] = json.loads(encode(BINDING, IDENTITY))
    where = top if part == "version" else top[part]
    name = data.draw(st.sampled_from(sorted(where)))
    where[name] = data.draw(values)
    try:
        decode(json.dumps(top).encode())
    except Unreadable as error:
        shows_no_secret(error)


@given(st.binary() | st.text().map(str.encode))
def test_anything_else_is_unreadable(data: bytes) -> None:
    with pytest.raises(Unreadable):
        decode(data)


def shows_no_secret(error: BaseException) -> None:
    """Neither the error nor what led to it has read the keys aloud."""
    link: BaseException | None = error
    while link:
        assert not any(text in f"{link} {link.__dict__}" for text in ("bW1tbW1t", "bm5ubm5u", "b29vb29v", "dHR0dHR0"))
        link = link.__context__


@pytest.mark.parametrize(
    ("part", "member", "value", "message"),
    [
        ("", "version", 2, "version: got 2, want 1: another ts4nsnet wrote it"),
        ("", "version", True, "version: not of type int"),
        ("", "binding", None, "binding: not a JSON object"),
        ("", "identity", [], "identity: not a JSON object"),
        ("binding", "tags", [1], "tags: not all of them are text"),
        ("binding", "credential_hash", "tskey-auth-x", "credential_hash: not a SHA-256"),
        ("identity", "machine_key", "bW0=", "machine_key: private key: got 2 bytes, want 32"),
        ("identity", "node_key", "?", "node_key: private key: not base64, want 44 characters"),
        ("identity", "old_node_key", 1, "old_node_key: not of type str"),
        ("identity", "tailnet_lock_key", "?", "tailnet_lock_key: not base64"),
        ("identity", "registered", 1, "registered: not of type bool"),
    ],
)
def test_the_error_names_the_member(part: str, member: str, value: object, message: str) -> None:
    top: dict[str, Any] = json.loads(encode(BINDING, IDENTITY))
    (top[part] if part else top)[member] = value
    with pytest.raises(Unreadable) as caught:
        decode(json.dumps(top).encode())
    assert str(caught.value) == message


def test_nesting_is_no_way_to_the_end_of_the_stack() -> None:
    with pytest.raises(Unreadable):
        decode(b"[" * 100_000)


def test_members_of_newer_programs_are_ignored() -> None:
    top: dict[str, Any] = json.loads(encode(BINDING, IDENTITY))
    top["new"] = top["binding"]["new"] = top["identity"]["new"] = {}
    assert decode(json.dumps(top).encode())[0] == BINDING


def test_no_key_is_shown() -> None:
    assert "tttt" not in repr(IDENTITY)
    assert "mmmm" not in repr(IDENTITY)
    assert str(PrivateKey(b"m" * 32).public) in repr(IDENTITY)


def test_a_credential_is_not_taken_for_its_hash() -> None:
    with pytest.raises(StateError, match="credential_hash: not a SHA-256") as caught:
        Binding("https://control.example", "tskey-auth-secret")
    assert "secret" not in str(caught.value)


def test_names_of_bindings_differ_as_they_do() -> None:
    others = [replace(BINDING, hostname="web", tags=("tag:web", "x")), replace(BINDING, hostname="0123456789ab")]
    assert len({binding.name for binding in [BINDING, *others, replace(BINDING)]}) == 3
    assert len(BINDING.name) == 32

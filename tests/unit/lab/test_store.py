# SPDX-License-Identifier: BSD-3-Clause
"""The state file: everything comes back, a crash leaves the old state, and nobody else reads it."""

import json
import os
from pathlib import Path

import pytest

from tests.unit.lab.tailnet import FakeTailnet
from ts4nsnet.lab.errors import StateError
from ts4nsnet.lab.store import FILE, Store, state_json


def full_net() -> FakeTailnet:
    """A server that remembers something of every kind."""
    net = FakeTailnet()
    net.server.set_policy('{"tagOwners": {"tag:x": []}}', net.now)
    router = net.join("router", RoutableIPs=["10.0.0.0/8"], Services=[{"Proto": "peerapi4", "Port": 1}])
    net.server.approve_routes(router.number, frozenset(net.server.node(router.number).hostinfo.routes), net.now)
    net.join("tagged", net.auth_key(tags=("tag:x",), ephemeral=True))
    net.server.keyring.create_client(("tag:x",), "ci", net.wall)
    net.server.keyring.create_federated(("tag:x",), ["token"], "", net.wall)
    return net


def test_everything_comes_back(tmp_path: Path) -> None:
    net = full_net()
    store = Store(tmp_path)
    store.save(net.state)
    loaded = store.load()
    store.close()
    assert loaded is not None
    assert state_json(loaded) == state_json(net.state)
    assert loaded.nodes == net.state.nodes
    assert loaded.keys == net.state.keys
    assert loaded.credentials == net.state.credentials
    assert loaded.noise_key.private_bytes() == net.state.noise_key.private_bytes()


def test_new_directory_is_empty_and_ours(tmp_path: Path) -> None:
    store = Store(tmp_path / "a" / "b")
    assert store.load() is None
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    store.close()


def test_file_is_private_even_where_one_lay_around(tmp_path: Path) -> None:
    (tmp_path / f"{FILE}.new").write_text("left by a crash")
    (tmp_path / f"{FILE}.new").chmod(0o666)
    store = Store(tmp_path)
    store.save(FakeTailnet().state)
    store.close()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / f"{FILE}.new").exists()


def test_crash_between_write_and_rename_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    net = FakeTailnet()
    store.save(net.state)
    old = (tmp_path / FILE).read_bytes()
    net.join("alice")

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store.save(net.state)
    assert (tmp_path / FILE).read_bytes() == old
    loaded = store.load()
    assert loaded is not None
    assert loaded.nodes == []
    store.save(net.state)
    loaded = store.load()
    assert loaded is not None
    assert [node.label for node in loaded.nodes] == ["alice"]
    store.close()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1, "noise_key": "privkey:00"}', "\xff" * 3],
)
def test_file_that_is_not_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content, "latin-1")
    store = Store(tmp_path)
    with pytest.raises(StateError, match="not a state file of ours"):
        store.load()
    store.close()


def test_secrets_of_a_broken_file_are_not_shown(tmp_path: Path) -> None:
    document = state_json(FakeTailnet().state) | {"nodes": [{}]}
    (tmp_path / FILE).write_text(json.dumps(document))
    store = Store(tmp_path)
    with pytest.raises(StateError) as caught:
        store.load()
    store.close()
    assert "privkey" not in str(caught.value)


def test_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="file"):
        Store(tmp_path / "file")
    store = Store(tmp_path / "here")
    (tmp_path / "here" / "x.new").mkdir()
    with pytest.raises(StateError):
        store.write("x", b"")
    (tmp_path / "here" / "y").mkdir()
    with pytest.raises(StateError):
        store.read("y")
    store.close()


def test_directory_has_one_user(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(StateError, match="another server uses it"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()

# SPDX-License-Identifier: BSD-3-Clause
"""The compiled session table: every test of its twin, and that both see the same records."""

import pytest

from tests.unit.wireguard import test_sessions as twin
from ts4nsnet.wireguard import RECORD, SessionMemory, WireGuardError
from ts4nsnet.wireguard.sessions import Roamed

sessions = pytest.importorskip("ts4nsnet.uring.sessions", reason="the engine is not compiled")

globals().update({name: value for name, value in vars(twin).items() if name.startswith("test_")})


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "SessionTable", sessions.Sessions)


@pytest.mark.parametrize("record", ["peer", "keypair"])
def test_the_layout_is_the_twins(record: str) -> None:
    assert sessions.RECORD[record] == {name: offset for name, _, offset in RECORD[record]}


def test_numbers_and_endpoints_are_checked() -> None:
    table = sessions.Sessions(SessionMemory(bytearray(SessionMemory.size(2))))
    with pytest.raises(WireGuardError, match="got peer 2, want less than 2"):
        table.apply(Roamed(2, bytes(32)))
    with pytest.raises(WireGuardError, match="got 31 bytes, want 32"):
        table.apply(Roamed(1, bytes(31)))
    with pytest.raises(TypeError):
        table.apply(type("Nonsense", (), {"peer": 0})())

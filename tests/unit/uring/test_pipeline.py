# SPDX-License-Identifier: BSD-3-Clause
"""The compiled pipeline: every test of its twin, and both side by side."""

import pytest

from tests.unit.uring import pipelines
from tests.unit.uring import test_reference as twin

pipeline = pytest.importorskip("ts4nsnet.uring.pipeline", reason="the engine is not compiled")
sessions = pytest.importorskip("ts4nsnet.uring.sessions", reason="the engine is not compiled")

globals().update({name: value for name, value in vars(twin).items() if name.startswith("test_")})


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "Reference", pipeline.Pipeline)
    monkeypatch.setattr(pipelines, "SessionTable", sessions.Sessions)

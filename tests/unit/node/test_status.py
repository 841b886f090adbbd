# SPDX-License-Identifier: BSD-3-Clause
"""What a user is told about a node that is not ready."""

from dataclasses import replace

import pytest

from ts4nsnet.node.status import Phase, Status

READY = Status(Phase.RUNNING, "web.tail.ts.net", ("100.64.0.1",), (), 1, True, False, True, True, "", "", "")


def test_a_node_that_is_ready_has_no_hindrance() -> None:
    assert READY.hindrance == ""
    assert replace(READY, problem="the server is away").hindrance == ""


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (replace(READY, phase=Phase.JOINING), "it has not answered"),
        (replace(READY, phase=Phase.JOINING, problem="connection refused"), "connection refused"),
        (replace(READY, phase=Phase.JOINING, refusal="invalid key"), "refuses this node: invalid key"),
        (replace(READY, phase=Phase.JOINING, login_url="https://x.example/a"), "visit https://x.example/a"),
        (replace(READY, linked=False), "addresses and routes"),
        (replace(READY, relayed=False), "no relay can be reached, and no peer directly"),
        (replace(READY, relayed=False, problem="timed out"), "directly: timed out"),
    ],
)
def test_why_a_node_is_not_ready(status: Status, words: str) -> None:
    assert words in replace(status, is_ready=False).hindrance

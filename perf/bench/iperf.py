# SPDX-License-Identifier: BSD-3-Clause
"""TCP transfers by iperf3: how much arrived."""

import json
from dataclasses import dataclass
from typing import Any

from tests.processes import Namespace, Process

END_TIME = 20.0  # seconds that a transfer may take longer than it should


class Failed(Exception):
    """iperf3 did not do it; the text says why."""


@dataclass(frozen=True)
class Transfer:
    """What the receiver saw; and how often the sender had to repeat."""

    received_bytes: int
    seconds: float
    retransmits: int

    @property
    def megabits(self) -> float:
        """A second."""
        return self.received_bytes * 8e-6 / self.seconds


def parse(report: str) -> Transfer:
    """Read what `iperf3 --json` says of a TCP transfer; other words before it are passed over."""
    try:
        said: dict[str, Any] = json.loads(report[report.index("{") :])
    except ValueError:
        raise Failed(f"iperf3 says no JSON, but {report.strip()[:200]!r}") from None
    if "error" in said:
        raise Failed(f"iperf3: {said['error']}")
    sent, received = said["end"]["sum_sent"], said["end"]["sum_received"]
    return Transfer(received["bytes"], received["seconds"], sent["retransmits"])


class Running:
    """A transfer that is under way; `end` waits for it."""

    def __init__(self, client: Process, server: Process, seconds: float) -> None:
        self._client, self._server, self._seconds = client, server, seconds

    def end(self) -> Transfer:
        """Wait for its end; both processes have ended then, come what may."""
        try:
            return parse(self._client.said(self._seconds + END_TIME))
        finally:
            self._client.close()
            self._server.close()


def start(client: Namespace, server: Namespace, address: str, seconds: float, *options: str) -> Running:
    """Begin a transfer to the server's `address`; with "--reverse" from there."""
    listener = server.start("iperf3", "--server", "--one-off", "--forceflush")
    listener.wait_for("Server listening")
    # it takes whole seconds
    command = ("iperf3", "--client", address, "--time", str(max(1, round(seconds))), "--json", *options)
    return Running(client.start(*command), listener, seconds)

# SPDX-License-Identifier: BSD-3-Clause
"""UDP and SCTP flows that the container takes part in: what answers them comes in without a rule.

TCP needs none of this, since a connection begins with a packet that looks like no other. Of a UDP flow every packet
looks the same; so each that leaves writes down what its answer will look like, and what looks so may come in:

    out   UDP  100.64.0.1:5000 → 100.64.0.2:53       noted as   UDP  100.64.0.2:53 → 100.64.0.1:5000

A flow is one bytes string. It has no end and no timeout; there are so many at most, and those unused for longest are
forgotten. Answers that come in count as use. Rules may change under them: flows stay.

What was used last need not be known exactly: there are two generations, and what is used is in the young one. Once it
holds half of all, it becomes the old one, and what was old and unused is forgotten at once:

    young    ── full ──►    old    ── young is full again ──►    forgotten          used while old: young again

So the half used last is always there. An ordered list would be exact, at three times the memory and with a change to it
for each packet; and each question of a resolver is a flow, so that a container fills the table in time.

Source: wgengine/filter and net/flowtrack of tailscale; notes dns-filter.md B6.
"""

from ts4nsnet.filter.views import SCTP
from ts4nsnet.packet import Protocol

# ours; 7 MB (IPv6: 9 MB). Tailscale has 512, so that a container that asks more servers at once loses answers
MAX_FLOWS = 65536

# two protocols, one table
_TAGS = {Protocol.UDP.value: b"\x11", SCTP: b"\x84"}


class Flows:
    """At most `limit` flows (2 or more), and always the half of that used last; others are forgotten many at a time."""

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, limit: int = MAX_FLOWS) -> None:
        # dictionaries, since a set takes more memory
        self._young: dict[bytes, None] = {}
        self._old: dict[bytes, None] = {}
        self._half = limit // 2

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def note(self, protocol: int, source: bytes, destination: bytes, ports: bytes) -> None:
        """A packet leaves; `ports` are the first four bytes of its UDP or SCTP header."""
        flow = destination + source + ports[2:] + ports[:2] + _TAGS[protocol]
        if flow not in self._young:
            self._use(flow)

    def has(self, protocol: int, source: bytes, destination: bytes, ports: bytes) -> bool:
        """Whether a packet that came in answers one that left."""
        flow = source + destination + ports + _TAGS[protocol]
        if flow in self._young:
            return True
        if flow not in self._old:
            return False
        self._use(flow)
        return True

    def clear(self) -> None:
        """Forget all."""
        self._young, self._old = {}, {}

    def _use(self, flow: bytes) -> None:
        """Make a flow young that is not."""
        self._old.pop(flow, None)
        if len(self._young) >= self._half:
            self._young, self._old = {}, self._young
        self._young[flow] = None

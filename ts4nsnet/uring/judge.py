# SPDX-License-Identifier: BSD-3-Clause
"""What may pass, and what becomes of what may not: the rules of all pipelines, in one place.

    outbound   the node's own? ─► Local       filtered? ─► dropped      no way? ─► refused, at once and with a reason
               too big for the path? ─► answered with its MTU            a new connection ─► held to the path's MTU
    inbound    allowed? ─► the container      the tailnet's own? ─► Message     a refused connection: its peer is told

A pipeline asks for each frame and packet, or, if it is compiled, for one packet a second of each flow that was accepted
(`classify`): so a change of anything that decides must change `version`.
"""

from collections.abc import Sequence
from typing import Protocol

from ts4nsnet.filter import Filter, Verdict, answers, tsmp
from ts4nsnet.packet import Inner, clamp_mss
from ts4nsnet.uring.counters import Drop
from ts4nsnet.uring.events import Event, Local, Message, Refused
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.wireguard import AllowedIPs, Command, Seal

# of what the container sends: it could go somewhere else, and would wait for an answer
_TOLD = (Verdict.LINK_LOCAL, Verdict.STRANGE_SOURCE)


class Pipeline(Protocol):
    """What a judge asks of a pipeline."""

    def drop(self, reason: Drop, packets: int = 1) -> None:
        """Count packets that go nowhere."""

    def emit(self, event: Event) -> None:
        """Tell the node something."""

    def write(self, packets: Sequence[bytes]) -> None:
        """Take packets for the container, in their order."""

    def apply(self, command: Command, now: float) -> None:
        """Do what the node says."""

    def mtu_to(self, peer: int) -> int:
        """How long packets for a peer may be, bytes."""


class Judge:
    """Judges the packets of one pipeline.

    Args:
        pipeline: whose packets they are.
        routes: whose an address is.
        packet_filter: what may pass; only `set_rules` here may change it.

    Attributes:
        version: another number after each change of what decides.
    """

    def __init__(self, pipeline: Pipeline, routes: AllowedIPs, packet_filter: Filter) -> None:
        self.version = 0
        self._pipeline = pipeline
        self._routes = routes
        self._filter = packet_filter
        self._local = LocalTraffic()

    @property
    def local(self) -> LocalTraffic:
        """What of the container's traffic is for the node itself."""
        return self._local

    @local.setter
    def local(self, traffic: LocalTraffic) -> None:
        self._local = traffic
        self.version += 1

    def set_rules(self, *admission: object) -> None:
        """Let pass what these allow: the arguments of `Filter.set_rules`."""
        self._filter.set_rules(*admission)  # type: ignore[arg-type]
        self.version += 1

    def outbound(self, packets: list[bytes], peer: int | None, now: float) -> int | None:  # noqa: ARG002  a twin of inbound
        """Judge the packets of one frame of the container's.

        Args:
            packets: complete; may be changed.
            peer: whose their destination is; None: nobody's.

        Returns: to whom they go; None: all is done with them.
        """
        inner = Inner.parse(packets[0])
        if not self._local.has(inner, packets[0], peer):
            return self._admit(peer, inner, packets)
        for packet in packets:
            self._pipeline.emit(Local(packet))
        return None

    def inbound(self, packet: bytes, peer: int, now: float) -> bool:
        """Judge a packet of a peer's, which comes from an address of that peer's: may the container have it?"""
        match self._filter.inbound(packet):
            case Verdict.ACCEPT:
                return True
            case Verdict.TSMP:
                self._pipeline.emit(Message(peer, packet))
            case verdict:
                self._pipeline.drop(Drop.FILTERED_IN)
                if (answer := tsmp.reject(packet, verdict)) is not None:
                    self._pipeline.apply(Seal(peer, (answer,)), now)
        return False

    def forward(self, packet: bytes, now: float) -> None:
        """Let go on what was reported as `Local` and is not the node's after all."""
        packets = [packet]
        inner = Inner.parse(packet)
        peer = self._admit(self._routes.lookup(inner.destination), inner, packets)
        if peer is not None:
            self._pipeline.apply(Seal(peer, tuple(packets)), now)

    def _admit(self, peer: int | None, inner: Inner, packets: list[bytes]) -> int | None:
        first = packets[0]
        verdict = self._filter.outbound(first)
        if verdict in _TOLD:
            self._answer(answers.refusal(first), Drop.FILTERED_OUT, len(packets))
        elif verdict is not Verdict.ACCEPT:
            self._pipeline.drop(Drop.FILTERED_OUT, len(packets))
        elif peer is None:
            self._answer(answers.refusal(first), Drop.NO_ROUTE, len(packets))
            self._pipeline.emit(Refused(inner.destination))
        else:
            mtu = self._pipeline.mtu_to(peer)
            if inner.length <= mtu or (answer := answers.too_big(first, mtu)) is None:
                packets[0] = clamp_mss(first, mtu)
                return peer
            self._answer(answer, Drop.TOO_BIG, len(packets))
        return None

    def _answer(self, answer: bytes | None, reason: Drop, dropped: int) -> None:
        self._pipeline.drop(reason, dropped)
        if answer is not None:
            self._pipeline.write([answer])

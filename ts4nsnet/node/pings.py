# SPDX-License-Identifier: BSD-3-Clause
"""Pings that the control server asks for: which peer is meant, and what is told when the answer is there."""

from dataclasses import dataclass, replace
from typing import Protocol

import trio

from ts4nsnet import derp
from ts4nsnet.control import NetMap, Node
from ts4nsnet.control.events import PingRequested, PingResult
from ts4nsnet.endpoint import to_text
from ts4nsnet.keys import PublicKey
from ts4nsnet.magicsock import Path, Pinged

DISCO = "disco"


@dataclass(frozen=True, slots=True)
class _Asked:
    number: int
    address: str
    node: Node


class Ways(Protocol):
    """What is asked of the transport."""

    def path(self, key: PublicKey) -> Path | None:
        """The way to a peer; None for one that is unknown."""

    def ping(self, key: PublicKey, now: float) -> None:
        """Ask a peer whether it is there; the answer comes as `Pinged`."""


class Server(Protocol):
    """What is asked of the control client."""

    def answer_ping(self, number: int, result: PingResult, now: float) -> None:
        """Tell the server what a ping has found."""


class Wake(Protocol):
    """What wakes the control client."""

    def set(self) -> None:
        """There is something to send."""


class Pings:
    """Requests that wait for an answer; two of one peer get the same."""

    def __init__(self, transport: Ways, client: Server, wake: Wake) -> None:
        self._transport = transport
        self._client = client
        self._wake = wake
        self._asked: dict[PublicKey, list[_Asked]] = {}

    def asked(self, request: PingRequested, netmap: NetMap | None) -> None:
        """Ping a peer for the server."""
        address = str(request.address)
        peers = netmap.peers.values() if netmap is not None else ()
        node = next((node for node in peers if request.address in node.addresses), None)
        if DISCO not in request.kinds:
            self._answer(
                request.number, PingResult(request.kinds[0], address, error=f"this node pings by {DISCO} only")
            )
        elif node is None or self._transport.path(node.key) is None:
            self._answer(request.number, PingResult(DISCO, address, error="no such peer"))
        else:
            self._asked.setdefault(node.key, []).append(_Asked(request.number, address, node))
            self._transport.ping(node.key, trio.current_time())

    def answered(self, event: Pinged, netmap: NetMap | None) -> None:
        """A peer has answered, or not."""
        relayed = derp.from_endpoint(event.endpoint)
        regions = netmap.derp_map.regions if netmap is not None else {}
        for asked in self._asked.pop(event.key, ()):
            found = PingResult(DISCO, asked.address, asked.address, asked.node.name.rstrip("."))
            if event.latency is None:
                result = PingResult(DISCO, asked.address, error="no answer")
            elif relayed is None:
                result = replace(found, latency_time=event.latency, endpoint=to_text(event.endpoint))
            else:
                region = relayed[0]
                code = regions[region].code if region in regions else ""
                result = replace(found, latency_time=event.latency, derp_region_id=region, derp_region_code=code)
            self._answer(asked.number, result)

    def _answer(self, number: int, result: PingResult) -> None:
        self._client.answer_ping(number, result, trio.current_time())
        self._wake.set()

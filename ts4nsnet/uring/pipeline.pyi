# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `pipeline`, whose essay is in its source.

from collections.abc import Iterable, Sequence
from typing import Any

from ts4nsnet.filter import Filter
from ts4nsnet.packet import Buffer
from ts4nsnet.uring.counters import Counters, Drop
from ts4nsnet.uring.events import Event
from ts4nsnet.uring.judge import Judge
from ts4nsnet.uring.offload import Coalescer
from ts4nsnet.uring.offloads import Offloads, OffloadsSet
from ts4nsnet.uring.sessions import Sessions
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import AllowedIPs, Command

class Pipeline:
    sessions: Sessions
    judge: Judge
    coalescer: Coalescer
    counter_memory: Any
    offloads: Offloads
    def __init__(
        self,
        sessions: Sessions,
        allowed_ips: AllowedIPs,
        packet_filter: Filter | None = None,
        *,
        mtu: int,
        vnet_hdr: bool,
        counter_memory: Any = None,
    ) -> None: ...
    @property
    def counters(self) -> Counters: ...
    def from_tun(self, frames: Iterable[Buffer], now: float) -> None: ...
    def from_udp(self, trains: Iterable[Train], now: float) -> None: ...
    def apply(self, command: Command, now: float) -> None: ...
    def set_mtu(self, peer: int, mtu: int) -> None: ...
    def mtu_to(self, peer: int) -> int: ...
    def switch(self, wanted: OffloadsSet) -> None: ...
    def drop(self, reason: Drop, packets: int = 1) -> None: ...
    def emit(self, event: Event) -> None: ...
    def write(self, packets: Sequence[bytes]) -> None: ...
    def next_event(self) -> Event | None: ...
    def trains_to_send(self) -> list[Train]: ...
    def frames_to_write(self) -> list[bytes]: ...

# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `pipeline`, whose essay is in its source.

from collections.abc import Iterable
from typing import Any

from ts4nsnet.packet import Buffer
from ts4nsnet.uring.counters import Counters
from ts4nsnet.uring.offload import Coalescer
from ts4nsnet.uring.reference import Event
from ts4nsnet.uring.sessions import Sessions
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import AllowedIPs, Command

COUNTER_WORDS: int

def counters_in(memory: Any) -> Counters: ...

class Pipeline:
    sessions: Sessions
    coalescer: Coalescer
    counter_memory: Any
    def __init__(
        self, sessions: Sessions, allowed_ips: AllowedIPs, *, mtu: int, vnet_hdr: bool, counter_memory: Any = None
    ) -> None: ...
    @property
    def counters(self) -> Counters: ...
    def from_tun(self, frames: Iterable[Buffer], now: float) -> None: ...
    def from_udp(self, trains: Iterable[Train], now: float) -> None: ...
    def apply(self, command: Command, now: float) -> None: ...
    def next_event(self) -> Event | None: ...
    def trains_to_send(self) -> list[Train]: ...
    def frames_to_write(self) -> list[bytes]: ...

# SPDX-License-Identifier: BSD-3-Clause
# Types of the compiled module `port`, whose essay is in its source.

from collections.abc import Callable, Iterable, Sequence
from socket import socket

from ts4nsnet.uring.counters import Counters
from ts4nsnet.uring.events import Event
from ts4nsnet.uring.judge import Judge
from ts4nsnet.uring.pipeline import Pipeline
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Command

class Port:
    pipeline: Pipeline
    tun: int
    sock: int
    name: str
    segments: bool
    blocked: bool
    relay: Callable[[Train], object] | None
    def __init__(self, pipeline: Pipeline, tun: int, sock: socket, control: int = -1) -> None: ...
    def fileno(self) -> int: ...
    def carry(self, milliseconds: int = -1, batches: int = -1) -> bool: ...
    def apply(self, command: Command, now: float) -> None: ...
    def from_udp(self, trains: Iterable[Train], now: float) -> None: ...
    def write(self, packets: Sequence[bytes]) -> None: ...
    def next_event(self) -> Event | Train | None: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def judge(self) -> Judge: ...
    @property
    def has_trains(self) -> bool: ...

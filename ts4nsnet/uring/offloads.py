# SPDX-License-Identifier: BSD-3-Clause
"""Which offloads an engine uses, and why not the others.

    udp-gso        datagrams leave in trains (UDP_SEGMENT)             a network card may not be able to, or break them
    udp-gro        datagrams come in trains (UDP_GRO)
    tun-tcp-gro    TCP segments are written as superpackets            some kernels refuse those (EINVAL)
    tun-udp-gro    likewise UDP datagrams                              some lose VXLAN in them

Each is the difference between one call per train and one per packet, and each has been broken by some kernel or driver
in a way that nobody sees but by its slowness. So each can be switched, by whoever starts the node and by the tailnet,
at any time; and one that the kernel refuses is given up by itself, for as long as the engine runs.

A train whose datagrams are all equally long is a case of its own: Linux 7.0 to 7.1.4 send those with wrong headers
through some devices. Without `equal_tails` there is none: of a run of equal datagrams those go by the train that have a
shorter one behind them, the others alone (`trains`). The reference appends a datagram of one byte instead, which made a
network card's firmware stumble.

What an offload's state is fits into a word of the counters: one of the numbers below, or `REFUSED` and an errno.

Source: tailscale, tailcfg (NodeAttrDisableUDPGSO and its neighbours), net/batching; issues 13041, 19777, 20994.
"""

import errno
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

# states; 0 is what memory holds in which no engine has written yet
UNKNOWN, IN_USE, SWITCHED_OFF, UNEVEN_ONLY, REFUSED = 0, 1, 2, 3, 256
# ours: so many refused superpackets, and no more are tried; each costs a call before its packets are written one by one
MAX_REFUSALS = 8


class Offload(StrEnum):
    """What the kernel does for us; see above."""

    UDP_GSO = "udp-gso"
    UDP_GRO = "udp-gro"
    TUN_TCP_GRO = "tun-tcp-gro"
    TUN_UDP_GRO = "tun-udp-gro"


@dataclass(frozen=True, slots=True)
class OffloadsSet:
    """A command: use the others.

    Attributes:
        off: these are not to be used.
        equal_tails: whether a train's datagrams may all be equally long.
    """

    off: frozenset[Offload] = frozenset()
    equal_tails: bool = True


@dataclass(frozen=True, slots=True)
class OffloadRefused:
    """An event: the kernel does not do this, although it seemed to; it is not used any more.

    Attributes:
        error: an errno.
    """

    offload: Offload
    error: int


class Offloads:
    """What one engine uses.

    Args:
        emit: takes `OffloadRefused`.
        vnet_hdr: whether the TUN knows superpackets.

    Attributes:
        states: of all offloads, as a word each; changed in place.
        equal_tails: see `OffloadsSet`.
    """

    def __init__(self, emit: Callable[[OffloadRefused], object], *, vnet_hdr: bool = True) -> None:
        self.states = dict.fromkeys(Offload, IN_USE)
        self._emit = emit
        self._wanted = OffloadsSet()
        self._errors: dict[Offload, int] = {}
        self._refusals: Counter[Offload] = Counter()
        if not vnet_hdr:
            for offload in (Offload.TUN_TCP_GRO, Offload.TUN_UDP_GRO):
                self.lose(offload, errno.EOPNOTSUPP)

    def uses(self, offload: Offload) -> bool:
        """Whether it is to be used, in whatever way."""
        return self.states[offload] in (IN_USE, UNEVEN_ONLY)

    def works(self, offload: Offload) -> bool:
        """Whether the kernel has nothing against it, so far."""
        return offload not in self._errors

    @property
    def equal_tails(self) -> bool:
        """Whether a train's datagrams may all be equally long."""
        return self._wanted.equal_tails

    def switch(self, wanted: OffloadsSet) -> None:
        """Use what is wanted, and works."""
        self._wanted = wanted
        for offload in Offload:
            self.states[offload] = self._state(offload)

    def lack(self, offload: Offload, error: int) -> None:
        """This kernel does not have it, which `error` has said."""
        self._errors.setdefault(offload, error)
        self.states[offload] = self._state(offload)

    def lose(self, offload: Offload, error: int) -> None:
        """The kernel refused it in use: it is not used again."""
        if offload not in self._errors:
            self._emit(OffloadRefused(offload, error))
        self.lack(offload, error)

    def frame_refused(self, offload: Offload) -> None:
        """The TUN has not taken a superpacket (EINVAL); one may be a mistake, many are not."""
        self._refusals[offload] += 1
        if self._refusals[offload] == MAX_REFUSALS:
            self.lose(offload, errno.EINVAL)

    def _state(self, offload: Offload) -> int:
        if offload in self._wanted.off:
            return SWITCHED_OFF
        if offload in self._errors:
            return REFUSED + self._errors[offload]
        return IN_USE if self.equal_tails or offload is not Offload.UDP_GSO else UNEVEN_ONLY

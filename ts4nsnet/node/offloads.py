# SPDX-License-Identifier: BSD-3-Clause
"""Who wants which offloads off, and what a user is told of them.

    TS4NSNET_OFFLOADS_OFF ─┐
    attributes of our node ┴─► OffloadsSet ─► engine ─► states, in its counters ─► a line each, in `status`

The attributes are Tailscale's, given by a tailnet's policy to nodes on hosts that need them. They come and go with the
netmap, and count from that moment on; the user's own list counts for as long as the node runs.

Source: tailscale, tailcfg (NodeAttrDisableUDPGRO … NodeAttrNeverGSOEqualTail).
"""

import os
from collections.abc import Callable, Collection, Mapping

from ts4nsnet.uring.offloads import IN_USE, REFUSED, SWITCHED_OFF, UNEVEN_ONLY, Offload, OffloadRefused, OffloadsSet

ATTRIBUTES = {f"disable-{offload}": offload for offload in Offload}
NEVER_GSO_EQUAL_TAIL = "never-gso-equal-tail"
VARIABLE = "TS4NSNET_OFFLOADS_OFF"


class Switches:
    """What is wanted off.

    Args:
        off: by the user.
        say: takes what a user should read.

    Attributes:
        wanted: what the engine is to be told.
    """

    def __init__(self, off: Collection[Offload], say: Callable[[str], None]) -> None:
        self._off = frozenset(off)
        self._say = say
        self._refused: set[Offload] = set()
        self.wanted = OffloadsSet(self._off)

    def look(self, attributes: Collection[str]) -> OffloadsSet:
        """Take our node's attributes, as they are now; returns `wanted`."""
        off = {offload for name, offload in ATTRIBUTES.items() if name in attributes}
        self.wanted = OffloadsSet(self._off | off, NEVER_GSO_EQUAL_TAIL not in attributes)
        return self.wanted

    @property
    def merges_tcp(self) -> bool:
        """Whether the TUN gets TCP in superpackets, which a container can pass on whatever their length."""
        return Offload.TUN_TCP_GRO not in self.wanted.off | self._refused

    def lines(self, states: Mapping[Offload, int]) -> dict[str, str]:
        """The state of each offload in words.

        Args:
            states: words of the counters.
        """
        return {str(offload): self._line(offload, state) for offload, state in states.items()}

    def refused(self, event: OffloadRefused) -> None:
        """Say it, once; each new worker finds it out for itself."""
        if event.offload not in self._refused:
            self._refused.add(event.offload)
            self._say(
                f"{event.offload} is off from now on, which costs throughput: the kernel refused it "
                f"({os.strerror(event.error)}); {VARIABLE}={event.offload} spares it the attempt (said once)"
            )

    def _line(self, offload: Offload, state: int) -> str:
        if state >= REFUSED:
            return f"off: refused by the kernel ({os.strerror(state - REFUSED)})"
        if state == SWITCHED_OFF:
            return f"off: {VARIABLE}" if offload in self._off else f"off: attribute disable-{offload} of the tailnet"
        if state == UNEVEN_ONLY:
            return f"in use, but not for equal datagrams: attribute {NEVER_GSO_EQUAL_TAIL} of the tailnet"
        return "in use" if state == IN_USE else "not known yet"

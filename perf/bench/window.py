# SPDX-License-Identifier: BSD-3-Clause
"""How many datagrams a source may have on their way: more with each acknowledgement, half with each loss (TCP's Reno).

A TUN does not slow a sender down: it lets go of the socket's memory when it queues a packet, and drops what is too much
without a word. A source that only sends would thus measure what is left of the processors while it fills them; a fixed
window would suit one tunnel's queue and overrun another's. So each tunnel gets what it takes, as from QUIC.
"""

LEAST, FIRST, MOST = 128, 256, 1024  # datagrams; the least must exceed a batch and the acknowledgement of one
GROWTH = 8  # for each acknowledgement


class Window:
    """Of one source, whose datagrams are numbered from 0 on."""

    def __init__(self) -> None:
        self.size = FIRST
        self.acknowledged = 0
        self._lost = 0
        self._halved_at = 0  # what had been sent then: what was lost of it is no news

    def room(self, sent: int) -> int:
        """How many more may leave, if so many have; may be negative."""
        return self.size - (sent - self.acknowledged)

    def acknowledge(self, expected: int, received: int, sent: int) -> None:
        """The sink has received so many, and expects that number next; so many have left."""
        self.acknowledged = max(self.acknowledged, expected)
        lost = expected - received
        if lost > self._lost:
            self._lost = lost
            self._halve(expected, sent)
        else:
            self.size = min(MOST, self.size + GROWTH)

    def stalled(self, sent: int) -> None:
        """Nothing came for long: all that is on its way is lost."""
        self._halve(sent, sent)
        self.acknowledged = sent

    def _halve(self, seen: int, sent: int) -> None:
        if seen > self._halved_at:
            self.size = max(LEAST, self.size // 2)
            self._halved_at = sent

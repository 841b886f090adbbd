# SPDX-License-Identifier: BSD-3-Clause
"""The replay window: each counter of a keypair is accepted once.

UDP reorders, so "greater than the last one" would lose good packets; remembering every counter would never end. The
window remembers which of the latest 8,128 counters have come. It is a ring of 128 blocks of 64 bits:

            block 0        block 1              block 127
        ┌──────────────┬──────────────┬─ … ─┬──────────────┐
        │ 64 counters  │ 64 counters  │     │ 64 counters  │    counter c: block (c >> 6) & 127, bit c & 63
        └──────────────┴──────────────┴─ … ─┴──────────────┘
                              ▲ the block of `greatest`

A counter greater than all before moves the window: the blocks between the old greatest one's and its own are emptied,
whole blocks at a time, and no bit is ever shifted. This is why one block less than the ring is usable, 127 × 64: the
block that is being filled shares its place with the oldest one.

Rules
  * `check` before decryption is a hint that saves work; only `accept`, after the tag has been verified, counts, or a
    forged counter could move the window.
  * One window belongs to one keypair and is touched by one process.

The words live in session memory: word 0 is the greatest counter accepted, words 1 to 128 are the blocks, and 129 zero
words are a fresh window.

Source: RFC 6479; the sizes are those of the WireGuard implementations.
"""

BLOCK_BITS = 64
BLOCKS = 128
WINDOW_COUNTERS = (BLOCKS - 1) * BLOCK_BITS
WORDS = 1 + BLOCKS


class ReplayWindow:
    """A view of one keypair's window.

    Args:
        words: 129 words of 64 bits, `memoryview.cast("Q")`.
    """

    __slots__ = ("_words",)

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def check(self, counter: int) -> bool:
        """Whether `accept` would accept `counter` now."""
        greatest = self._words[0]
        if counter > greatest:
            return True
        if greatest - counter > WINDOW_COUNTERS:
            return False
        block = self._words[1 + (counter >> 6) % BLOCKS]
        return not block >> (counter % BLOCK_BITS) & 1

    def accept(self, counter: int) -> bool:
        """Take `counter`, whose message is authentic; False if it has been taken before or is too old to tell."""
        if not self.check(counter):
            return False
        words = self._words
        greatest = words[0]
        if counter > greatest:
            words[0] = counter  # first: a crash from here on refuses what is new, and never accepts what is old
            first = (greatest >> 6) + 1
            last = counter >> 6
            for block in range(first, min(last, first + BLOCKS - 1) + 1):
                words[1 + block % BLOCKS] = 0
        words[1 + (counter >> 6) % BLOCKS] |= 1 << (counter % BLOCK_BITS)
        return True

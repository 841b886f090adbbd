# SPDX-License-Identifier: BSD-3-Clause
"""What has become of a numbered train of datagrams: how many came, how many out of order.

A datagram is reordered if its number is smaller than that of one before it (RFC 4737, 3.3). What is lost, only the
source can say: as many as it has sent more.
"""

from collections.abc import Sequence


class Arrivals:
    """Counts numbers, a batch at a time."""

    def __init__(self) -> None:
        self.received = 0
        self.reordered = 0
        self.expected = 0  # the greatest number so far, plus one

    def add(self, numbers: Sequence[int]) -> None:
        """Count one batch, in the order of arrival; numbers may be missing and come twice."""
        self.received += len(numbers)
        if numbers and numbers[0] >= self.expected and sorted(set(numbers)) == numbers:
            self.expected = numbers[-1] + 1
            return
        for number in numbers:
            if number < self.expected:
                self.reordered += 1
            else:
                self.expected = number + 1

# SPDX-License-Identifier: BSD-3-Clause
"""What may go wrong with names: one error, and the labels of what is silently dropped.

A query that cannot be read, and yet has an identifier, is answered by FORMERR; what has none, or nobody waits for, is
dropped and counted.
"""

from enum import StrEnum

from ts4nsnet.errors import Ts4nsnetError


class DnsError(Ts4nsnetError):
    """The root of this package's errors."""


class Malformed(DnsError):
    """Bytes that are no DNS message: what, what was there and what should have been."""

    def __init__(self, what: str, *, got: object, want: object) -> None:
        super().__init__(f"{what}: got {got}, want {want}")


class Drop(StrEnum):
    """Why something was dropped: the labels of the counters. Nothing else happens on a drop."""

    QUERY_MALFORMED = "query malformed"  # no header, or it says that it is an answer
    TOO_MANY = "too many"  # of more queries in flight than there may be, the newest
    REPEATED = "repeated"  # the same client asks the same while we are still asking for it
    ANSWER_UNKNOWN = "answer unknown"  # nobody waits for it: late, or not from whom we have asked
    ANSWER_MALFORMED = "answer malformed"  # it has the identifier of a query, but is no answer to its question

# SPDX-License-Identifier: BSD-3-Clause
"""The packet filter: what may come in from the tailnet, and what the container is told of what may not leave.

    rules     what the coordination server allows, as values      filter    a packet's fate
    matcher   rules compiled to sorted tables                     views     what must be seen of a packet for that
    flows     UDP flows that may be answered                      tsmp      messages between the filters of two nodes
    answers   ICMP for the container

There are only rules that allow; no rules, nothing comes in but answers. A filter knows no time: it is a table of rules,
a bounded table of flows, and a function of a packet.

Source: notes dns-filter.md part B, control.md 8.
"""

from ts4nsnet.filter import answers, tsmp
from ts4nsnet.filter.filter import Filter, Verdict
from ts4nsnet.filter.rules import (
    DEFAULT_PROTOCOLS,
    Destination,
    FilterError,
    Grant,
    Range,
    Rule,
    parse_ranges,
)

__all__ = [
    "DEFAULT_PROTOCOLS",
    "Destination",
    "Filter",
    "FilterError",
    "Grant",
    "Range",
    "Rule",
    "Verdict",
    "answers",
    "parse_ranges",
    "tsmp",
]

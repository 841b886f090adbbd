# SPDX-License-Identifier: BSD-3-Clause
"""The packet filter: what may come in from the tailnet.

    rules   what the coordination server allows, as values

There are only rules that allow; no rules, nothing comes in. Source: notes dns-filter.md part B, control.md 8.
"""

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
    "FilterError",
    "Grant",
    "Range",
    "Rule",
    "parse_ranges",
]

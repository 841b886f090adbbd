# SPDX-License-Identifier: BSD-3-Clause
"""A packet filter for tests that are about something else."""

from ipaddress import ip_network

from ts4nsnet.filter import Destination, Filter, Rule
from ts4nsnet.filter.rules import EVERYTHING


def open_filter() -> Filter:
    """Lets everybody send everything to every address; what no filter lets pass (multicast, say) it does not either."""
    opened = Filter()
    rule = Rule(EVERYTHING, destinations=tuple(map(Destination, EVERYTHING)), protocols=tuple(range(256)))
    opened.set_rules([rule], [ip_network("0.0.0.0/0"), ip_network("::/0")])
    return opened

# SPDX-License-Identifier: BSD-3-Clause
"""A packet filter for tests that are about something else."""

from ipaddress import ip_network

from ts4nsnet.filter import Destination, Filter, Rule
from ts4nsnet.filter.rules import EVERYTHING

# rules, and which addresses are ours: everybody may send everything to every address
OPEN = (
    [Rule(EVERYTHING, destinations=tuple(map(Destination, EVERYTHING)), protocols=tuple(range(256)))],
    [ip_network("0.0.0.0/0"), ip_network("::/0")],
)


def open_filter() -> Filter:
    """Lets pass what `OPEN` allows; what no filter lets pass (multicast, say) it does not either."""
    opened = Filter()
    opened.set_rules(*OPEN)
    return opened

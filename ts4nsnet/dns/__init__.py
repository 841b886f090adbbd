# SPDX-License-Identifier: BSD-3-Clause
"""MagicDNS: names of the tailnet are answered here, all others by whom the coordination server or the host names.

    container ─► adapter ─► MagicDns ─┬─ names       a node, an address, a zone of ours: answered at once
                                      └─ forwarder   the rest: asked of several servers, the first answer wins

    resolver     the verbs            messages    what is in a message, by dnspython
    config       what the coordination server says, as values
    upstream     a server to ask      hostresolv  which ones the host has
    adapter      packets of the container, sockets to the servers: the only file with I/O

A query that is not ours is passed on as it is but for its identifier, and so is the answer, unless the client takes no
datagram that long. Nothing is kept: who asks again is answered anew, and knows the tailnet as it is now.

Limits: servers are asked over UDP alone, in plain. DNS over HTTPS, an exit node's resolver and TCP on either side are
not there yet; a client is told by TC that there would be more.

Source: notes dns-filter.md part A, control.md 7; RFC 1035, 2308, 6891, 7686; tailscale, net/dns/resolver.
"""

from ts4nsnet.dns.config import Config, ExtraRecord, Resolver, normal_name
from ts4nsnet.dns.errors import DnsError, Drop
from ts4nsnet.dns.forwarder import Client, Query
from ts4nsnet.dns.resolver import MagicDns, Statistics
from ts4nsnet.dns.upstream import Upstream

__all__ = [
    "Client",
    "Config",
    "DnsError",
    "Drop",
    "ExtraRecord",
    "MagicDns",
    "Query",
    "Resolver",
    "Statistics",
    "Upstream",
    "normal_name",
]

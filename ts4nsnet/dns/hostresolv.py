# SPDX-License-Identifier: BSD-3-Clause
"""Which resolvers the host has, when a VPN of the host may stand before them.

What /etc/resolv.conf names is often no server but somebody who knows the servers: systemd-resolved at 127.0.0.53, or
the host's own overlay network, whose resolver is useless to a container, or tells it the names of another tailnet. So
an entry there may be:

    an overlay's own address            never asked (100.100.100.100 and its IPv6 twin)
    systemd-resolved's stub             who has the servers behind it in a file of its own: those are asked
    in 100.64.0.0/10 or fd7a:…::/48     asked only if nothing else is found: another overlay's node, most likely, but
                                        some clouds and providers have their resolvers there
    anything else                       asked, as are others on the host's loopback: we ask from the host

and where that leaves nothing, the next of `SOURCES` is read: what systemd-resolved and NetworkManager have learned, and
the copies that Tailscale and NetBird keep of the file which they have replaced. Nothing at all, as in glibc: the host
itself is asked; unless there is a file, whose entries are all an overlay's.

A function of the files' texts; who watches them is the adapter.

Source: resolv.conf(5), systemd-resolved.service(8); tailscale, net/dns/direct.go; netbird, client/internal/dns;
new-features.md, trap 8.
"""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from ts4nsnet.dns.upstream import SERVICE_ADDRESSES, Address, Upstream
from ts4nsnet.tailnet import is_tailnet

# absolute paths; the first with a usable entry counts
SOURCES: Final = (
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/etc/resolv.pre-tailscale-backup.conf",
    "/etc/resolv.conf.original.netbird",
)
MAX_SERVERS = 3  # of one file; resolv.conf(5)
STUBS = (IPv4Address("127.0.0.53"), IPv4Address("127.0.0.54"))


def host_resolvers(read: Callable[[str], str | None]) -> tuple[Upstream, ...]:
    """The servers that the host asks, best first.

    Args:
        read: gives the text of a file of `SOURCES`; None: there is none.
    """
    texts = [read(path) for path in SOURCES]
    entries = [list(_entries(text)) for text in texts if text is not None]
    found = [[entry for entry in each if entry not in SERVICE_ADDRESSES and entry not in STUBS] for each in entries]
    plain = [[entry for entry in each if not _is_overlay(entry)] for each in found]
    chosen = next((each for each in (*plain, *found) if each), [])
    if not chosen and len(entries) == 1 and any(entry in STUBS for entry in entries[0]):
        chosen = entries[0]  # the servers behind the stub are told nowhere
    if not chosen and not any(entries):
        chosen = [IPv4Address("127.0.0.1")]
    return tuple(Upstream(entry) for entry in chosen if entry not in SERVICE_ADDRESSES)


def _entries(text: str) -> Iterator[Address]:
    """The name servers of a resolv.conf, in order, each once; what is no address is passed by."""
    known: set[Address] = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver" or len(known) == MAX_SERVERS:
            continue
        try:
            address = ip_address(words[1])
        except ValueError:
            continue
        if address not in known:
            known.add(address)
            yield address


def _is_overlay(address: Address) -> bool:
    if isinstance(address, IPv6Address) and address.scope_id:
        return False  # of one link
    return is_tailnet(address)

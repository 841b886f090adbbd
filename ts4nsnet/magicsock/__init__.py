# SPDX-License-Identifier: BSD-3-Clause
"""Paths between nodes, sans-I/O: by UDP where that works, by a relay until then.

A peer is known by its WireGuard key; where it is, is found out. WireGuard's datagrams go to one endpoint per peer, and
the `Conn` says which: the peer behind its relay at first, then the UDP endpoint that answers best. What nodes tell each
other for this is disco's, on the same socket and through the same relays as WireGuard's datagrams. WireGuard's own
roaming has to be off: an endpoint from which a datagram came need not be one that a datagram reaches.

    conn    the verbs, for all peers                     disco       messages, and the boxes they are sealed in
    paths   one peer: candidates, best, trust            endpoints   own addresses; what is worth a ping; overlays
    events  what is told, said and counted               netlink     the kernel's messages about this host's networks

Only `adapter` does I/O. There is no STUN and no port mapping yet: behind a NAT peers find each other if one of them has
an address that the other can reach, or both have firewalls alone.

Source: tailscale, wgengine/magicsock, disco; our notes on disco and paths.
"""

from ts4nsnet.magicsock.conn import Conn
from ts4nsnet.magicsock.disco import is_disco
from ts4nsnet.magicsock.events import Event, OwnEndpointsChanged, Path, PathChanged, PeerPaths, Pinged, Statistics

__all__ = [
    "Conn",
    "Event",
    "OwnEndpointsChanged",
    "Path",
    "PathChanged",
    "PeerPaths",
    "Pinged",
    "Statistics",
    "is_disco",
]

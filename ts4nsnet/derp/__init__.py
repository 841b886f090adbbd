# SPDX-License-Identifier: BSD-3-Clause
"""DERP, the relay of a tailnet: the client side, sans-I/O.

A relay forwards packets between nodes that cannot reach each other over UDP, or not yet. It knows a node by its public
key alone and cannot read what it forwards: that is WireGuard's, or disco's. A node is always connected to one region's
relay, its home, which all its peers learn of from the coordination server; to a peer elsewhere it connects on demand.

    Regions   which connections to hold open, which way a packet takes, queues, tries       adapter   dials, TLS, tasks
    Client    one connection: HTTP upgrade, hello, frames, limits, silence                  map       regions and nodes
    frames, hello   the codec, both directions       metacert   a relay's key among its certificates
    endpoint        a peer behind a relay as one of WireGuard's endpoints

Only `adapter` does I/O. What the lab's relay needs of the other direction is in `frames` and `hello`.

Source: tailscale's derp, derp/derphttp, wgengine/magicsock/derp.go; our notes on DERP.
"""

from ts4nsnet.derp.endpoint import from_endpoint, to_endpoint
from ts4nsnet.derp.errors import DerpError
from ts4nsnet.derp.events import Connected, Disconnected, Event, HomeLost, Received
from ts4nsnet.derp.map import Map, Node, Region
from ts4nsnet.derp.regions import Regions

__all__ = [
    "Connected",
    "DerpError",
    "Disconnected",
    "Event",
    "HomeLost",
    "Map",
    "Node",
    "Received",
    "Region",
    "Regions",
    "from_endpoint",
    "to_endpoint",
]

# SPDX-License-Identifier: BSD-3-Clause
"""A node as it is at one moment: what the node fills in and the LocalAPI shows.

What the netmap says is not said again here. The node makes a `View` only when somebody asks, so it may cost something.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ts4nsnet.control import NetMap
from ts4nsnet.keys import ZERO_KEY, PublicKey
from ts4nsnet.uring.counters import EngineStatistics


@dataclass(frozen=True, slots=True)
class PeerState:
    """What the data plane knows of a peer.

    Attributes:
        cur_addr: where packets go directly, `192.0.2.1:41641` or `[2001:db8::1]:41641`; empty: by a relay.
        rx_bytes, tx_bytes: of the tunnel's packets, since the node's start.
        last_handshake, last_write: unix seconds; None: never.
        active: a packet went to it in the last two minutes.
    """

    cur_addr: str = ""
    rx_bytes: int = 0
    tx_bytes: int = 0
    last_handshake: float | None = None
    last_write: float | None = None
    active: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """A node at this moment.

    Attributes:
        at: this moment, unix seconds.
        hostname: as configured; the name in the tailnet is in the netmap.
        node_key: the node's own; zero: it has none yet.
        netmap: None: none yet.
        ready: the container can use the network.
        leaving: the node has begun to end.
        online: the control server is connected.
        login_url: that somebody has to visit; empty: none.
        health: what does not work, one text each, for people.
        home_region: id of the relay region where peers can reach us; 0: none.
        endpoints: our own, `address:port` as in `PeerState.cur_addr`.
        exit_node: id of the peer that is our exit node; None: no exit node.
        peers: by node key; of those that are missing nothing is known.
        engine: which carries the packets; empty: none yet.
        offloads: what of the kernel's it uses, in words.
        counted: what it has counted; None: nothing yet.
    """

    at: float
    hostname: str
    node_key: PublicKey = ZERO_KEY
    netmap: NetMap | None = None
    ready: bool = False
    leaving: bool = False
    online: bool = False
    login_url: str = ""
    health: tuple[str, ...] = ()
    home_region: int = 0
    endpoints: tuple[str, ...] = ()
    exit_node: int | None = None
    peers: Mapping[PublicKey, PeerState] = field(default_factory=lambda: MappingProxyType({}))
    engine: str = ""
    offloads: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    counted: EngineStatistics | None = None

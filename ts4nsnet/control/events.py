# SPDX-License-Identifier: BSD-3-Clause
"""What the control client tells: facts for the node, and work for its adapter.

Facts are in the past tense and frozen; the node draws its conclusions. Work has a number, under which the adapter
reports back; a report on a number that is not awaited any more is ignored.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from ts4nsnet.control.http import HttpRequest
from ts4nsnet.control.netmap import NetMap, NetMapDelta
from ts4nsnet.control.node import Address
from ts4nsnet.keys import PrivateKey


class Reason(Enum):
    """Why a server refuses to register us, as far as its text tells."""

    SPENT = auto()  # a single-use key was used before
    EXPIRED = auto()  # the auth key's time is over
    INVALID = auto()  # not a key of this server
    LOCKED = auto()  # a locked tailnet wants a signature that we cannot make
    NO_KEY = auto()  # no auth key could be had for the credential
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class LoginUrlReceived:
    """Somebody has to visit this URL to let the node in; told once for each URL."""

    url: str


@dataclass(frozen=True, slots=True)
class Registered:
    """The server knows this node key: keep it, use it for WireGuard. Until now the one before was good."""

    node_key: PrivateKey
    changed: bool  # it is another one than before
    login_name: str
    display_name: str
    authorized: bool  # False: an administrator has to approve the machine


@dataclass(frozen=True, slots=True)
class RegistrationRefused:
    """The server does not let us in; we go on asking. Told again only when its text changes."""

    text: str  # the server's
    reason: Reason
    advice: str


@dataclass(frozen=True, slots=True)
class RateLimited:
    """The server wants to be left alone for a while (429); we ask again then."""

    text: str
    retry_time: float  # seconds


@dataclass(frozen=True, slots=True)
class NodeKeyExpired:
    """The time of our node key is over: peers do not talk to it any more. A new one is being registered."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A map poll runs and has brought its first map."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The map poll has ended; the last netmap stays good, and we try again for ever."""

    reason: str


@dataclass(frozen=True, slots=True)
class NetMapChanged:
    """The netmap, and what is new in it."""

    netmap: NetMap
    delta: NetMapDelta
    snapshot: bytes = field(default=b"", repr=False)  # JSON that makes this netmap anew (`read_map_response`), or b""


@dataclass(frozen=True, slots=True)
class HostTold:
    """The server has taken an update: it knows our host and endpoints, and peers are being told."""


@dataclass(frozen=True, slots=True)
class BrowserUrlReceived:
    """The server would like the user to see a page."""

    url: str


@dataclass(frozen=True, slots=True)
class PingRequested:
    """The server asks for a ping of one of our peers; `Client.answer_ping(number, …)` tells it the result."""

    number: int
    kinds: tuple[str, ...]  # some of "disco", "TSMP", "ICMP", "peerapi"
    address: Address


@dataclass(frozen=True, slots=True)
class PingResult:
    """What a ping of a peer has found; control.md 3.6."""

    kind: str  # "disco", "TSMP", "ICMP", "peerapi"
    address: str
    node_address: str = ""
    node_name: str = ""
    error: str = ""
    latency_time: float = 0.0  # seconds
    endpoint: str = ""  # where the answer came from, if directly
    derp_region_id: int = 0
    derp_region_code: str = ""
    peer_api_port: int = 0
    is_local: bool = False

    def emit(self) -> bytes:
        """The PingResponse for the server."""
        members: dict[str, object] = {
            "Type": self.kind,
            "IP": self.address,
            "NodeIP": self.node_address,
            "NodeName": self.node_name,
            "Err": self.error,
            "LatencySeconds": self.latency_time,
            "Endpoint": self.endpoint,
            "DERPRegionID": self.derp_region_id,
            "DERPRegionCode": self.derp_region_code,
            "PeerAPIPort": self.peer_api_port,
            "IsLocalIP": self.is_local,
        }
        return json.dumps({name: value for name, value in members.items() if value}).encode()


@dataclass(frozen=True, slots=True)
class LoggedOut:
    """The server has been told that this node is gone; nothing more happens."""

    confirmed: bool  # False: its answer was not understood


Event = (
    LoginUrlReceived
    | Registered
    | HostTold
    | RegistrationRefused
    | RateLimited
    | NodeKeyExpired
    | Connected
    | Disconnected
    | NetMapChanged
    | BrowserUrlReceived
    | PingRequested
    | LoggedOut
)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Make this request on a connection of its own; report by `Client.fetched`."""

    number: int
    request: HttpRequest


@dataclass(frozen=True, slots=True)
class Dial:
    """Connect; report by `connected`, `receive`, `disconnected`. One such connection is wanted at a time."""

    number: int
    host: str
    port: int
    tls: bool
    addresses: Sequence[str]  # to be tried before the name is asked for


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection that was dialled under this number."""

    number: int


Action = Fetch | Dial | HangUp

# SPDX-License-Identifier: BSD-3-Clause
"""What a client is given, and what it tells about itself when asked."""

from dataclasses import dataclass, field
from enum import Enum, auto

from ts4nsnet.control.credentials import Credential
from ts4nsnet.keys import PrivateKey, PublicKey


@dataclass(frozen=True, slots=True)
class Config:
    """Which tailnet, and how to get in."""

    control_url: str  # http(s)://host[:port]
    credential: Credential | None = None  # None: somebody visits a login URL
    ephemeral: bool = False  # ask to be deleted after going away; the key may want it anyway
    tailnet: str = ""  # of several that the user has; "required:…" for no other


@dataclass(frozen=True, slots=True)
class Identity:
    """Our keys. They are kept by the caller, who saves `node` before it is first used here."""

    machine: PrivateKey
    node: PrivateKey
    disco: PublicKey
    registered: bool = False  # `events.Registered` was once seen for `node`
    lock_seed: bytes = field(default=b"", repr=False)  # Ed25519 for a locked tailnet, 32 bytes; b"": none


class State(Enum):
    """What the client is doing, in one word."""

    CONNECTING = auto()  # no netmap yet
    REGISTERING = auto()
    NEEDS_LOGIN = auto()  # a login URL waits for a visit
    REFUSED = auto()  # the server does not let us in; we go on asking
    ONLINE = auto()  # the map poll runs
    RECONNECTING = auto()  # the netmap is old; we try again for ever
    LOGGING_OUT = auto()
    LOGGED_OUT = auto()


@dataclass(frozen=True, slots=True)
class Status:
    """The client at this moment; counters are since its start."""

    state: State
    node_key: PublicKey
    login_url: str
    last_error: str  # what went wrong last, "" for nothing
    key_expired: bool
    polls: int  # opened
    map_messages: int
    updates: int  # lite updates that the server has taken
    pings_answered: int
    pings_ignored: int

# SPDX-License-Identifier: BSD-3-Clause
"""What node and worker say to each other: commands one way, events the other.

    node → worker   Keypair, Roamed, KeysZeroed, Seal          wireguard's commands
                    RoutesSet, FilterSet, LocalTraffic,        what the worker goes by, as a whole or peer by peer
                    OffloadsSet
                    Complete                                   all of that has been told
                    Trains, Packets, Forward                   came by a relay; for the container; not for the node
    worker → node   Hello                                      the engine that runs
                    Confirmed, Roamed, RekeyWanted             wireguard's facts
                    Slow, Unsealed, Local, Message, Refused    what the pipeline does not do itself
                    OffloadRefused                             what the kernel does not do any more
                    Relayed                                    what leaves by a relay
                    Lost                                       what the node did not hear

Values are those of the pipeline and of WireGuard where these have one; the rest is here. Their bytes are in `encoding`.

Either process may die while the other goes on. So each socket between two of them begins with the whole state, which
the node tells unasked, however much of it the worker may know: where peers are, routes, filter, local traffic,
offloads, and `Complete`. A worker that is new carries nothing before that; one that is not goes on with what it had,
and forgets then what was not named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Self, TypeVar, get_args

from ts4nsnet.filter import Range, Rule
from ts4nsnet.filter.rules import Prefix
from ts4nsnet.tailnet import TAILNET_MTU
from ts4nsnet.uring.events import Local, Message, Refused, Slow, Unsealed
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.offloads import OffloadRefused, OffloadsSet
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Keypair, RekeyWanted, Seal
from ts4nsnet.wireguard.sessions import Confirmed, KeysZeroed, Roamed


@dataclass(frozen=True, slots=True)
class RoutesSet:
    """These prefixes, and no others, belong to `peer`, and its path carries packets of `mtu` bytes."""

    peer: int
    prefixes: frozenset[Prefix]
    mtu: int = TAILNET_MTU


@dataclass(frozen=True, slots=True)
class FilterSet:
    """The packet filter's rules, without their grants; the fields are arguments of `Filter.set_rules`."""

    rules: tuple[Rule, ...] = ()
    local: tuple[Prefix, ...] = ()
    sources_with: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)
    jailed: tuple[Prefix, ...] = ()

    @classmethod
    def of(
        cls,
        rules: Sequence[Rule],
        local: Sequence[Prefix],
        sources_with: Mapping[str, Sequence[Range]],
        jailed: Sequence[Prefix],
    ) -> Self:
        """From these arguments."""
        bare = tuple(replace(rule, grants=()) if rule.grants else rule for rule in rules)
        return cls(bare, tuple(local), {name: tuple(each) for name, each in sources_with.items()}, tuple(jailed))


@dataclass(frozen=True, slots=True)
class Trains:
    """What has come for this node by another way than UDP; of one peer, as what waits does so by peers."""

    trains: tuple[Train, ...]


@dataclass(frozen=True, slots=True)
class Packets:
    """Packets for the container, in their order."""

    packets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Forward:
    """A packet that was reported as `Local` and is not the node's after all."""

    packet: bytes


@dataclass(frozen=True, slots=True)
class Complete:
    """Everything that the worker goes by has been told on this socket; what was not named is no more."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker is there.

    Attributes:
        engine: which backend runs.
        note: why no better one does; empty: there is none.
    """

    engine: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Relayed:
    """A train that leaves by a relay."""

    train: Train


@dataclass(frozen=True, slots=True)
class Lost:
    """What went wrong between worker and node since it was said last.

    Attributes:
        events: for the node that were dropped, as it was busy.
        malformed: messages of the node's that the worker did not understand.
    """

    events: int
    malformed: int


ToWorker = (
    Keypair
    | Roamed
    | KeysZeroed
    | Seal
    | RoutesSet
    | FilterSet
    | LocalTraffic
    | OffloadsSet
    | Complete
    | Trains
    | Packets
    | Forward
)
ToNode = (
    Hello
    | Confirmed
    | Roamed
    | RekeyWanted
    | Slow
    | Unsealed
    | Local
    | Message
    | Refused
    | OffloadRefused
    | Relayed
    | Lost
)
Spoken = ToWorker | ToNode

Heard = TypeVar("Heard", bound=Spoken)


@dataclass(frozen=True, slots=True)
class Kinds(Generic[Heard]):
    """What one side takes."""

    types: frozenset[type]


TO_WORKER: Kinds[ToWorker] = Kinds(frozenset(get_args(ToWorker)))
TO_NODE: Kinds[ToNode] = Kinds(frozenset(get_args(ToNode)))

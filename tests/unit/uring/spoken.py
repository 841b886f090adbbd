# SPDX-License-Identifier: BSD-3-Clause
"""Everything that node and worker can say to each other, as strategies."""

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from hypothesis import strategies as st

from ts4nsnet.filter import Destination, Range, Rule
from ts4nsnet.filter.rules import Prefix
from ts4nsnet.uring.commands import (
    Complete,
    FilterSet,
    Forward,
    Hello,
    Lost,
    Packets,
    Relayed,
    RoutesSet,
    Spoken,
    ToNode,
    ToWorker,
    Trains,
)
from ts4nsnet.uring.events import Local, Message, Refused, Slow, Unsealed
from ts4nsnet.uring.local import LocalTraffic
from ts4nsnet.uring.offloads import Offload, OffloadRefused, OffloadsSet
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Keypair, RekeyWanted, Seal
from ts4nsnet.wireguard.handshake import TransportKeys
from ts4nsnet.wireguard.sessions import Confirmed, KeysZeroed, Roamed

numbers = st.integers(0, 2**32 - 1)
endpoints = st.binary(min_size=32, max_size=32)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
packets = st.binary(max_size=100)
runs = st.lists(packets, max_size=4).map(tuple)
ports = st.integers(0, 65535)


@st.composite
def prefixes(draw: st.DrawFn) -> Prefix:
    address = draw(addresses)
    return ip_network((address, draw(st.integers(0, 8 * len(address)))), strict=False)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    version = draw(st.sampled_from([4, 6]))
    ends = st.integers(0, 2 ** (32 if version == 4 else 128) - 1)
    return Range(version, draw(ends), draw(ends))


def tuples(of: st.SearchStrategy[Any], most: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=most).map(tuple)


@st.composite
def rules(draw: st.DrawFn, sources: Sequence[tuple[Range, ...]]) -> Rule:
    destinations = st.builds(Destination, ranges(), ports, ports)
    return Rule(
        draw(st.sampled_from(sources)),
        draw(tuples(st.text())),
        draw(tuples(destinations)),
        draw(tuples(st.integers(0, 255))),
    )


@st.composite
def filter_sets(draw: st.DrawFn) -> FilterSet:
    sources = draw(st.lists(tuples(ranges()), min_size=1, max_size=3))
    return FilterSet(
        draw(tuples(rules(sources))),
        draw(tuples(prefixes())),
        draw(st.dictionaries(st.text(), tuples(ranges()), max_size=3)),
        draw(tuples(prefixes())),
    )


@st.composite
def trains(draw: st.DrawFn) -> Train:
    return Train.received(draw(packets), draw(st.integers(1, 50)), draw(endpoints))


keys = st.binary(min_size=32, max_size=32)
keypairs = st.builds(
    Keypair,
    numbers,
    numbers,
    numbers,
    st.builds(TransportKeys, keys, keys),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
)
local_traffic = st.builds(
    LocalTraffic, st.frozensets(addresses, max_size=3), st.booleans(), st.frozensets(numbers, max_size=3)
)
to_worker: st.SearchStrategy[ToWorker] = st.one_of(
    keypairs,
    st.builds(Roamed, numbers, endpoints),
    st.builds(KeysZeroed, numbers),
    st.builds(Seal, numbers, runs),
    st.builds(RoutesSet, numbers, st.frozensets(prefixes(), max_size=4), st.integers(1280, 65535)),
    filter_sets(),
    local_traffic,
    st.builds(OffloadsSet, st.frozensets(st.sampled_from(Offload)), st.booleans()),
    st.just(Complete()),
    st.builds(Trains, tuples(trains())),
    st.builds(Packets, runs),
    st.builds(Forward, packets),
)
to_node: st.SearchStrategy[ToNode] = st.one_of(
    st.builds(Hello, st.text(), st.text()),
    st.builds(Confirmed, numbers),
    st.builds(Roamed, numbers, endpoints),
    st.builds(RekeyWanted, numbers),
    st.builds(Slow, packets, endpoints),
    st.builds(Unsealed, numbers, runs),
    st.builds(Local, packets),
    st.builds(Message, numbers, packets),
    st.builds(Refused, addresses),
    st.builds(OffloadRefused, st.sampled_from(Offload), st.integers(0, 2**16 - 1)),
    st.builds(Relayed, trains()),
    st.builds(Lost, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)
either: st.SearchStrategy[Spoken] = to_worker | to_node


def shown(message: Spoken) -> Spoken:
    """A message as it can be compared: a train's payload is bytes, in one piece or in several."""
    match message:
        case Relayed(train):
            return Relayed(_in_one_piece(train))
        case Trains(several):
            return Trains(tuple(map(_in_one_piece, several)))
    return message


def _in_one_piece(train: Train) -> Train:
    return train._replace(payload=[b"".join(train.payload)])

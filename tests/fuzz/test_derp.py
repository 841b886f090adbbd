# SPDX-License-Identifier: BSD-3-Clause
"""DERP against bytes from outside: mutants of valid streams, cut anywhere. Nothing but `Malformed` leaves a parser,
nothing at all leaves a `Client`."""

import json
from contextlib import suppress
from random import Random

from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import Box
from nacl.public import PrivateKey as BoxPrivateKey
from nacl.public import PublicKey as BoxPublicKey

from tests.mutants import mutants
from tests.unit.derp.certificates import issue, metacert
from tests.unit.derp.relays import BOB, CLIENT, SERVER, World, at
from ts4nsnet.derp import from_endpoint
from ts4nsnet.derp.client import Client, Phase
from ts4nsnet.derp.errors import Malformed
from ts4nsnet.derp.events import Disconnected
from ts4nsnet.derp.frames import (
    CLIENT_LIMITS,
    SERVER_LIMITS,
    ClientInfo,
    FrameBuffer,
    Health,
    KeepAlive,
    PeerGone,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
    SendPacket,
    ServerInfo,
    ServerKey,
    parse,
)
from ts4nsnet.derp.hello import ClientDetails, ServerDetails
from ts4nsnet.derp.metacert import server_key, without_metacerts

RANDOM = Random(1).randbytes
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n\r\n"
SERVER_INFO = ServerDetails(bytes_per_second=1000, burst_bytes=9).seal(SERVER, CLIENT.public, RANDOM)
CLIENT_INFO = ClientDetails().seal(CLIENT, SERVER.public, RANDOM)
FRAMES = [
    ServerKey(SERVER.public).emit(),
    SERVER_INFO.emit(),
    RecvPacket(BOB, b"packet").emit(),
    KeepAlive().emit(),
    PeerGone(BOB, 1).emit(),
    Ping(b"12345678").emit(),
    Pong(b"12345678").emit(),
    Health("bad").emit(),
    Restarting(1, 2).emit(),
    SendPacket(BOB, b"packet").emit(),
    CLIENT_INFO.emit(),
    b"\x77\0\0\0\3abc",
]
CHAIN = [issue("relay.example").der, metacert(SERVER.public).public_bytes(Encoding.DER)]


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """What a relay might say, in the pieces in which it arrives."""
    order = draw(st.lists(st.sampled_from(FRAMES), max_size=8))
    hello = draw(st.sampled_from([b"", ANSWER, ANSWER + FRAMES[0], ANSWER + FRAMES[0] + FRAMES[1]]))
    data = draw(mutants(hello + b"".join(order)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(streams(), st.booleans(), st.booleans())
def test_a_client_takes_whatever_a_relay_says(pieces: list[bytes], fast: bool, ends: bool) -> None:
    client = Client(1, CLIENT, RANDOM, at(0), host="relay", server_key=SERVER.public if fast else None, preferred=True)
    for n, piece in enumerate([*filter(None, pieces), *[b""][: not ends]]):
        client.receive(piece, at(n))
        client.send(BOB, b"packet", at(n))
        client.probe(at(n))
        client.data_to_send()
        client.handle_timer(at(n))
    events = list(iter(client.next_event, None))
    closed = client.statistics().phase is Phase.CLOSED
    assert [isinstance(event, Disconnected) for event in events] == [False] * (len(events) - closed) + [True] * closed


@given(st.lists(streams(), min_size=1, max_size=4))
def test_regions_carry_on_whatever_relays_say(sayings: list[list[bytes]]) -> None:
    world = World(home=1)
    for pieces in sayings:
        for piece in filter(None, pieces):
            for connection in list(world.live):
                world.regions.receive(connection, piece, world.now)
                world.regions.data_to_send(connection, world.now)
            world.regions.handle_timer(world.now)
        world.stuck = {1}  # the relay takes nothing any more, so it answers nothing
        world.settle()
        world.run_for(11, keep_alive=False)
        world.stuck = set()
        world.settle()
    assert [link.region_id for link in world.regions.statistics().links] == [1]


@given(st.sampled_from(FRAMES).flatmap(mutants), st.sampled_from([CLIENT_LIMITS, SERVER_LIMITS]))
def test_a_frame_is_read_or_malformed(data: bytes, limits: dict[int, int]) -> None:
    buffer = FrameBuffer(limits)
    buffer.receive(data)
    with suppress(Malformed):
        while (frame := buffer.next_frame()) is not None:
            with suppress(Malformed):
                parse(*frame)


@given(st.binary(max_size=100), st.integers(0, 255))
def test_any_payload_of_any_type_is_read_or_malformed(payload: bytes, kind: int) -> None:
    with suppress(Malformed):
        parse(kind, payload)


@given(mutants(SERVER_INFO.sealed), mutants(CLIENT_INFO.sealed))
def test_a_sealed_box_is_opened_or_malformed(server_sealed: bytes, client_sealed: bytes) -> None:
    with suppress(Malformed):
        ServerDetails.open(ServerInfo(server_sealed), CLIENT, SERVER.public)
    with suppress(Malformed):
        ClientDetails.open(ClientInfo(CLIENT.public, client_sealed), SERVER)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_whatever_json_is_in_the_box_is_read_or_malformed(value: object) -> None:
    box = Box(BoxPrivateKey(SERVER.private_bytes()), BoxPublicKey(CLIENT.public.raw))
    for field in ("version", "TokenBucketBytesPerSecond", "TokenBucketBytesBurst"):
        for text in (json.dumps({field: value}), json.dumps(value)):
            with suppress(Malformed):
                ServerDetails.open(ServerInfo(bytes(box.encrypt(text.encode()))), CLIENT, SERVER.public)


@given(st.sampled_from(CHAIN).flatmap(mutants), st.binary(max_size=200))
def test_certificates_are_read_or_passed_over(der: bytes, noise: bytes) -> None:
    server_key([noise, der])
    without_metacerts([noise, der])


@given(st.binary(min_size=32, max_size=32))
def test_any_endpoint_is_relayed_or_not(endpoint: bytes) -> None:
    found = from_endpoint(endpoint)
    assert found is None or (found[0] > 0 and len(found[1]) == 24)

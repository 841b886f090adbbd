# SPDX-License-Identifier: BSD-3-Clause
"""Disco against bytes from outside: what was sealed, whole datagrams, and what a peer with a key may say. Nothing but
`Malformed` leaves the codec, nothing at all leaves a `Conn`; beside it, the kernel's messages cut anywhere."""

import struct
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st
from nacl.public import Box
from nacl.public import PrivateKey as BoxPrivateKey
from nacl.public import PublicKey as BoxPublicKey

from tests.mutants import mutants
from tests.unit.magicsock.net import Host, Net, at
from ts4nsnet.magicsock.disco import MAGIC, CallMeMaybe, Malformed, Ping, Pong, is_disco, parse
from ts4nsnet.magicsock.netlink import Message, error, interfaces, outgoing_interface
from ts4nsnet.magicsock.netlink import parse as parse_netlink

NONCE = bytes(24)


def two() -> tuple[Net, Host, Host]:
    net = Net()
    alice, bob = net.host("alice"), net.host("bob")
    net.introduce()
    return net, alice, bob


_, ALICE, BOB = two()
SEALED = [
    Ping(bytes(range(12)), BOB.key).emit(),
    Ping(bytes(range(12)), None, 40).emit(),
    Pong(bytes(range(12)), at("192.0.2.1")).emit(),
    CallMeMaybe((at("192.0.2.3"), at("2001:db8::1"))).emit(),
    bytes([4, 0]) + bytes(72),
]


PAYLOADS = st.one_of(st.binary(max_size=200), st.sampled_from(SEALED).flatmap(lambda valid: mutants(valid, 20)))


def datagram(payload: bytes, alice: Host, bob: Host) -> bytes:
    """What Bob would send Alice if this were a message."""
    box = Box(BoxPrivateKey(bob.disco_key.private_bytes()), BoxPublicKey(alice.disco_key.public.raw))
    return MAGIC + bob.disco_key.public.raw + bytes(box.encrypt(payload, NONCE))


@given(PAYLOADS)
def test_what_was_sealed_is_read_or_malformed(payload: bytes) -> None:
    with suppress(Malformed):
        assert parse(parse(payload).emit()) == parse(payload)


@given(st.lists(st.tuples(PAYLOADS, st.booleans()), max_size=8))
def test_a_conn_takes_whatever_a_peer_says(sayings: list[tuple[bytes, bool]]) -> None:
    net, alice, bob = two()
    alice.send(bob)
    for payload, relayed in sayings:
        source, sender = (bob.relay, bob.key) if relayed else (bob.endpoints[0], None)
        alice.conn.receive(datagram(payload, alice, bob), source, net.now, sender)
        net.settle()
        net.run(1)
    net.run(10, traffic=(alice, bob))
    assert alice.is_direct(bob)


@given(
    st.one_of(st.binary(max_size=200), mutants(datagram(SEALED[0], ALICE, BOB))), st.binary(min_size=32, max_size=32)
)
def test_a_conn_takes_whatever_a_stranger_sends(data: bytes, source: bytes) -> None:
    net, alice, bob = two()
    alice.conn.receive(data, source, net.now)
    alice.conn.receive(data, source, net.now, bob.key)
    assert is_disco(data) in (True, False)
    alice.send(bob)
    net.run(1)
    assert alice.is_direct(bob)


NETLINK = [
    struct.pack("=IHHII", 44, 16, 0, 1, 0)
    + struct.pack("=BxHiII", 0, 1, 2, 0x41, 0)
    + struct.pack("=HH6sxx", 10, 3, b"eth0\0\0"),
    struct.pack("=IHHIIBBBBI", 32, 20, 0, 1, 0, 2, 24, 0, 0, 2) + struct.pack("=HH4s", 8, 1, bytes(4)),
    struct.pack("=IHHII", 36, 24, 0, 1, 0) + bytes(12) + struct.pack("=HHi", 8, 4, 2),
    struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -101),
]


@given(st.lists(st.sampled_from(NETLINK).flatmap(lambda valid: mutants(valid, 20)), max_size=4))
def test_whatever_the_kernel_says_is_read_or_passed_over(pieces: list[bytes]) -> None:
    messages = list(parse_netlink(b"".join(pieces)))
    assert len(interfaces(messages)) <= len(messages)
    for message in [*messages, Message(24, 1, b"".join(pieces)), Message(2, 1, b"".join(pieces))]:
        error(message)
        outgoing_interface(message)

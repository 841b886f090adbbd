# SPDX-License-Identifier: BSD-3-Clause
"""The compiled pipeline: every test of its twin, and both side by side."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.packets import frame
from tests.unit.uring import pipelines, test_passing
from tests.unit.uring import test_reference as twin
from tests.unit.uring.pipelines import Net
from tests.unit.wireguard.pair import MTU
from ts4nsnet.packet import ACK, FIN, ICMP, SYN, TCP, IPv4, IPv6, Protocol, carry
from ts4nsnet.uring.counters import Drop
from ts4nsnet.uring.events import Slow
from ts4nsnet.uring.offloads import Offload, OffloadsSet
from ts4nsnet.uring.reference import Reference
from ts4nsnet.uring.trains import Train
from ts4nsnet.wireguard import Seal, SessionTable

pipeline = pytest.importorskip("ts4nsnet.uring.pipeline", reason="the engine is not compiled")
sessions = pytest.importorskip("ts4nsnet.uring.sessions", reason="the engine is not compiled")

for module in (twin, test_passing):
    globals().update({name: value for name, value in vars(module).items() if name.startswith("test_")})


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelines, "Reference", pipeline.Pipeline)
    monkeypatch.setattr(pipelines, "SessionTable", sessions.Sessions)


# --- both side by side ------------------------------------------------------------------------------------------------


def pair() -> tuple[Net, Net]:
    """The same net twice, with the same keys: of compiled pipelines, and of their twins."""
    compiled = twin.connected(*twin.TWO)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipelines, "Reference", Reference)
        patch.setattr(pipelines, "SessionTable", SessionTable)
        return compiled, twin.connected(*twin.TWO)


def ends(six: bool) -> tuple[bytes, bytes]:
    return (twin.ALICE6, twin.BOB6) if six else (twin.ALICE, twin.BOB)


def datagram(size: int, port: int, six: bool) -> bytes:
    return frame(twin.udp(*ends(six), bytes(size), port))


def bulk(size: int, gso_size: int, six: bool) -> bytes:
    return twin.tcp_superpacket(*ends(six), size, gso_size)


def segment(flags: int, size: int) -> bytes:
    return frame(carry(IPv4(*ends(six=False), 6), TCP(1, 2, 3, 4, flags, payload=bytes(size))))


Recipe = tuple[Any, ...]  # a maker of a frame, and its arguments
FRAMES: st.SearchStrategy[Recipe] = st.one_of(
    st.tuples(
        st.just(datagram),
        st.sampled_from([0, 1, 15, 16, 17, 500, 1000, 1392, 1393, 1420, 1421, 3000]),
        st.integers(1, 2),
        st.booleans(),
    ),
    st.tuples(
        st.just(bulk),
        st.one_of(st.integers(1, 5000), st.integers(1, 65000)),
        st.sampled_from([100, 536, 1000, 1348, 1380, 9000]),
        st.booleans(),
    ),
    st.tuples(st.just(segment), st.sampled_from([ACK, SYN, ACK | FIN]), st.integers(0, 3000)),
    st.just((frame, twin.udp(twin.ALICE, twin.CAROL))),  # nobody's
    st.just((frame, twin.udp(twin.CAROL, twin.BOB))),  # from an address that is not alice's
    st.tuples(st.just(bytes), st.binary(max_size=60)),
)
TURNS = st.lists(
    st.tuples(st.sampled_from(["keep", "keep", "keep", "lose", "twice", "swap", "damage"]), st.integers(0, 200)),
    max_size=8,
)
WIDTHS = (0, 1536, 1664, 8920, 65456)

WANTED = st.one_of(
    st.just(OffloadsSet()), st.builds(OffloadsSet, st.frozensets(st.sampled_from(Offload)), st.booleans())
)


def test_the_same_bytes_leave_and_arrive() -> None:
    hit: set[tuple[int, str]] = set()

    @settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(FRAMES, max_size=12), TURNS, st.sampled_from(WIDTHS), WANTED)
    def same(recipes: list[Recipe], turns: list[tuple[str, int]], mtu: int, wanted: OffloadsSet) -> None:
        seen = []
        for net in pair():
            alice, bob = net.nodes
            alice.widen(bob, mtu)
            for node in net.nodes:
                node.pipeline.switch(wanted)
            alice.read(*(make(*arguments) for make, *arguments in recipes))
            sent = [(b"".join(train.payload), train.segment_bytes, train.datagram_count) for train in alice.out]
            arriving = [Train.received(payload, size, alice.endpoint) for payload, size, _ in sent]
            for turn, number in turns:
                misplace(arriving, turn, number)
            bob.receive(*arriving)
            counters = [node.pipeline.counters.statistics() for node in net.nodes]
            seen.append((sent, bob.written, alice.written, bob.slow, counters, alice.refused(), bob.refused()))
        assert seen[0] == seen[1]
        longest = max((size for _, size, _ in seen[0][0]), default=0)
        hit.add((mtu, "as long as it may be" if longest == max(mtu, MTU) + 32 else "shorter"))
        hit.update((mtu, "written so that it can be cut") for written in seen[0][1] if written[1])
        hit.update((mtu, "told that it is too long") for _ in seen[0][2])

    same()
    whats = "as long as it may be", "shorter", "written so that it can be cut", "told that it is too long"
    # nothing here is as long as the widest path takes, nor too long for the next
    assert hit >= {(mtu, what) for mtu in WIDTHS for what in whats if mtu <= 1664 or "written" in what}


def misplace(trains: list[Train], turn: str, number: int) -> None:
    """Let a network do something to one of the trains."""
    if not trains:
        return
    at = number % len(trains)
    match turn:
        case "lose":
            trains.pop(at)
        case "twice":
            trains.append(trains[at])
        case "swap":
            trains.insert(0, trains.pop(at))
        case "damage":
            payload = bytearray(b"".join(trains[at].payload))
            payload[number % len(payload)] ^= 1
            trains[at] = Train.received(bytes(payload), trains[at].segment_bytes, trains[at].endpoint)


# --- the judge --------------------------------------------------------------------------------------------------------


def own(node: pipelines.Node) -> Any:
    """The node's pipeline, which here is a compiled one."""
    return node.pipeline


class Judge:
    """Accepts what it is told to, and remembers what it was asked."""

    def __init__(self, number: int | None = None) -> None:
        self.version = 1
        self.number = number  # of the peer that all packets of the container's are for
        self.accepts = True
        self.asked: list[bytes] = []

    def outbound(self, packets: list[bytes], peer: int | None, _now: float) -> int | None:
        self.asked.append(packets[0])
        return peer if self.number is None else self.number

    def inbound(self, packet: bytes, _peer: int, _now: float) -> bool:
        self.asked.append(packet)
        return self.accepts


TCP_ONE, TCP_SYN = (carry(IPv4(twin.ALICE, twin.BOB, 6), TCP(1, 2, 3, 4, flags, payload=b"x")) for flags in (ACK, SYN))


def ping(identifier: int = 1, kind: int = 8, code: int = 0) -> bytes:
    message = ICMP(kind, code, identifier.to_bytes(2) + b"\0\1")
    return carry(IPv4(twin.ALICE, twin.BOB, Protocol.ICMP), message)


def ping6(kind: int = 128) -> bytes:
    return carry(IPv6(twin.ALICE6, twin.BOB6, Protocol.ICMPV6), ICMP(kind, 0))


ALWAYS, A_SECOND, A_MINUTE = 0.0, 1.0, 60.0


@pytest.mark.parametrize(
    ("packet", "time"),
    [
        (TCP_ONE, A_MINUTE),
        (TCP_SYN, ALWAYS),
        (twin.udp(twin.ALICE, twin.BOB), A_SECOND),
        (twin.udp(twin.ALICE6, twin.BOB6), A_SECOND),
        (ping(), A_MINUTE),
        (ping(kind=0), A_MINUTE),
        (ping6(), A_MINUTE),
        (ping6(kind=129), A_MINUTE),
        (ping(code=1), ALWAYS),
        (ping(kind=3), ALWAYS),
        (ping6(kind=1), ALWAYS),
        (
            IPv6(twin.ALICE6, twin.BOB6, Protocol.ICMP, payload=bytes([8]) + bytes(7)).emit(),
            ALWAYS,
        ),  # not of its family
        (IPv4(twin.ALICE, twin.BOB, Protocol.ICMPV6, payload=bytes([128]) + bytes(7)).emit(), ALWAYS),
        (IPv4(twin.ALICE, twin.BOB, 47, payload=bytes(20)).emit(), ALWAYS),
    ],
)
def test_how_often_a_flow_is_asked_about(packet: bytes, time: float) -> None:
    net = twin.connected(*twin.TWO)
    alice, bob = net.nodes
    judges = Judge(), Judge()
    for node, judge in zip(net.nodes, judges, strict=True):
        own(node).judge = judge

    def asked() -> set[int]:
        alice.read(frame(packet))
        net.deliver()
        return {len(judge.asked) for judge in judges}

    assert [asked() for _ in range(3)] == ([{1}, {2}, {3}] if time == ALWAYS else [{1}] * 3)
    for node in net.nodes:
        node.now += time - 0.01
    assert asked() == ({4} if time == ALWAYS else {1})
    for node in net.nodes:
        node.now += 0.02
    assert asked() == ({5} if time == ALWAYS else {2})
    assert len(bob.packets()) == 5


def test_each_ping_program_is_asked_about() -> None:
    net = twin.connected(*twin.TWO)
    alice, _ = net.nodes
    judge = own(alice).judge = Judge()
    alice.read(*(frame(ping(identifier)) for identifier in (1, 2, 1, 2, 3)))
    assert judge.asked == [ping(1), ping(2), ping(3)]


def test_what_the_judge_goes_by_has_changed() -> None:
    net = twin.connected(*twin.TWO)
    alice, bob = net.nodes
    judge = own(bob).judge = Judge()
    alice.read(frame(TCP_ONE))
    net.deliver()
    judge.accepts = False
    alice.read(frame(TCP_ONE))
    net.deliver()
    assert len(bob.packets()) == 2  # not asked again
    judge.version += 1
    alice.read(frame(TCP_ONE))
    net.deliver()
    assert len(bob.packets()) == 2
    assert len(judge.asked) == 2


def test_the_judge_is_asked_about_what_nobody_owns_and_what_is_too_long() -> None:
    net = twin.connected(*twin.TWO)
    alice, bob = net.nodes
    judge = own(alice).judge = Judge(alice.peers[bob.endpoint])
    strange, long = twin.udp(twin.ALICE, twin.CAROL), twin.udp(twin.ALICE, twin.BOB, bytes(1500))
    alice.read(frame(strange), frame(strange), frame(long), frame(long))
    assert judge.asked == [strange, strange, long, long]
    assert sum(train.datagram_count for train in alice.out) == 4


def test_what_the_judge_says_and_does() -> None:
    net = twin.connected(*twin.TWO)
    alice, bob = net.nodes

    class Refusing(Judge):
        def outbound(self, packets: list[bytes], _peer: int | None, now: float) -> int | None:
            own(alice).drop(Drop.NO_ROUTE, len(packets))
            own(alice).emit(Slow(b"a matter for the node", bytes(32)))
            own(alice).write([b"an answer"])
            alice.pipeline.apply(Seal(alice.peers[bob.endpoint], (ping(),)), now)
            return None

    own(alice).judge = Refusing()
    alice.read(twin.tcp_superpacket(twin.ALICE, twin.BOB, 2500, 1000))
    assert alice.dropped() == {Drop.NO_ROUTE: 3}
    assert alice.slow[-1].datagram == b"a matter for the node"
    assert alice.written == [frame(b"an answer")]
    net.deliver()
    assert bob.packets() == [ping()]

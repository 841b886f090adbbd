# SPDX-License-Identifier: BSD-3-Clause
"""The compiled splitter and coalescer beside their twins: the same input, the same bytes."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.packets import FLOW4, frame, superpacket
from tests.unit.uring.test_coalesce import MERGED, STEP, build, on4
from tests.unit.uring.test_segment import CASES, GOOD_TCP, GOOD_UDP, IPS, REFUSED, TCPS, UDPS, mutants
from ts4nsnet.packet import ACK, CWR, FIN, PSH, SYN, TCP, UDP, IPv4, IPv6, Malformed, carry
from ts4nsnet.uring.coalesce import coalesce as coalesce_twin
from ts4nsnet.uring.segment import VNET_HEADER_BYTES, Gso, VnetHeader
from ts4nsnet.uring.segment import segment as segment_twin

offload = pytest.importorskip("ts4nsnet.uring.offload", reason="the engine is not compiled")

# more than the profile asks for: a call costs little, and the twins must agree everywhere
THOROUGH = settings(max_examples=3000)


def outcome(segment: object, frame: bytes, mtu: int = 65535, *, coarse: bool = False) -> list[bytes] | None:
    """What becomes of a frame; None when it is malformed."""
    assert callable(segment)
    try:
        packets: list[bytes] = segment(frame, mtu, coarse=coarse)
    except Malformed:
        return None
    return packets


def same_segments(frame: bytes) -> None:
    for mtu, coarse in ((65535, False), (61, False), (130, True), (9999, True)):
        twins = outcome(segment_twin, frame, mtu, coarse=coarse)
        assert outcome(offload.segment, frame, mtu, coarse=coarse) == twins


@pytest.mark.parametrize("frame", [pytest.param(case[1], id=case[0]) for case in CASES])
def test_every_case(frame: bytes) -> None:
    assert outcome(offload.segment, frame) is not None
    same_segments(frame)


@pytest.mark.parametrize("frame", [pytest.param(case[2], id=case[0]) for case in REFUSED])
def test_every_refusal(frame: bytes) -> None:
    assert outcome(offload.segment, frame) is None


@pytest.mark.parametrize("frame", [GOOD_TCP, GOOD_UDP])
def test_every_mutant(frame: bytes) -> None:
    for mutant in mutants(frame):
        same_segments(mutant)


def test_any_superpacket() -> None:
    hit: set[object] = set()

    @THOROUGH
    @given(IPS, st.one_of(TCPS, UDPS), st.integers(1, 201))
    def same(ip: IPv4 | IPv6, inner: TCP | UDP, size: int) -> None:
        kind = Gso.UDP_L4 if isinstance(inner, UDP) else Gso.TCPV4 if isinstance(ip, IPv4) else Gso.TCPV6
        same_segments(superpacket(ip, inner, kind, size))
        more = ip.options if isinstance(ip, IPv4) else ip.extensions
        hit.add((type(ip), type(inner), bool(more), "one" if size >= len(inner.payload) else "many"))
        hit.add("even" if len(inner.payload) % size == 0 else "a shorter one last")
        if isinstance(inner, TCP):
            hit.update({("options", bool(inner.options)), ("cwr, fin, psh", inner.flags & (CWR | FIN | PSH))})

    same()
    kinds: set[object] = set(product((IPv4, IPv6), (TCP, UDP), (False, True), ("one", "many")))
    flags: set[object] = {("cwr, fin, psh", a | b | c) for a, b, c in product((0, CWR), (0, FIN), (0, PSH))}
    lasts: set[object] = {"even", "a shorter one last", ("options", False), ("options", True)}
    assert hit >= kinds | flags | lasts


@THOROUGH
@given(
    st.one_of(st.binary(max_size=100), st.sampled_from([each[1][10:] for each in CASES])),
    st.sampled_from([0, 1]),
    st.sampled_from([0, 1, 4, 5, 0x81]),
    st.integers(0, 60),
    st.sampled_from([6, 16]),
)
def test_any_frame(packet: bytes, flags: int, gso_type: int, start: int, offset: int) -> None:
    same_segments(VnetHeader(flags, gso_type, 0, 8, start, offset).emit() + packet)


def test_any_packets_for_any_path() -> None:
    hit: set[object] = set()

    flags = st.sampled_from([ACK, ACK | PSH, ACK | FIN, SYN])
    tcps = st.builds(lambda flags, size: TCP(1, 2, 3, 4, flags, 5, bytes(size)), flags, st.integers(1, 400))
    udps = st.builds(lambda size: UDP(1, 2, bytes(size)), st.integers(1, 400))

    @THOROUGH
    @given(IPS, st.one_of(tcps, udps), st.integers(0, 201), st.integers(20, 300), st.booleans())
    def same(ip: IPv4 | IPv6, inner: TCP | UDP, size: int, mtu: int, coarse: bool) -> None:
        kind = Gso.UDP_L4 if isinstance(inner, UDP) else Gso.TCPV4 if isinstance(ip, IPv4) else Gso.TCPV6
        data = superpacket(ip, inner, kind, size) if size else frame(carry(ip, inner))
        packets = outcome(segment_twin, data, mtu, coarse=coarse)
        assert outcome(offload.segment, data, mtu, coarse=coarse) == packets
        before, after = outcome(segment_twin, data) or [], packets or []
        change = (len(after) > len(before)) - (len(after) < len(before))
        hit.add((type(ip), type(inner), "lone" if not size else "super", change))

    same()
    cut = {(ip, TCP, kind, 1) for ip in (IPv4, IPv6) for kind in ("lone", "super")}
    merged = {(ip, TCP, "super", -1) for ip in (IPv4, IPv6)}
    alike = {(ip, inner, kind, 0) for ip in (IPv4, IPv6) for inner in (TCP, UDP) for kind in ("lone", "super")}
    assert hit == cut | merged | alike


def test_the_longest_superpacket() -> None:
    same_segments(superpacket(FLOW4, TCP(1, 2, 3, payload=bytes(range(256)) * 255), Gso.TCPV4, 1))


@pytest.mark.parametrize("packets", [pytest.param(case[1], id=case[0]) for case in MERGED])
def test_every_batch(packets: list[bytes]) -> None:
    assert offload.coalesce(packets) == coalesce_twin(packets)


def test_any_batch() -> None:
    hit = set()

    @THOROUGH
    @given(st.lists(STEP, max_size=60), st.booleans(), st.booleans(), st.sampled_from([90, 120, 1280]))
    def same(steps: list[tuple[int, int, str]], tcp: bool, udp: bool, mtu: int) -> None:
        packets = build(steps)
        frames = offload.coalesce(packets, tcp=tcp, udp=udp, mtu=mtu)
        assert frames == coalesce_twin(packets, tcp=tcp, udp=udp, mtu=mtu)
        for data in frames:
            vnet = VnetHeader.parse(data)
            hit.add((vnet.gso_type, data[VNET_HEADER_BYTES] >> 4))

    same()
    assert hit == {(Gso.NONE, 4), (Gso.NONE, 6), (Gso.TCPV4, 4), (Gso.TCPV6, 6), (Gso.UDP_L4, 4), (Gso.UDP_L4, 6)}


@THOROUGH
@given(st.lists(st.sampled_from(build([(flow, 40, "") for flow in range(6)])), min_size=2), st.data())
def test_batches_of_damaged_packets(packets: list[bytes], data: st.DataObject) -> None:
    damaged = []
    for packet in packets:
        at = data.draw(st.integers(0, len(packet) - 1))
        damaged.append(packet[:at] + bytes([data.draw(st.integers(0, 255))]) + packet[at + 1 :])
    assert offload.coalesce(damaged) == coalesce_twin(damaged)


def test_a_batch_has_an_end() -> None:
    packets = on4(*[UDP(1, 2, b"x")] * 4096)
    assert offload.coalesce(packets) == coalesce_twin(packets)
    with pytest.raises(ValueError, match="at most 4096"):
        offload.coalesce([*packets, b"?"])

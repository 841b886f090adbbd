# SPDX-License-Identifier: BSD-3-Clause
"""Flows: what is remembered, and what is forgotten first."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.filter.cases import OTHER4, PEER4, PEER6, SELF4, SELF6
from ts4nsnet.filter.flows import MAX_FLOWS, Flows

PORTS = bytes.fromhex("1388 0035")  # 5000 to 53
ANSWER = bytes.fromhex("0035 1388")


def test_an_answer_is_the_flow_turned_about() -> None:
    flows = Flows()
    flows.note(17, SELF4, PEER4, PORTS)
    assert flows.has(17, PEER4, SELF4, ANSWER)
    assert not flows.has(17, SELF4, PEER4, PORTS)
    assert not flows.has(17, PEER4, SELF4, PORTS)
    assert not flows.has(17, OTHER4, SELF4, ANSWER)


def test_protocols_and_families_are_apart() -> None:
    flows = Flows()
    flows.note(132, SELF4, PEER4, PORTS)
    flows.note(17, SELF6, PEER6, PORTS)
    assert flows.has(132, PEER4, SELF4, ANSWER)
    assert not flows.has(17, PEER4, SELF4, ANSWER)
    assert flows.has(17, PEER6, SELF6, ANSWER)


def ports_of(number: int) -> bytes:
    return number.to_bytes(4, "big")


def has(flows: Flows, number: int) -> bool:
    ports = ports_of(number)
    return flows.has(17, PEER4, SELF4, ports[2:] + ports[:2])


def test_those_unused_for_longest_are_forgotten() -> None:
    flows = Flows(limit=4)
    for number in (1, 2, 3, 4):
        flows.note(17, SELF4, PEER4, ports_of(number))
    assert len(flows) == 4
    assert has(flows, 1)  # an answer is use
    assert not has(flows, 2)
    flows.note(17, SELF4, PEER4, ports_of(3))  # and so is one more packet
    flows.note(17, SELF4, PEER4, ports_of(5))
    assert [has(flows, number) for number in (1, 3, 4, 5)] == [True, True, False, True]


def test_there_is_room_for_many() -> None:
    flows = Flows()
    for number in range(MAX_FLOWS):
        flows.note(17, SELF4, PEER4, ports_of(number))
    assert len(flows) == MAX_FLOWS == 65536
    assert has(flows, 0)
    for number in range(MAX_FLOWS, 3 * MAX_FLOWS):
        flows.note(17, SELF4, PEER4, ports_of(number))
        assert len(flows) <= MAX_FLOWS
    flows.clear()
    assert len(flows) == 0
    assert not has(flows, 3 * MAX_FLOWS - 1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60), st.integers(1, 4))
def test_the_half_used_last_is_there(steps: list[tuple[bool, int]], half: int) -> None:
    flows, used = Flows(2 * half), list[int]()  # those last used at the end
    for leaves, number in steps:
        if leaves:
            flows.note(17, SELF4, PEER4, ports_of(number))
        else:
            found = has(flows, number)
            assert found or number not in used[-half:]
            assert number in used or not found
        if leaves or found:
            used = [*(each for each in used if each != number), number]
        elif number in used:
            used.remove(number)
        assert min(half, len(used)) <= len(flows) <= 2 * half

# SPDX-License-Identifier: BSD-3-Clause
"""Compiled rules, against rules one by one; and the tables, against what they are made of."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.filter import oracle
from tests.unit.filter.cases import LOCAL, OTHER4, OTHER6, PEER4, PEER6, SELF4, SELF6, SUBNET4, rule, rules
from ts4nsnet.filter import Range, parse_ranges
from ts4nsnet.filter.matcher import LOCAL as LOCAL_BIT
from ts4nsnet.filter.matcher import Intervals, Matcher
from ts4nsnet.filter.rules import Rule

SPANS = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 255)).map(lambda pair: (min(pair), max(pair))), max_size=4
)
ENDS = [ip_address(each) for each in (SELF4, PEER4, OTHER4, SELF6, PEER6, OTHER6, SUBNET4)]
WITH = {"a": parse_ranges("100.64.0.3"), "b": parse_ranges("fd7a:115c:a1e0::3")}


def bits(spans: list[tuple[int, int]], value: int) -> bool:
    return any(first <= value <= last for first, last in spans)


@given(st.lists(SPANS, max_size=5), SPANS)
def test_a_value_has_the_bits_of_what_it_is_in(
    groups: list[list[tuple[int, int]]], blocked: list[tuple[int, int]]
) -> None:
    table = Intervals.build(1, ((spans, 1 << number) for number, spans in enumerate(groups)), blocked)
    for value in range(256):
        expected = sum(bits(spans, value) << number for number, spans in enumerate(groups))
        assert table.find(bytes([value])) == (0 if bits(blocked, value) else expected)
    assert list(table.starts) == sorted(set(table.starts))
    assert table.starts[0] == b"\0"
    assert all(one != other for one, other in zip(table.masks, table.masks[1:], strict=False))


def test_the_last_value_of_a_dimension_has_no_end() -> None:
    table = Intervals.build(4, [([(2**32 - 1, 2**32 - 1)], 1)])
    assert table.starts == (bytes(4), b"\xff" * 4)
    assert table.masks == (0, 1)


def compiled_find(starts: bytes, rows: bytes, value: bytes, words: int) -> bytes:
    """A binary search as compiled code has to do it, on the packed table."""
    size, low, high = len(value), 0, len(starts) // len(value)
    while high - low > 1:
        middle = (low + high) // 2
        below = starts[middle * size : (middle + 1) * size] <= value
        low, high = (middle, high) if below else (low, middle)
    return rows[low * words * 8 : (low + 1) * words * 8]


@given(st.lists(SPANS, max_size=70), st.integers(0, 255))
def test_packed_tables_say_the_same(groups: list[list[tuple[int, int]]], value: int) -> None:
    table = Intervals.build(2, ((spans, 1 << number) for number, spans in enumerate(groups)))
    key = value.to_bytes(2, "big")
    row = compiled_find(*table.packed(2), key, 2)
    assert int.from_bytes(row, "little") == table.find(key)


def allows(compiled: Matcher, source: bytes, destination: bytes, protocol: int, port: int) -> bool:
    row = compiled.destinations.find(destination)
    return compiled.allows(source, row, protocol, b"\x12\x34" + port.to_bytes(2, "big"))


@given(
    st.lists(rules(), max_size=6),
    st.sampled_from(ENDS),
    st.sampled_from(ENDS),
    st.sampled_from([6, 17, 132]),
    st.integers(0, 65535) | st.sampled_from([0, 1, 22, 65535]),
)
def test_rules_allow_compiled_what_they_allow_one_by_one(
    all_rules: list[Rule], source: oracle.Address, destination: oracle.Address, protocol: int, port: int
) -> None:
    if source.version != destination.version:
        return
    compiled = Matcher.build(source.version, all_rules, LOCAL, WITH, [])
    named = [rule for rule in all_rules if oracle.is_from(source, rule, WITH)]
    one_by_one = oracle.opens(named, destination, protocol, port) and oracle.special(destination) is None
    assert allows(compiled, source.packed, destination.packed, protocol, port) == one_by_one


def test_rules_that_allow_the_same_ports_alike_are_one_clause() -> None:
    alike = [rule("100.64.0.2", "100.64.0.1", (22, 22)), rule("100.64.0.2", "192.168.7.0/24", (22, 22))]
    assert Matcher.build(4, alike, LOCAL, {}, []).clause_count == 1
    assert Matcher.build(4, [*alike, rule("100.64.0.3", "100.64.0.1", (22, 22))], LOCAL, {}, []).clause_count == 2
    assert Matcher.build(4, [*alike, rule("100.64.0.2", "100.64.0.1", (22, 23))], LOCAL, {}, []).clause_count == 2
    assert Matcher.build(4, [*alike, rule("100.64.0.2", "100.64.0.1", (22, 22), 6)], LOCAL, {}, []).clause_count == 2


def test_a_rule_without_anything_in_a_family_is_not_there() -> None:
    half = [rule("100.64.0.2", "fd7a:115c:a1e0::1"), rule("fd7a:115c:a1e0::2", "100.64.0.1"), rule("*", "*", (9, 8))]
    assert [Matcher.build(version, half, LOCAL, {}, []).clause_count for version in (4, 6)] == [0, 0]


def test_rows_of_sources_grow_with_addresses_not_with_rules() -> None:
    """A thousand rules for one group: their sources are in the table once."""
    group = tuple(Range(4, number, number) for number in range(0, 200, 2))
    one = rule("*", "100.64.0.1", (80, 80))
    many = [Rule(group, (), rule("*", "100.64.0.1", (port, port)).destinations, (6,)) for port in range(1000)]
    compiled = Matcher.build(4, [one, *many], LOCAL, {}, [])
    assert compiled.clause_count == 1001
    assert len(compiled.sources.starts) == 200
    assert allows(compiled, (2).to_bytes(4, "big"), SELF4, 6, 999)
    assert not allows(compiled, PEER4, SELF4, 6, 999)
    assert allows(compiled, PEER4, SELF4, 6, 80)


def test_our_addresses_have_a_bit_of_their_own_but_where_nothing_passes() -> None:
    compiled = Matcher.build(4, [], [ip_network("0.0.0.0/0")], {}, [])
    assert compiled.destinations.find(SELF4) == LOCAL_BIT
    assert compiled.destinations.find(bytes([224, 0, 0, 1])) == 0
    assert compiled.destinations.find(bytes([169, 254, 169, 253])) == 0
    assert compiled.destinations.find(bytes([169, 254, 169, 254])) == LOCAL_BIT
    assert compiled.destinations.find(bytes([255] * 4)) == LOCAL_BIT

# SPDX-License-Identifier: BSD-3-Clause
"""Reading JSON of others: absent, null, malformed, and where."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.fields import Fields, clean, load
from ts4nsnet.keys import NODE_PREFIX, ZERO_KEY, PublicKey

KEY = PublicKey(bytes(range(32)))
Read = Callable[[Fields], object]

# how it is read, what is read when there is nothing, JSON values and what they are read as, JSON values that are not
READERS: list[tuple[str, Read, object, list[tuple[object, object]], list[object]]] = [
    ("text", lambda f: f.text("x"), "", [("", ""), ("ä", "ä"), ("\ud800x", "�x")], [1, True, [], {}]),
    ("text with a default", lambda f: f.text("x", "y"), "y", [("", "")], [1]),
    ("integer", lambda f: f.integer("x", 1, 9), 0, [(1, 1), (9, 9)], [0, 10, 1.0, "1", True, [], 10**4000]),
    (
        "identity",
        lambda f: f.identity("x"),
        Malformed,
        [(1, 1), (2**63 - 1, 2**63 - 1), (-1, -1)],
        [0, 2**63, -(2**63), 1.0, "1", True],
    ),
    ("number", lambda f: f.number("x"), 0.0, [(1, 1.0), (-0.5, -0.5)], ["1", True, 1e999, -1e999, 10**400, []]),
    ("flag", lambda f: f.flag("x"), False, [(True, True), (False, False)], [0, 1, "true", []]),
    ("maybe a flag", lambda f: f.maybe_flag("x"), None, [(True, True), (False, False)], [0, "", {}]),
    (
        "key",
        lambda f: f.key("x", NODE_PREFIX),
        ZERO_KEY,
        [(KEY.to_text(NODE_PREFIX), KEY)],
        ["", 1, KEY.to_text("mkey:")],
    ),
    ("maybe a key", lambda f: f.maybe_key("x", NODE_PREFIX), None, [(KEY.to_text(NODE_PREFIX), KEY)], ["nodekey:", []]),
    ("data", lambda f: f.data("x"), None, [("", b""), ("AAE=", b"\0\1")], ["AAE", "ä", 1, "AA E="]),
    ("members", lambda f: f.members("x"), None, [({}, {}), ({"a": 1}, {"a": 1})], [[], "", 0]),
    ("items", lambda f: f.items("x"), None, [([], []), ([1], [1])], [{}, "", 0]),
    ("texts", lambda f: f.texts("x"), None, [([], ()), (["a", "\udfff"], ("a", "�"))], ["a", [1], [None], {}]),
    ("address", lambda f: f.address("x"), None, [("", None), ("::1", ip_address("::1"))], ["x", 1, "fe80::1%eth0", []]),
    (
        "prefixes",
        lambda f: f.prefixes("x"),
        None,
        [
            ([], ()),
            (["10.0.0.0/8", "fd7a::1/128"], (ip_network("10.0.0.0/8"), ip_network("fd7a::1/128"))),
            (["10.0.0.1/8", "fd7a::1/64", "10.0.0.1/32"], (ip_network("10.0.0.1/32"),)),  # host bits
        ],
        [["10.0.0.1"], ["10.0.0.0/33"], ["10.0.0.0/255.0.0.0"], ["::/129"], ["fe80::1%eth0/128"], ["/"], [1], "::/0"],
    ),
]
CASES = [
    pytest.param(read, value, want, id=f"{name}: {str(value)[:20]!r}")
    for name, read, absent, good, _ in READERS
    for value, want in [*good, (None, absent)]
    if want is not Malformed
]
BAD = [
    pytest.param(read, value, id=f"{name}: {str(value)[:20]!r}")
    for name, read, absent, _, bad in READERS
    for value in [*bad, *([None] if absent is Malformed else [])]
]


@pytest.mark.parametrize(("read", "value", "want"), CASES)
def test_members_are_read_as_what_they_are(read: Read, value: object, want: object) -> None:
    assert read(Fields({"x": value})) == want


@pytest.mark.parametrize("read", [row[1] for row in READERS if row[2] is not Malformed])
def test_null_and_absent_are_the_same(read: Read) -> None:
    assert read(Fields({})) == read(Fields({"x": None}))


@pytest.mark.parametrize(("read", "value"), BAD)
def test_what_is_malformed_is_named_by_its_path(read: Read, value: object) -> None:
    with pytest.raises(Malformed, match=r"^Peers\[3\]\.x(\[0\])?: got .{1,90}, want .") as raised:
        read(Fields({"x": value}, "Peers[3]"))
    assert raised.value.path.startswith("Peers[3].x")


def test_objects_know_their_paths() -> None:
    fields = Fields({"a": {"b": [{}, {"c": "x"}]}})
    inner = fields.object("a")
    assert inner is not None
    items = inner.objects("b")
    assert items is not None
    assert [item.path for item in items] == ["a.b[0]", "a.b[1]"]
    with pytest.raises(Malformed, match=r"a\.b\[1\]\.c: got 'x', want true or false"):
        items[1].flag("c")


def test_objects_that_are_absent_are_none() -> None:
    assert Fields({}).object("a") is None
    assert Fields({"a": None}).objects("a") is None


@pytest.mark.parametrize("value", [None, 1, "x", [], [None], True])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match=r"the message: got .*, want an object"):
        Fields(value)


def test_containing_is_being_there_and_not_null() -> None:
    fields = Fields({"a": 0, "b": None})
    assert "a" in fields
    assert "b" not in fields
    assert "c" not in fields


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("0001-01-01T00:00:00Z", None),
        ("0001-01-01T00:00:00.000Z", None),
        ("0001-01-01T02:00:00+02:00", None),
        ("0001-01-01T00:00:00+02:00", -62135596800.0 - 7200),
        ("1970-01-01T00:00:00Z", 0.0),
        ("1970-01-01t00:00:00z", 0.0),
        ("1970-01-01T02:00:00+02:00", 0.0),
        ("1969-12-31T23:30:00-00:30", 0.0),
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("1970-01-01T00:00:00.123456789Z", 0.123456789),
        ("9999-12-31T23:59:59-23:59", 253402300799.0 + 86340),
    ],
)
def test_times_are_unix_seconds_and_gos_zero_time_is_none(text: str, want: float | None) -> None:
    assert Fields({"x": text}).time("x") == want


@given(
    st.datetimes(min_value=datetime(1, 1, 3), timezones=st.just(UTC)),  # noqa: DTZ001
    st.integers(-23 * 60, 23 * 60),
)
def test_any_time_with_any_offset_is_read(at: datetime, minutes: int) -> None:
    if at.year < 9999:
        text = at.astimezone(timezone(timedelta(minutes=minutes))).isoformat()
        assert Fields({"x": text}).time("x") == pytest.approx(at.timestamp(), abs=1e-5)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        0,
        1.5,
        [],
        "1970-01-01",
        "1970-01-01 00:00:00Z",
        "1970-01-01T00:00:00",
        "1970-01-01T00:00Z",
        "1970-13-01T00:00:00Z",
        "1970-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "1970-01-01T24:00:00Z",
        "1970-01-01T00:00:60Z",
        "1970-01-01T00:00:00.Z",
        "1970-01-01T00:00:00+0200",
        "٠٠٠١-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z\n",
    ],
)
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(Malformed, match=r"x: got .*, want a time"):
        Fields({"x": value}).time("x")


@given(st.text(alphabet=st.characters(min_codepoint=0xD700, max_codepoint=0x10FFFF) | st.characters(codec="ascii")))
def test_a_clean_text_can_be_encoded_and_is_as_long(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.encode().decode() == cleaned
    if not any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        assert cleaned == text


@pytest.mark.parametrize(
    ("data", "value"),
    [(b'{"a":[1,2.5,null,true,"\xc3\xa4"]}', {"a": [1, 2.5, None, True, "ä"]}), (b' "\xff" ', "�"), (b"{}\n", {})],
)
def test_json_is_loaded(data: bytes, value: object) -> None:
    assert load(data) == value


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b"{}{}", "Extra data"),
        (b'{"a":NaN}', "NaN is no JSON"),
        (b"-Infinity", "-Infinity is no JSON"),
        (b"9" * 5000, "limit"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"\xef\xbb\xbf{}", "Expecting value"),
        (b'{"a":"\x01"}', "control character"),
    ],
)
def test_what_is_no_json_is_refused_and_not_shown_at_length(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why) as raised:
        load(data)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "nothing"), ({"a": 1}, "an object"), ([1], "a list"), ("x" * 100, "'" + "x" * 79 + "…"), (1, "1")],
)
def test_a_long_value_is_not_shown_whole(value: object, words: str) -> None:
    assert str(Malformed("a.b", value, "something else")) == f"a.b: got {words}, want something else"

# SPDX-License-Identifier: BSD-3-Clause
"""What a node or a worker that has been taken over may send to the other."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.uring import spoken
from ts4nsnet.uring.commands import TO_NODE, TO_WORKER, Kinds, Spoken
from ts4nsnet.uring.encoding import VERSION, Reader, datagrams, emit

EITHER: Kinds[Spoken] = Kinds(TO_WORKER.types | TO_NODE.types)
records = st.builds(
    lambda kind, more, body: bytes((kind, more)) + len(body).to_bytes(4, "little") + body,
    st.integers(0, 25),
    st.integers(0, 2),
    st.binary(max_size=60),
)


def fed(*pieces: bytes) -> list[Spoken]:
    """What a reader makes of datagrams; all of it can be said again and is heard again."""
    reader = Reader(EITHER)
    messages = [message for piece in pieces for message in reader.feed(piece)]
    again = [message for each in datagrams(map(emit, messages)) for message in Reader(EITHER).feed(each)]
    assert list(map(spoken.shown, again)) == list(map(spoken.shown, messages))
    return messages


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_bytes(pieces: list[bytes]) -> None:
    fed(*pieces)


@given(st.lists(records, max_size=6))
def test_records(parts: list[bytes]) -> None:
    fed(bytes((VERSION,)) + b"".join(parts), *(bytes((VERSION,)) + part for part in parts))


@given(spoken.either, st.data())
def test_messages_with_a_fault(message: Spoken, data: st.DataObject) -> None:
    (datagram,) = datagrams([emit(message)])
    at = data.draw(st.integers(0, len(datagram) - 1))
    wrong = bytearray(datagram)
    wrong[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(datagram)))
    fed(bytes(wrong), datagram[:cut], datagram)


def test_a_count_is_not_believed() -> None:
    for kind in range(1, 26):
        body = b"\xff" * 60
        for at in range(0, 60, 4):
            announced = body[:at] + b"\xfe\xff\xff\x7f" + body[at + 4 :]
            fed(bytes((VERSION, kind, 0)) + len(announced).to_bytes(4, "little") + announced)

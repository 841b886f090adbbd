# SPDX-License-Identifier: BSD-3-Clause
"""The LocalAPI against bytes from outside: whoever may connect sends anything, and the next one is served as ever."""

from pathlib import Path
from random import Random
from urllib.parse import quote

import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.node.views import BOB_KEY, view
from ts4nsnet.keys import NODE_PREFIX
from ts4nsnet.node.localapi import answer, serve

STATUSES = (200, 400, 404, 405)
VIEW = view()
PIECES = st.sampled_from(
    [
        "/localapi/v0/",
        "status",
        "whois",
        "?",
        "&",
        "addr=",
        "peers=",
        "100.64.0.1",
        ":80",
        "[",
        "]",
        "::1",
        "%",
        "%zz",
        "/",
    ]
)
REQUESTS = (
    b"GET /localapi/v0/status HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /localapi/v0/whois?addr=100.64.0.1:80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"HEAD /localapi/v0/status?peers=false HTTP/1.0\r\n\r\n",
    b"POST /localapi/v0/status HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /localapi/v0/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\r\n",
)


@given(st.sampled_from(["GET", "HEAD", "POST"]) | st.text(), st.text() | st.lists(PIECES).map("".join))
def test_any_target_has_an_answer(method: str, target: str) -> None:
    assert answer(method, target, VIEW).status in STATUSES


@given(st.text() | st.ip_addresses().map(str) | st.integers(0, 2**256).map(lambda key: f"{NODE_PREFIX}{key:064x}"))
def test_any_address_has_an_answer(addr: str) -> None:
    assert answer("GET", f"/localapi/v0/whois?addr={quote(addr, errors='replace')}", VIEW).status in STATUSES


def test_the_corpus_is_valid() -> None:
    assert answer("GET", f"/localapi/v0/whois?addr={BOB_KEY.to_text(NODE_PREFIX)}", VIEW).status == 200


def mutant(random: Random) -> bytes:
    """Some requests after each other, with bytes changed, cut and put in."""
    data = bytearray(b"".join(random.choices(REQUESTS, k=random.randint(1, 3))))
    for _ in range(random.randint(0, 4)):
        at = random.randrange(len(data) + 1)
        match random.randrange(3):
            case 0:
                data[at : at + 1] = random.randbytes(1)
            case 1:
                del data[at : at + random.randint(1, 20)]
            case _:
                data[at:at] = random.choice((b"\r\n", b"\0", b" ", b":", b"\xff", data[:at]))
    return bytes(data[: random.randint(0, len(data))] if random.randrange(4) == 0 else data)


async def test_any_bytes_leave_the_server_well(tmp_path: Path, nursery: trio.Nursery) -> None:
    path = tmp_path / "s"
    await nursery.start(serve, path, lambda: VIEW)
    random = Random(7)
    for _ in range(400):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(mutant(random))
            await stream.send_eof()
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
    async with await trio.open_unix_socket(path) as stream:
        await stream.send_all(REQUESTS[0])
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")

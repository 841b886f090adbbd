# SPDX-License-Identifier: BSD-3-Clause
"""Transfers of the demo's guest program: what has arrived is what was sent, or it is said."""

import hashlib
import socket
import threading

import pytest

from ts4nsnet.lab.demo_guest import CHUNK_BYTES, give, receive, take


@pytest.mark.parametrize("count", [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 1])
def test_both_sides_agree_on_what_was_carried(count: int) -> None:
    source, target = socket.socketpair()
    sent: list[bytes] = []
    with source, target:
        thread = threading.Thread(target=lambda: sent.append(give(source, count)))
        thread.start()
        received = take(target, count)
        thread.join()
    assert sent == [received]
    assert (received == hashlib.sha256().digest()) == (count == 0)


def test_a_transfer_that_is_cut_short_is_told() -> None:
    source, target = socket.socketpair()
    with target:
        with source:
            source.sendall(b"abc")
        with pytest.raises(SystemExit, match="2 bytes too early"):
            take(target, 5)


def test_a_hash_that_is_cut_short_is_told() -> None:
    source, target = socket.socketpair()
    with target:
        with source:
            source.sendall(b"abc")
        with pytest.raises(SystemExit, match="too early"):
            receive(target, 32)

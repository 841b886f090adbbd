# SPDX-License-Identifier: BSD-3-Clause
"""The socket under the tunnel; what a `UdpPort` makes of it is in uring/test_udp.py."""

import socket

import pytest

from tests.unit.uring.sockets import WithoutFiles
from ts4nsnet.sockets import open_socket


def test_the_socket_serves_both_families_and_does_not_block() -> None:
    with open_socket(0) as sock:
        assert sock.family == socket.AF_INET6
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 0
        assert not sock.getblocking()
        assert not sock.get_inheritable()


def test_a_port_that_is_taken_is_an_error_and_leaves_no_socket() -> None:
    with open_socket(0) as sock, pytest.raises(OSError, match="in use"):
        open_socket(sock.getsockname()[1])  # a socket left behind would be a warning, which is an error here


def test_another_reason_to_get_no_socket_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", WithoutFiles)
        with pytest.raises(OSError, match="Too many open files"):
            open_socket(0)

# SPDX-License-Identifier: BSD-3-Clause
"""What a container finds when it asks for names, and for what has no way."""

import time
from socket import AF_INET, AF_INET6, SOCK_DGRAM

import dns.message

from tests.topology import Container

OUTSIDE: dict[int, str] = {AF_INET: "192.0.2.77", AF_INET6: "2001:db8::77"}
SOON = 0.05  # seconds; the bound for a refusal


def refusal(box: Container, family: int, kind: int) -> tuple[int, float]:
    """The error that a try to reach the outside gets, and after how many seconds: the least of some tries."""
    numbers, times = set(), []
    for _ in range(5):
        with box.socket(family, kind) as sock:
            sock.settimeout(5.0)
            begun = time.monotonic()
            try:
                sock.connect((OUTSIDE[family], 80))
                sock.send(b"?")
                sock.recv(1)
            except OSError as error:
                numbers.add(error.errno or 0)  # 0: a timeout
            times.append(time.monotonic() - begun)
    (number,) = numbers
    return number, min(times)


def ask(box: Container, server: str, name: str, kind: str = "A") -> dns.message.Message:
    """The answer of a server to a question of the container."""
    query = dns.message.make_query(name, kind)
    with box.socket(AF_INET6 if ":" in server else AF_INET, SOCK_DGRAM) as sock:
        sock.settimeout(5.0)
        sock.connect((server, 53))
        sock.send(query.to_wire())
        answer = dns.message.from_wire(sock.recv(4096))
    assert query.is_response(answer)
    return answer

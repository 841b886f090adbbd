# SPDX-License-Identifier: BSD-3-Clause
"""A DNS server over UDP, IPv4 and IPv6, port 53 of every address of the namespace that it is started in.

    python -m tests.programs.name_server ADDRESS

Each name below example.com has this one address, others do not exist. It says "serving" once it is.
"""

import socket
import sys

import dns.message
import dns.name
import dns.rcode
import dns.rrset

ZONE = dns.name.from_text("example.com")


def answer(data: bytes, address: str) -> bytes:
    """The answer to a query."""
    query = dns.message.from_wire(data)
    response = dns.message.make_response(query, recursion_available=True)
    question = query.question[0]
    if not question.name.is_subdomain(ZONE):
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.A:
        response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", address))
    return response.to_wire()


def main(address: str) -> None:
    """Serve for ever."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(("::", 53))
        print("serving")
        while True:
            query, client = sock.recvfrom(4096)
            print(dns.message.from_wire(query).question[0])
            sock.sendto(answer(query, address), client)


if __name__ == "__main__":
    main(sys.argv[1])

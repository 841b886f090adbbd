# SPDX-License-Identifier: BSD-3-Clause
"""Requests to slirp4netns' API socket that are refused, and with which words."""

ADD = '{"execute":"add_hostfwd","arguments":%s}'


def _add(arguments: str) -> bytes:
    return (ADD % arguments).encode()


REFUSED = [
    (b"", "cannot parse JSON"),
    (b"x", "cannot parse JSON"),
    (b'{"execute":', "cannot parse JSON"),
    (b"{'execute':1}", "cannot parse JSON"),
    (b'{"execute":NaN}', "cannot parse JSON"),
    (b'{"execute":"x",}', "cannot parse JSON"),
    (b'{"execute":"x\ny"}', "cannot parse JSON"),
    (b'{"execute":"x"/**/}', "cannot parse JSON"),
    (b'{"execute":"list_hostfwd","execute":"list_hostfwd"}', "cannot parse JSON"),
    (b"[" * 3000, "cannot parse JSON"),
    (b"[]", "json_object() failed"),
    (b"12", "json_object() failed"),
    (b'"execute"', "json_object() failed"),
    (b"null", "json_object() failed"),
    (b"{}", "no execute found"),
    (b'{"execute":1}', "no execute found"),
    (b'{"Execute":"list_hostfwd"}', "no execute found"),
    (b'{"execute":"x"}', "unknown execute"),
    (b'{"execute":""}', "unknown execute"),
    (b'{"execute":"a\\u0000b"}', "unknown execute"),
    (b'{"execute":"' + b"x" * 4096, "too large message"),
    (b'{"execute":"list_hostfwd"}'.ljust(4096), "too large message"),
    (_add('{"proto":"sctp"}'), "add_hostfwd: bad arguments.proto"),
    (_add('{"proto":"TCP"}'), "add_hostfwd: bad arguments.proto"),
    (_add('{"proto":"tcp","host_addr":"::"}'), "add_hostfwd: bad arguments.host_addr"),
    (_add('{"proto":"tcp","host_addr":"localhost"}'), "add_hostfwd: bad arguments.host_addr"),
    (_add('{"proto":"tcp","host_addr":"127.1"}'), "add_hostfwd: bad arguments.host_addr"),
    (_add('{"proto":"tcp","host_addr":"127.0.0.01"}'), "add_hostfwd: bad arguments.host_addr"),
    (_add('{"proto":"tcp"}'), "add_hostfwd: bad arguments.host_port"),
    (_add('{"proto":"tcp","host_port":0}'), "add_hostfwd: bad arguments.host_port"),
    (_add('{"proto":"tcp","host_port":0.9}'), "add_hostfwd: bad arguments.host_port"),
    (_add('{"proto":"tcp","host_port":"80"}'), "add_hostfwd: bad arguments.host_port"),
    (_add('{"proto":"tcp","host_port":true}'), "add_hostfwd: bad arguments.host_port"),
    (_add('{"proto":"udp","host_port":1,"guest_addr":"::1"}'), "add_hostfwd: bad arguments.guest_addr"),
    (_add('{"proto":"udp","host_port":1,"guest_addr":"10.0.2.100"}'), "add_hostfwd: bad arguments.guest_port"),
    (_add('{"proto":"udp","host_port":1,"guest_port":[]}'), "add_hostfwd: bad arguments.guest_port"),
]

# SPDX-License-Identifier: BSD-3-Clause
"""Values of slirp4netns' options, checked as strictly as the original does, with its words.

    UsageError    found while the command line is read; the usage follows
    WrongValue    found afterwards

Numbers are read as strtol(3) does: blanks and a sign may stand in front, nothing behind; nothing at all is 0.

Source: seen with slirp4netns 1.2.0; container-tools.md 8.
"""

import os
import re
import socket

from ts4nsnet.cli.longopts import UsageError
from ts4nsnet.errors import Ts4nsnetError

MAX_INT = 2**31 - 1  # of C
MAX_SOCKET_PATH_BYTES = 107  # unix(7)
MIN_PREFIX, MAX_PREFIX = 1, 25  # bits; the container's address is the network's + 100
MAX_NAME_BYTES = 15  # of an interface; the original cuts longer ones, too
_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+|", re.ASCII)
_CIDR = re.compile(r"((?:[0-9]{1,3}\.){3}[0-9]{1,3})/([0-9]{1,2})", re.ASCII)
_MAC_BYTES = 6
_MAC_PART = re.compile(r"[0-9A-Fa-f]{1,2}", re.ASCII)


class WrongValue(Ts4nsnetError):
    """A value of an option that cannot be meant; the text is what the user sees."""


def whole(text: str, least: int, message: str, most: int = MAX_INT) -> int:
    """A whole number from `least` to `most`; raises `UsageError` with `message`."""
    if not _NUMBER.fullmatch(text) or not least <= int(text or "0") <= most:
        raise UsageError(message)
    return int(text or "0")


def userns_path(text: str) -> str:
    """A path that is there; raises `UsageError`."""
    if not os.path.exists(text):
        raise UsageError(f"userns path doesn't exist: {text}")
    return text


def netns_path(text: str) -> str:
    """A path that is there; raises `UsageError`."""
    try:
        os.stat(text)
    except OSError as error:
        raise UsageError(f"existing path expected when --netns-type=path: {error.strerror}") from None
    return text


def socket_path(text: str) -> str:
    """A path that a Unix socket can have; raises `WrongValue`."""
    if len(os.fsencode(text)) > MAX_SOCKET_PATH_BYTES:
        raise WrongValue(f"the specified API socket path is too long (>= {MAX_SOCKET_PATH_BYTES + 1})")
    return text


def interface(text: str) -> str:
    """A name that an interface of ours can have, cut as the original does; raises `WrongValue`."""
    from ts4nsnet.netns.model import NetnsError, check_name

    name = os.fsdecode(os.fsencode(text)[:MAX_NAME_BYTES])
    try:
        check_name(name)
    except NetnsError as error:
        raise WrongValue(f"invalid interface name: {name!r}: {error.reason}; {error.advice}") from None
    if name == "lo":
        raise WrongValue("invalid interface name: 'lo': every network namespace has that one; give another name")
    return name


def cidr(text: str) -> str:
    """An IPv4 network with room for the addresses that container tools expect; raises `WrongValue`."""
    match = _CIDR.fullmatch(text)
    if not match:
        raise WrongValue(f"invalid CIDR: {text}")
    address, prefix = match[1], int(match[2])
    try:
        number = int.from_bytes(socket.inet_pton(socket.AF_INET, address))
    except OSError:
        raise WrongValue(f"invalid network address: {address}") from None
    if not MIN_PREFIX <= prefix <= MAX_PREFIX:
        raise WrongValue(f"prefix length needs to be {MIN_PREFIX}-{MAX_PREFIX}")
    if number % (1 << (32 - prefix)):
        raise WrongValue("CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24")
    return text


def outbound_address(text: str) -> str:
    """An IPv4 address, or an interface of the host; raises `WrongValue`."""
    return _address_or_interface(socket.AF_INET, "outbound-addr", "ipv4", text)


def outbound_address6(text: str) -> str:
    """An IPv6 address, or an interface of the host; raises `WrongValue`."""
    return _address_or_interface(socket.AF_INET6, "outbound-addr6", "ipv6", text)


def mac_address(text: str) -> str:
    """Up to six bytes in hexadecimal digits; raises `WrongValue`."""
    parts = text.split(":")
    wanted = "macaddress has to be a valid MAC address (hex string, 6 bytes, each byte separated by a ':')."
    if not all(_MAC_PART.fullmatch(part) for part in parts[:_MAC_BYTES]):
        raise WrongValue(f'"{text}" is an invalid MAC address.\n{wanted}')
    if len(parts) > _MAC_BYTES:
        raise WrongValue(f'"{text}" is an invalid MAC address.  Is it too long?\n{wanted}')
    return text


def _address_or_interface(family: int, option: str, kind: str, text: str) -> str:
    try:
        socket.inet_pton(family, text)
    except (OSError, ValueError):
        if text not in (name for _, name in socket.if_nameindex()):
            raise WrongValue(f"{option} has to be valid {kind} address or interface name.") from None
    return text

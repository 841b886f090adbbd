# SPDX-License-Identifier: BSD-3-Clause
"""What can be asked of the netns child, and what it answers: frozen values, checked when they are made.

A value that exists is one that the kernel can be asked for, so a mistake is found before any process starts. Addresses
and prefixes may be given as text or as `ipaddress` objects; they are kept as text in its shortest form, which compares
equal and travels as JSON. The limits are the kernel's: net/core/dev.c (`dev_valid_name`), drivers/net/tun.c (MTU).
"""

import os
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from ts4nsnet.errors import Ts4nsnetError

MIN_MTU, MAX_MTU = 68, 65535  # bytes; a TUN's
MIN_IPV6_MTU = 1280  # bytes; RFC 8200, 5: below it the kernel switches IPv6 off on the device
MAX_NAME_BYTES = 15  # IFNAMSIZ without its final zero
MAX_QUEUES = 253  # SCM_MAX_FD: fds in one message (the kernel's TUN has 256)
MAX_PRIORITY = 2**32 - 1  # the highest metric a route can have: everything else goes first
MAX_TXQUEUELEN = 2**20  # ours: packets; the ring is kernel memory
IPV6_DEFAULT_PRIORITY = 1024  # IP6_RT_PRIO_USER: the kernel's metric for a route that names none


class NetnsError(Ts4nsnetError):
    """A namespace could not be entered, or its TUN, addresses or routes not be made.

    Attributes:
        step: what was being done, as "entering the network namespace".
        namespace: which one, as "process 1234" or a path; empty when a value was wrong.
        reason: what went wrong, in the kernel's words where they are its own.
        advice: what to do.
    """

    def __init__(self, step: str, namespace: str, reason: str, advice: str) -> None:
        self.step, self.namespace, self.reason, self.advice = step, namespace, reason, advice
        super().__init__(f"{step}{f' ({namespace})' if namespace else ''}: {reason}; {advice}")


def _wrong(what: str, value: object, reason: str, advice: str) -> NetnsError:
    return NetnsError(f"checking the {what} {value!r}", "", reason, advice)


def _whole(what: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:  # bool is an int, but not a number here
        raise _wrong(what, value, "not a whole number in range", f"give one from {low} to {high}")


def check_name(name: str) -> None:
    """Raise `NetnsError` unless the kernel takes `name` for an interface."""
    what = "interface name"
    try:
        size = len(os.fsencode(name))
    except (TypeError, UnicodeError):
        raise _wrong(what, name, "not a text that the kernel takes", "give plain letters and digits") from None
    if not 1 <= size <= MAX_NAME_BYTES:
        raise _wrong(what, name, f"{size} bytes long", f"give a name of 1 to {MAX_NAME_BYTES} bytes")
    if name in {".", ".."} or any(c in "/:%\0" or c.isspace() for c in name):
        raise _wrong(what, name, "holds a character that the kernel refuses", "leave out '/', ':', '%' and white space")


def check_queues(queues: int) -> None:
    """Raise `NetnsError` unless a TUN can have that many queues."""
    _whole("number of queues", queues, 1, MAX_QUEUES)


def _address(what: str, value: str | IPv4Address | IPv6Address) -> str:
    try:
        address = ip_address(value)
    except ValueError:
        raise _wrong(what, value, "not an IP address", "write it as 100.64.0.7 or fd7a::7, without a prefix") from None
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise _wrong(what, value, "an address with a zone", "leave out the '%…'")
    return str(address)


@dataclass(frozen=True, slots=True)
class Target:
    """The namespaces to enter.

    Args:
        netns: a process's id, or the path of a network namespace (`/run/netns/x`, `/proc/7/ns/net`).
        userns: path of the user namespace to enter first. None: the one that owns `netns`, if need be.

    Raises:
        NetnsError: a path or id that cannot be one.
    """

    netns: int | str
    userns: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.netns, int):
            _whole("process id", self.netns, 1, 2**22)  # PID_MAX_LIMIT
        for path in (self.netns, self.userns):
            if isinstance(path, str) and (not path or "\0" in path):
                raise _wrong("namespace path", path, "no path", "give a process id or a path such as /run/netns/name")

    @property
    def netns_path(self) -> str:
        """The network namespace as a file."""
        return f"/proc/{self.netns}/ns/net" if isinstance(self.netns, int) else self.netns

    def __str__(self) -> str:
        return f"process {self.netns}" if isinstance(self.netns, int) else self.netns


@dataclass(frozen=True, slots=True)
class Route:
    """One route of a link, in the main table.

    Args:
        destination: prefix; `0.0.0.0/0` or `::/0` for everything.
        mtu: bytes, of the path behind it (RTAX_MTU; the kernel keeps at most 65520); None: the device's own.
        priority: metric, lower goes first; None: 0 for IPv4, 1024 for IPv6.
        source: the address of the link that traffic without one leaves with; None: the kernel chooses.
        unreachable: there is no way; it fails at once with EHOSTUNREACH. Has no device, outlives the link, and stays
            until the namespace ends.

    Raises:
        NetnsError: a value that the kernel would refuse.
    """

    destination: str | IPv4Network | IPv6Network
    mtu: int | None = None
    priority: int | None = None
    source: str | IPv4Address | IPv6Address | None = None
    unreachable: bool = False

    def __post_init__(self) -> None:
        try:
            destination = ip_network(self.destination)
        except ValueError as error:
            raise _wrong("route's destination", self.destination, str(error), "write it as 100.64.0.0/10") from None
        object.__setattr__(self, "destination", str(destination))
        if self.mtu is not None:
            _whole("route's mtu", self.mtu, MIN_IPV6_MTU if self.version == 6 else MIN_MTU, MAX_MTU)
        if self.priority is not None:
            _whole("route's metric", self.priority, 0, MAX_PRIORITY)
        if self.source is not None:
            source = _address("route's source address", self.source)
            if (":" in source) != (self.version == 6):
                raise _wrong("route's source address", source, f"other family than {destination}", "give one of both")
            object.__setattr__(self, "source", source)
        if self.unreachable and (self.mtu is not None or self.source is not None):
            raise _wrong("route", self.destination, "unreachable, yet with mtu or source", "leave those out")

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in str(self.destination) else 4

    @property
    def key(self) -> tuple[str, int]:
        """Destination and metric: what the kernel tells the routes of a table apart by."""
        return str(self.destination), self.priority or (IPV6_DEFAULT_PRIORITY if self.version == 6 else 0)


@dataclass(frozen=True, slots=True)
class Link:
    """What a link shall be like, with all of its addresses and routes.

    Args:
        name: the interface's, at most 15 bytes.
        addresses: IPv4 ones become /32, IPv6 ones /128, usable at once (no duplicate address detection).
        routes: what leads through the link, and what is unreachable. No two with the same destination and metric.
        mtu: bytes, of the device: 68 to 65535; below 1280 it has no IPv6.
        txqueuelen: packets that the kernel keeps until they are read; None: as it is (500).
        up: False takes it down; it then has no routes.

    Raises:
        NetnsError: a value that the kernel would refuse.
    """

    name: str
    addresses: tuple[str | IPv4Address | IPv6Address, ...] = ()
    routes: tuple[Route, ...] = ()
    mtu: int = MAX_MTU
    txqueuelen: int | None = None
    up: bool = True

    def __post_init__(self) -> None:
        check_name(self.name)
        _whole("mtu", self.mtu, MIN_MTU, MAX_MTU)
        if self.txqueuelen is not None:
            _whole("txqueuelen", self.txqueuelen, 1, MAX_TXQUEUELEN)
        addresses = tuple(dict.fromkeys(_address("address", a) for a in self.addresses))
        object.__setattr__(self, "addresses", addresses)
        object.__setattr__(self, "routes", tuple(self.routes))
        keys = set()
        for route in self.routes:
            if route.key in keys:
                raise _wrong("route", route.destination, "given twice with one metric", "leave one out")
            keys.add(route.key)
            if route.source is not None and route.source not in addresses:
                raise _wrong("route's source address", route.source, "no address of the link", "add it to addresses")
            if not self.up and not route.unreachable:
                raise _wrong("route", route.destination, f"leads through {self.name}, which is down", "set up=True")

    def to_message(self) -> dict[str, Any]:
        """The link as JSON values."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Link":
        """The inverse of `to_message`."""
        return cls(**{**message, "routes": tuple(Route(**route) for route in message["routes"])})


@dataclass(frozen=True, slots=True)
class Configured:
    """What `configure` did.

    Attributes:
        changes: how many settings were changed, added or removed; 0 when all was as asked.
        skipped: the IPv6 addresses and prefixes that were left out, because IPv6 is off in the namespace, on the
            device (`net.ipv6.conf.*.disable_ipv6`), or by an MTU below 1280; and the prefixes that another has a route
            for, with the same metric: that one stays.
    """

    changes: int
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tun:
    """An open TUN device; it is gone when the last of its fds is closed, here and wherever they were handed on to.

    Attributes:
        name: the interface's.
        fds: one per queue; non-blocking, closed on exec. One read is one packet.
        vnet_hdr: each packet starts with a virtio_net_hdr of 10 bytes, native byte order.
        offload: the TUN_F_* bits (TUNSETOFFLOAD) that the kernel took: what a read may deliver.
    """

    name: str
    fds: tuple[int, ...]
    vnet_hdr: bool
    offload: int
    _unclosed: list[int] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        self._unclosed.extend(self.fds)

    def close(self) -> None:
        """Close the fds; a second call does nothing."""
        while self._unclosed:
            os.close(self._unclosed.pop())

# SPDX-License-Identifier: BSD-3-Clause
"""Addresses and routes of the TUN, by netlink. Imported by the netns child only, after it has entered.

What is asked is compared with what the kernel has, and the difference made, in an order in which nothing is missing in
between: link up, new addresses, new and changed routes (replaced in place), then old routes and old addresses leave.
Taking an IPv4 address away takes the routes with that source along, and the last one all of the device's
(net/ipv4/fib_frontend.c, fib_inetaddr_event); so the routes are looked at once more after that.

What is ours: addresses with protocol 84 (IFA_PROTO, Linux 5.18; before that /32 and /128 of global scope), routes with
protocol 84 through the link. Unreachable routes have no device, so nobody's request can take them back.

IPv6 may be off in a container. The kernel then answers EACCES, EINVAL or ENODEV, by the way it is off; we look first.
An unreachable route needs no device and is set all the same, for IPv6 may be switched on later.

A route that another has made with the same destination and metric (the container's own subnet, say) is left to it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EEXIST, ENODEV, EPERM
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ts4nsnet.netns.model import IPV6_DEFAULT_PRIORITY, Configured, Link, NetnsError, Route

# ours: unassigned in iproute2's rt_protos and rt_addrprotos
PROTOCOL = 84
# the kernel's: include/uapi/linux/{rtnetlink,if_addr,if}.h
_MAIN_TABLE, _UNICAST, _UNREACHABLE, _SCOPE_LINK, _SCOPE_GLOBAL = 254, 1, 7, 253, 0
_NODAD, _IFF_UP = 0x02, 0x1
_MAX_ROUTE_MTU = 65535 - 15  # net/ipv4/metrics.c: a greater one is cut
_CONF = "/proc/sys/net/ipv6/conf"  # of the namespace of whoever opens it

# what a route leads to: (unreachable, mtu, source)
_Way = tuple[bool, int | None, str | None]


def remove(name: str, namespace: str) -> None:
    """Delete the link `name` if it is a TUN or TAP, whoever has it open; nothing when there is none.

    Raises:
        NetnsError: it is of another kind.
    """
    with IPRoute() as netlink:
        found = _find(netlink, name)
        if found is None:
            return
        kind = _kind(found)
        if kind != "tun":
            advice = "give another interface name, or delete that one first (ip link del)"
            raise NetnsError(f"making the TUN {name}", namespace, f"a link of that name exists, of kind {kind}", advice)
        with _step(f"deleting the old {name}", namespace, ignore=ENODEV):
            netlink.link("del", index=found["index"])


def configure(link: Link, namespace: str) -> Configured:
    """Make `link`, its addresses and routes what is asked; see `NetnsChild.configure`."""
    with IPRoute() as netlink:
        return _Configurer(netlink, link, namespace).run()


def _find(netlink: IPRoute, name: str) -> Any:
    """The link's netlink message, or None."""
    try:
        return netlink.link("get", ifname=name)[0]
    except NetlinkError as error:
        if error.code == ENODEV:
            return None
        raise


def _kind(found: Any) -> str:
    info = found.get("IFLA_LINKINFO")
    return (info and info.get("IFLA_INFO_KIND")) or "hardware or loopback"


@contextmanager
def _step(step: str, namespace: str, advice: str = "see the kernel's log (dmesg)", ignore: int = 0) -> Iterator[None]:
    """Turn netlink's errors into ours, with the step's name; errno `ignore` is none."""
    try:
        yield
    except NetlinkError as error:
        if error.code != ignore:
            if error.code == EPERM:
                advice = "CAP_NET_ADMIN is needed in the user namespace that owns it: run as its owner"
            raise NetnsError(step, namespace, os.strerror(error.code), advice) from None


class _Configurer:
    """One run of `configure`."""

    def __init__(self, netlink: IPRoute, link: Link, namespace: str) -> None:
        self.netlink, self.link, self.namespace = netlink, link, namespace
        self.index = 0
        self.changes = 0
        self.others: dict[str, None] = {}  # destinations that another has a route for

    def run(self) -> Configured:
        self._lo_up()
        found = _find(self.netlink, self.link.name)
        if found is None:
            advice = "open the TUN before configuring it, and keep its fd open"
            raise NetnsError(f"configuring {self.link.name}", self.namespace, "there is no such link", advice)
        self.index = found["index"]
        self._set_link(found)
        ipv6_link = _ipv6_is_on(self.link.name)
        ipv6 = ipv6_link or os.path.exists(_CONF)
        addresses = [str(a) for a in self.link.addresses if ipv6_link or ":" not in str(a)]
        routes = [r for r in self.link.routes if r.version == 4 or ipv6_link or (r.unreachable and ipv6)]
        self._add_addresses(addresses)
        self._set_routes(routes, ipv6)
        if self._remove_addresses(addresses):
            self._set_routes(routes, ipv6)
        skipped = [f"{a}/128" for a in self.link.addresses if a not in addresses]
        skipped += [str(r.destination) for r in self.link.routes if r not in routes]
        skipped += self.others
        return Configured(self.changes, tuple(skipped))

    def _lo_up(self) -> None:
        lo = _find(self.netlink, "lo")
        if lo is not None and not lo["flags"] & _IFF_UP:
            with self._changing("setting lo up"):
                self.netlink.link("set", index=lo["index"], state="up")

    def _set_link(self, found: Any) -> None:
        wanted: dict[str, Any] = {}
        if found.get("IFLA_MTU") != self.link.mtu:
            wanted["mtu"] = self.link.mtu
        if self.link.txqueuelen not in {None, found.get("IFLA_TXQLEN")}:
            wanted["txqlen"] = self.link.txqueuelen
        if bool(found["flags"] & _IFF_UP) != self.link.up:
            wanted["state"] = "up" if self.link.up else "down"
        if wanted:
            with self._changing(f"setting {self.link.name}'s {', '.join(wanted)}"):
                self.netlink.link("set", index=self.index, **wanted)

    def _addresses(self) -> tuple[set[str], set[str]]:
        """The link's addresses of full prefix length: all, and those that are ours."""
        present, ours = set(), set()
        dump = list(self.netlink.get_addr())
        marked = any(message.get("IFA_PROTO") for message in dump)  # a kernel that knows it marks ::1 at least
        for message in dump:
            full = {AF_INET: 32, AF_INET6: 128}.get(message["family"])
            if message["index"] != self.index or message["prefixlen"] != full or message["scope"] != _SCOPE_GLOBAL:
                continue
            address = str(ip_address(message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")))
            present.add(address)
            if not marked or message.get("IFA_PROTO") == PROTOCOL:
                ours.add(address)
        return present, ours

    def _add_addresses(self, addresses: list[str]) -> None:
        present, _ = self._addresses()
        for address in addresses:
            if address not in present:
                flags = _NODAD if ":" in address else 0
                with self._changing(f"adding address {address} to {self.link.name}"):
                    self.netlink.addr("add", flags=flags, proto=PROTOCOL, **self._address(address))

    def _remove_addresses(self, addresses: list[str]) -> bool:
        _, ours = self._addresses()
        for address in sorted(ours.difference(addresses)):
            with self._changing(f"removing address {address} from {self.link.name}"):
                self.netlink.addr("del", **self._address(address))
        return not ours.issubset(addresses)

    def _address(self, address: str) -> dict[str, Any]:
        six = ":" in address
        return {"index": self.index, "address": address, "prefixlen": 128 if six else 32,
                "family": AF_INET6 if six else AF_INET}  # fmt: skip

    def _set_routes(self, routes: list[Route], ipv6: bool) -> None:
        """Add and change what is asked, then remove what is ours and not asked."""
        present = self._routes(AF_INET) | (self._routes(AF_INET6) if ipv6 else {})
        for route in routes:
            mtu = None if route.mtu is None else min(route.mtu, _MAX_ROUTE_MTU)
            wanted: _Way = route.unreachable, mtu, None if route.source is None else str(route.source)
            if present.get(route.key) != wanted:
                self._set_route(route, wanted, replace=route.key in present)
        asked = {route.key for route in routes}
        for key, way in present.items():
            if key not in asked and not way[0]:
                with self._changing(f"removing route {key[0]} from {self.link.name}"):
                    self.netlink.route("del", **self._route(key, way))

    def _set_route(self, route: Route, wanted: _Way, *, replace: bool) -> None:
        with _step(f"adding route {route.destination} through {self.link.name}", self.namespace):
            try:
                self.netlink.route("replace" if replace else "add", **self._route(route.key, wanted))
            except NetlinkError as error:
                if error.code != EEXIST or replace:
                    raise
                self.others[str(route.destination)] = None
            else:
                self.changes += 1

    def _routes(self, family: int) -> dict[tuple[str, int], _Way]:
        """Our routes through the link, and anyone's unreachable ones, by destination and metric."""
        found: dict[tuple[str, int], _Way] = {}
        for message in self.netlink.get_routes(family=family, table=_MAIN_TABLE):
            unreachable = message["type"] == _UNREACHABLE
            ours = message["proto"] == PROTOCOL and message.get("RTA_OIF") == self.index
            if not (unreachable or ours):
                continue
            network = message.get("RTA_DST") or ("::" if family == AF_INET6 else "0.0.0.0")  # noqa: S104  no bind
            metrics, source = message.get("RTA_METRICS"), message.get("RTA_PREFSRC")
            key = f"{ip_address(network)}/{message['dst_len']}", message.get("RTA_PRIORITY") or 0
            found[key] = unreachable, metrics and metrics.get("RTAX_MTU"), source and str(ip_address(source))
        return found

    def _route(self, key: tuple[str, int], way: _Way) -> dict[str, Any]:
        six = ":" in key[0]
        unreachable, mtu, source = way
        values: dict[str, Any] = {
            "dst": key[0], "family": AF_INET6 if six else AF_INET, "table": _MAIN_TABLE, "proto": PROTOCOL,
            "type": _UNREACHABLE if unreachable else _UNICAST,
            "scope": _SCOPE_GLOBAL if six or unreachable else _SCOPE_LINK,
            "priority": key[1] or (IPV6_DEFAULT_PRIORITY if six else 0),
        }  # fmt: skip
        if not unreachable:
            values["oif"] = self.index
        if mtu is not None:
            values["metrics"] = {"mtu": mtu}
        if source is not None:
            values["prefsrc"] = source
        return values

    @contextmanager
    def _changing(self, step: str) -> Iterator[None]:
        with _step(step, self.namespace):
            yield
            self.changes += 1


def _ipv6_is_on(name: str) -> bool:
    try:
        with open(f"{_CONF}/{name}/disable_ipv6") as file:
            return file.read().strip() == "0"
    except FileNotFoundError:  # no IPv6 in the kernel, or an MTU below 1280
        return False

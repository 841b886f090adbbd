# SPDX-License-Identifier: BSD-3-Clause
"""Reading JSON that somebody else wrote: what is absent, what is malformed, and where.

`Fields` reads one object, member by member. Whatever is malformed raises `Malformed` with the path of the member, such
as `Peers[3].Addresses[0]`; the path is put together only then, since a message may have a hundred thousand members.

The server writes Go's JSON, so its conventions hold everywhere (notes control.md, section 0):

* Members that nobody asks for are ignored: newer servers send more.
* null is the same as absent, and absent is the zero value. Methods named `maybe_…` and those that return collections
  tell absent (None) from zero.
* Times are RFC 3339; they become unix seconds. Go's zero time, the first second of the year 1, is absent.
* Texts that are no Unicode (halves of surrogate pairs) become U+FFFD, as in Go, lest encoding them fails much later.
"""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Iterable
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NoReturn, TypeVar

from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.node import Address, Endpoint, Prefix
from ts4nsnet.keys import ZERO_KEY, InvalidKey, PublicKey

T = TypeVar("T")

ID_MAX = 2**63 - 1
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  offsets are subtracted as numbers, which know no year 0
_ZERO_TIME = -62135596800  # unix seconds of 0001-01-01T00:00:00Z
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(\.\d+)?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII | re.IGNORECASE
)


def load(data: bytes) -> object:
    """Read a JSON document.

    Raises:
        Malformed: not JSON; nested deeper, or with longer numbers, than Python takes.
    """
    try:
        value: object = _DECODER.decode(data.decode("utf-8", "replace"))
    except RecursionError:
        raise Malformed("", "nested too deep", "JSON") from None
    except ValueError as error:  # what it says shows nothing of the document, which may hold a secret
        raise Malformed("", str(error), "JSON") from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


class Fields:
    """One JSON object being read.

    Args:
        value: what should be an object, as `load` made it.
        path: of the object in its message, for errors.

    Raises:
        Malformed: no object; and so do all methods, for a member of another kind than asked for.
    """

    __slots__ = ("_members", "path")

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise Malformed(path, value, "an object")
        self._members: dict[str, object] = value
        self.path = path

    def __contains__(self, name: str) -> bool:
        """Whether the member is there and not null."""
        return self._members.get(name) is not None

    def names(self) -> Iterable[str]:
        """The keys of the members, for objects whose keys are data."""
        return self._members.keys()

    def malformed(self, name: str, want: str) -> Malformed:
        """The error to raise for a member that is not what was wanted."""
        return Malformed(self.path_of(name), self._members.get(name), want)

    def path_of(self, name: str) -> str:
        """Where a member is."""
        return f"{self.path}.{name}" if self.path else name

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        value = self._members.get(name)
        if isinstance(value, str):
            return value if value.isascii() else clean(value)
        if value is None:
            return default
        raise self.malformed(name, "a string")

    def integer(self, name: str, low: int = -ID_MAX, high: int = ID_MAX, default: int = 0) -> int:
        """A whole number from `low` to `high`; an absent one is `default`, which need not be in that range."""
        value = self._members.get(name)
        if type(value) is int and low <= value <= high:  # a bool is an int, but not a number here
            return value
        if value is None:
            return default
        raise self.malformed(name, f"a whole number from {low} to {high}")

    def identity(self, name: str) -> int:
        """An id, which must be there: a whole number other than 0; some servers have negative ones."""
        value = self._members.get(name)
        if type(value) is int and value and -ID_MAX <= value <= ID_MAX:
            return value
        raise self.malformed(name, "a whole number other than 0")

    def number(self, name: str, default: float = 0.0) -> float:
        """A finite number, whole or not."""
        value = self._members.get(name)
        return default if value is None else finite(value, self.path_of(name))

    def flag(self, name: str) -> bool:
        """A boolean; absent is False."""
        return self.maybe_flag(name) is True

    def maybe_flag(self, name: str) -> bool | None:
        """A boolean; absent is unknown."""
        value = self._members.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise self.malformed(name, "true or false")

    def time(self, name: str) -> float | None:
        """A point in time, unix seconds; None for absent and for Go's zero time."""
        value = self._members.get(name)
        if value is None:
            return None
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise self.malformed(name, "a time (RFC 3339)")
        year, month, day, hour, minute, second, fraction, sign, hours, minutes = match.groups()
        try:
            since = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second)) - _EPOCH  # noqa: DTZ001
        except ValueError:
            raise self.malformed(name, "a time (RFC 3339)") from None
        seconds = since.days * 86400 + since.seconds
        if sign is not None:
            offset = int(hours) * 3600 + int(minutes) * 60
            seconds += offset if sign == "-" else -offset
        at = seconds + float(fraction or 0)
        return None if at == _ZERO_TIME else at

    def key(self, name: str, prefix: str) -> PublicKey:
        """A public key in its text form; absent is the zero key."""
        return self.maybe_key(name, prefix) or ZERO_KEY

    def maybe_key(self, name: str, prefix: str) -> PublicKey | None:
        """A public key in its text form."""
        value = self._members.get(name)
        if value is None:
            return None
        try:
            if isinstance(value, str):
                return PublicKey.from_text(value, prefix)
        except InvalidKey:
            pass
        raise self.malformed(name, f"{prefix!r} and 64 hexadecimal digits")

    def data(self, name: str) -> bytes | None:
        """Bytes, in standard base64."""
        value = self._members.get(name)
        if value is None:
            return None
        try:
            if isinstance(value, str):
                return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
        raise self.malformed(name, "base64")

    def object(self, name: str) -> "Fields | None":
        """An object."""
        value = self._members.get(name)
        return None if value is None else Fields(value, self.path_of(name))

    def members(self, name: str) -> "dict[str, Any] | None":
        """An object, its keys being data. Do not change it."""
        value = self._members.get(name)
        if value is None or isinstance(value, dict):
            return value
        raise self.malformed(name, "an object")

    def items(self, name: str) -> "list[Any] | None":
        """A list of anything. The same list each time."""
        value = self._members.get(name)
        if value is None or isinstance(value, list):
            return value
        raise self.malformed(name, "a list")

    def objects(self, name: str) -> "list[Fields] | None":
        """A list of objects."""
        items = self.items(name)
        if items is None:
            return None
        path = self.path_of(name)
        return [Fields(item, f"{path}[{number}]") for number, item in enumerate(items)]

    def parsed(self, name: str, parse: Callable[[str], T], want: str) -> "tuple[T, ...] | None":
        """A list of strings, each as `parse` returns it; ValueError of `parse` becomes `Malformed`."""
        items = self.items(name)
        return None if items is None else parsed(items, parse, want, self.path_of(name))

    def texts(self, name: str) -> "tuple[str, ...] | None":
        """A list of strings."""
        return self.parsed(name, clean, "a string")

    def address(self, name: str) -> "Address | None":
        """An IP address; absent and the empty string are None."""
        value = self._members.get(name)
        if value is None or value == "":
            return None
        try:
            if isinstance(value, str):
                return parse_address(value)
        except ValueError:
            pass
        raise self.malformed(name, "an IP address")

    def prefixes(self, name: str) -> "tuple[Prefix, ...] | None":
        """A list of prefixes; those with host bits set are left out."""
        found = self.parsed(name, parse_prefix, "an address prefix")
        return None if found is None else tuple(prefix for prefix in found if prefix is not None)


def parsed(items: list[Any], parse: Callable[[str], T], want: str, path: str) -> tuple[T, ...]:
    """Each of these strings as `parse` returns it; ValueError becomes `Malformed`."""
    if not items:
        return ()
    values = []
    for number, item in enumerate(items):
        try:
            if isinstance(item, str):
                values.append(parse(item))
                continue
        except ValueError:
            pass
        raise Malformed(f"{path}[{number}]", item, want)
    return tuple(values)


def finite(value: object, path: str) -> float:
    """A JSON number as a float; `Malformed` when it is none, or too great for one."""
    if type(value) is float and math.isfinite(value):
        return value
    if type(value) is int and abs(value) <= ID_MAX:
        return float(value)
    raise Malformed(path, value, "a number")


def clean(text: str) -> str:
    """The text with what is no Unicode replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_address(text: str) -> Address:
    """An IP address without a zone; raises ValueError."""
    if ":" not in text:
        return IPv4Address(text)
    if "%" in text:
        raise ValueError(text)
    return IPv6Address(text)


def parse_prefix(text: str) -> Prefix | None:
    """An address prefix, None when it has host bits set; raises ValueError."""
    address, _, length = text.partition("/")
    if not length.isdecimal() or "%" in text:
        raise ValueError(text)
    network: Prefix
    if ":" in address:
        network = IPv6Network(text, strict=False)
        return network if length == "128" or network.network_address == IPv6Address(address) else None
    network = IPv4Network(text, strict=False)
    return network if length == "32" or network.network_address == IPv4Address(address) else None


def parse_endpoint(text: str) -> Endpoint:
    """`192.0.2.1:41641` or `[2001:db8::1]:41641`; raises ValueError."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]") and ":" in host:
        return parse_address(host[1:-1]), int(port)
    return IPv4Address(host), int(port)

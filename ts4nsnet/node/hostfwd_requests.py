# SPDX-License-Identifier: BSD-3-Clause
"""What slirp4netns' API socket is asked and answers, as bytes: who publishes ports by it needs no other form.

    {"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_port": 8080, "guest_port": 80}}
    {"return":{"id":1}}

One request is one JSON object of less than 4096 bytes, and whatever follows it is ignored; one answer is one JSON
object on one line. Errors have the words of the original, which callers show to their users. As there: a missing or
empty `host_addr` is 0.0.0.0, a missing or empty `guest_addr` the container's own address; numbers may have a fraction,
which counts for nothing; `list_hostfwd` has its entries at the top, not below `return` as its manual has it; an object
with the same name twice is no JSON.

Not as there: `proto` may be missing (the original crashes), and ports are 1 to 65535 (it takes others modulo 65536).

Sources: slirp4netns(1), api.c of slirp4netns 1.3; replies of 1.2.0; container-tools.md 7.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Any, Literal, NoReturn

from ts4nsnet.errors import Ts4nsnetError

# a request is shorter; the original reads so many bytes once
MAX_REQUEST_BYTES = 4096
ANY_ADDRESS = IPv4Address("0.0.0.0")  # noqa: S104  (the original's default)
_BLANKS = " \t\n\v\f\r"  # isspace(3)


class BadRequest(Ts4nsnetError):
    """A request cannot be done; the text is the original's."""


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of the host that leads into the container.

    Attributes:
        proto: what the port is of.
        host_addr: where it is on the host.
        host_port: from 1 on.
        guest_addr: where it leads to, as the container sees it.
        guest_port: from 1 on.
    """

    proto: Literal["tcp", "udp"]
    host_addr: IPv4Address
    host_port: int
    guest_addr: IPv4Address
    guest_port: int

    def __str__(self) -> str:
        """As people write it."""
        return f"{self.host_addr}:{self.host_port}/{self.proto} to {self.guest_addr}:{self.guest_port}"


@dataclass(frozen=True, slots=True)
class Add:
    """add_hostfwd."""

    forward: Forward


@dataclass(frozen=True, slots=True)
class List:
    """list_hostfwd."""


@dataclass(frozen=True, slots=True)
class Remove:
    """remove_hostfwd: of the number that `Add` was answered."""

    number: int


Request = Add | List | Remove


def is_complete(data: bytes) -> bool:
    """Whether the answer is clear, whatever may follow."""
    if len(data) >= MAX_REQUEST_BYTES:
        return True
    try:
        _first_value(data)
    except ValueError:
        return False
    return True


def parse(data: bytes, guest: IPv4Address) -> Request:
    """Read a request.

    Args:
        data: all that has come.
        guest: the container's own address.

    Raises:
        BadRequest: it is none.
    """
    if len(data) >= MAX_REQUEST_BYTES:
        raise BadRequest("too large message")
    try:
        message = _first_value(data)
    except ValueError:
        raise BadRequest("cannot parse JSON") from None
    if not isinstance(message, dict):
        raise BadRequest("json_object() failed")
    execute, arguments = message.get("execute"), message.get("arguments")
    if not isinstance(execute, str):
        raise BadRequest("no execute found")
    given = arguments if isinstance(arguments, dict) else {}
    match execute:
        case "add_hostfwd":
            return Add(_forward(given, guest))
        case "list_hostfwd":
            return List()
        case "remove_hostfwd":
            return Remove(_whole(given.get("id")))
    raise BadRequest("unknown execute")


def added(number: int) -> bytes:
    """The answer to `Add`."""
    return _json({"return": {"id": number}})


def listed(forwards: Iterable[tuple[int, Forward]]) -> bytes:
    """The answer to `List`: all forwards with their numbers."""
    return _json({"entries": _entries(forwards)})


def removed() -> bytes:
    """The answer to `Remove`."""
    return _json({"return": {}})


def refused(error: BadRequest) -> bytes:
    """The answer to what cannot be done."""
    return _json({"error": {"desc": f"bad request: {error}"}})


def to_keep(last: int, forwards: Iterable[tuple[int, Forward]]) -> bytes:
    """All forwards, and the last number that was given to one, for `kept`."""
    return _json({"last": last, "entries": _entries(forwards)})


def kept(data: bytes) -> tuple[int, list[tuple[int, Forward]]]:
    """The inverse of `to_keep`; raises ValueError."""
    try:
        message = json.loads(data)
        entries = [(int(entry["id"]), _forward(entry, ANY_ADDRESS)) for entry in message["entries"]]
        return int(message["last"]), entries
    except (TypeError, KeyError, BadRequest, RecursionError) as error:
        raise ValueError(f"no list of ports: {error!r}") from None


def _entries(forwards: Iterable[tuple[int, Forward]]) -> list[dict[str, Any]]:
    return [{"id": number, **asdict(forward)} for number, forward in forwards]


def _forward(given: dict[str, Any], guest: IPv4Address) -> Forward:
    proto = given.get("proto")
    if proto not in ("tcp", "udp"):
        raise BadRequest("add_hostfwd: bad arguments.proto")
    return Forward(
        proto=proto,
        host_addr=_address(given, "host_addr", ANY_ADDRESS),
        host_port=_port(given, "host_port"),
        guest_addr=_address(given, "guest_addr", guest),
        guest_port=_port(given, "guest_port"),
    )


def _address(given: dict[str, Any], name: str, default: IPv4Address) -> IPv4Address:
    text = given.get(name)
    if not isinstance(text, str) or not text:
        return default
    try:
        return IPv4Address(text)
    except ValueError:
        raise BadRequest(f"add_hostfwd: bad arguments.{name}") from None


def _port(given: dict[str, Any], name: str) -> int:
    number = _whole(given.get(name))
    if not 0 < number < 65536:
        raise BadRequest(f"add_hostfwd: bad arguments.{name}")
    return number


def _whole(value: object) -> int:
    """A number without its fraction; 0, which is no number of ours, for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    try:
        return int(value)
    except OverflowError:  # 1e999
        return 0


def _first_value(data: bytes) -> object:
    """The JSON value that it starts with; ValueError when there is none, or not yet all of it."""
    text = data.decode("utf-8-sig", errors="replace").lstrip(_BLANKS)
    try:
        value, _ = _DECODER.raw_decode(text)
    except RecursionError:
        raise ValueError("too deep") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the same name twice")
    return found


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number)


def _json(answer: object) -> bytes:
    return json.dumps(answer, separators=(",", ":"), default=str).encode()

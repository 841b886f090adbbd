# SPDX-License-Identifier: BSD-3-Clause
"""What clients say to the coordination server: JSON to frozen values.

Clients disagree about the case of names (`Hostinfo`, `HostInfo`; `Os`, `OS`), so names are matched without regard to
it, as Go does. Unknown names are ignored, null is absent, Go's zero time (year 1) and zero keys are "not set". What is
there must have the right type: anything else is `Refused` with 400 and the path.

Text that goes on to other nodes is cleaned at this door: no control characters, quotation marks or backslashes, since
tailscale-rs cannot read a JSON text with escapes in it. Lists are bounded.

Source: control.md 0, 4.1, 5.1, 5.8, 10.3.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network

from ts4nsnet.keys import DISCO_PREFIX, NODE_PREFIX, InvalidKey, PublicKey
from ts4nsnet.lab.errors import Refused
from ts4nsnet.lab.model import Hostinfo, Prefix, Service

# ours: nobody needs more, and everything is repeated to every peer
MAX_TEXT_CHARACTERS = 256
MAX_ENDPOINTS = 64
MAX_LIST = 1024
MAX_SECRET_CHARACTERS = 4096
MAX_INTEGER = 2**53 - 1  # control.md 0: IDs fit a double

_UNWANTED = {ord(character): None for character in '"\\'} | dict.fromkeys([*range(32), 127])


def load(body: bytes) -> "Fields":
    """The JSON object that a request's body is; raises `Refused`."""
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Refused(400, "request body: not JSON") from None
    return Fields(value)


def _no_constant(name: str) -> object:
    raise ValueError(name)


class Fields:
    """A JSON object, read name by name; `path` says where it stood."""

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise _wrong(path or "request body", value, "an object")
        self._values = {name.lower(): content for name, content in value.items()}
        self._path = f"{path}." if path else ""

    def text(self, name: str, most: int = MAX_TEXT_CHARACTERS) -> str:
        """A text, as it is; "" if absent."""
        value = self._values.get(name.lower())
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > most:
            raise _wrong(self._path + name, value, f"a text of at most {most} characters")
        return value

    def shown(self, name: str) -> str:
        """A text for others to see: cleaned and cut, whatever was sent."""
        value = self._values.get(name.lower())
        return clean(value) if isinstance(value, str) else ""

    def integer(self, name: str) -> int:
        """A number from 0 to 2^53-1; 0 if absent."""
        value = self._values.get(name.lower())
        if value is None:
            return 0
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise _wrong(self._path + name, value, "a whole number")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false if absent."""
        value = self._values.get(name.lower())
        if value is None or isinstance(value, bool):
            return bool(value)
        raise _wrong(self._path + name, value, "true or false")

    def time(self, name: str) -> float | None:
        """Unix seconds of an RFC 3339 time; None if absent or Go's zero time."""
        text = self.text(name)
        if not text:
            return None
        try:
            time = datetime.fromisoformat(text)
            return None if time.year <= 1 else time.replace(tzinfo=time.tzinfo or UTC).timestamp()
        except (ValueError, OverflowError):
            raise _wrong(self._path + name, text, "a time as in RFC 3339") from None

    def key(self, name: str, prefix: str) -> PublicKey | None:
        """A public key; None if absent or zero."""
        text = self.text(name)
        if not text:
            return None
        try:
            key = PublicKey.from_text(text, prefix)
        except InvalidKey:
            raise _wrong(self._path + name, text, f"{prefix} and 64 hexadecimal digits") from None
        return None if key.is_zero else key

    def texts(self, name: str, most: int = MAX_TEXT_CHARACTERS) -> tuple[str, ...] | None:
        """A list of texts of at most so many characters; None if absent."""
        values = self.list(name)
        if values is None:
            return None
        if any(not isinstance(value, str) or len(value) > most for value in values):
            raise _wrong(self._path + name, values, "a list of texts")
        return tuple(value for value in values if isinstance(value, str))

    def list(self, name: str) -> Sequence[object] | None:
        """A list; None if absent."""
        values = self._values.get(name.lower())
        if values is not None and (not isinstance(values, list) or len(values) > MAX_LIST):
            raise _wrong(self._path + name, values, f"a list of at most {MAX_LIST}")
        return values

    def object(self, name: str) -> "Fields | None":
        """An object inside this one; None if absent."""
        value = self._values.get(name.lower())
        return None if value is None else Fields(value, self._path + name)


def clean(text: str) -> str:
    """`text` as it may be shown to other nodes."""
    printable = text.translate(_UNWANTED).encode(errors="ignore").decode()
    return printable[:MAX_TEXT_CHARACTERS]


def _wrong(path: str, value: object, want: str) -> Refused:
    got = repr(clean(value)[:60]) if isinstance(value, str) else type(value).__name__
    return Refused(400, f"{path}: got {got}, want {want}")


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """`POST /machine/register`."""

    version: int
    node_key: PublicKey
    old_node_key: PublicKey | None
    auth_key: str = field(repr=False)
    expiry_at: float | None
    followup: str
    hostinfo: Hostinfo | None
    ephemeral: bool

    @classmethod
    def parse(cls, body: bytes) -> "RegisterRequest":
        """Read a request's body; raises `Refused`."""
        fields = load(body)
        auth = fields.object("Auth")
        hostinfo = fields.object("Hostinfo")
        return cls(
            version=fields.integer("Version"),
            node_key=_node_key(fields),
            old_node_key=fields.key("OldNodeKey", NODE_PREFIX),
            auth_key=auth.text("AuthKey", MAX_SECRET_CHARACTERS) if auth else "",
            expiry_at=fields.time("Expiry"),
            followup=fields.text("Followup", MAX_SECRET_CHARACTERS),
            hostinfo=read_hostinfo(hostinfo) if hostinfo else None,
            ephemeral=fields.flag("Ephemeral"),
        )


@dataclass(frozen=True, slots=True)
class MapRequest:
    """`POST /machine/map`. None: not said, so unchanged."""

    version: int
    compress: bool
    node_key: PublicKey
    disco: PublicKey | None
    stream: bool
    omit_peers: bool
    read_only: bool
    hostinfo: Hostinfo | None
    home_derp: int | None
    endpoints: tuple[str, ...] | None

    @classmethod
    def parse(cls, body: bytes) -> "MapRequest":
        """Read a request's body; raises `Refused`."""
        fields = load(body)
        hostinfo = fields.object("Hostinfo")
        netinfo = hostinfo.object("NetInfo") if hostinfo else None
        compress = fields.text("Compress")
        if compress not in ("", "zstd"):
            raise Refused(400, f"Compress: got {clean(compress)!r}, want zstd or nothing")
        return cls(
            version=fields.integer("Version"),
            compress=compress == "zstd",
            node_key=_node_key(fields),
            disco=fields.key("DiscoKey", DISCO_PREFIX),
            stream=fields.flag("Stream"),
            omit_peers=fields.flag("OmitPeers"),
            read_only=fields.flag("ReadOnly"),
            hostinfo=read_hostinfo(hostinfo) if hostinfo else None,
            home_derp=netinfo.integer("PreferredDERP") if netinfo else None,
            endpoints=_endpoints(fields),
        )


def read_hostinfo(fields: Fields) -> Hostinfo:
    """The part of a Hostinfo that others may know; raises `Refused`."""
    return Hostinfo(
        hostname=fields.shown("Hostname"),
        os=fields.shown("OS"),
        version=fields.shown("IPNVersion"),
        routes=_routes(fields),
        tags=tuple(dict.fromkeys(fields.texts("RequestTags") or ())),
        services=_services(fields),
        shields_up=fields.flag("ShieldsUp"),
        ssh_host_keys=tuple(map(clean, fields.texts("sshHostKeys") or ())),
    )


def _node_key(fields: Fields) -> PublicKey:
    key = fields.key("NodeKey", NODE_PREFIX)
    if key is None:
        raise Refused(400, "NodeKey: missing or zero, want the node's public key")
    return key


def _routes(fields: Fields) -> tuple[Prefix, ...]:
    routes: list[Prefix] = []
    for text in fields.texts("RoutableIPs") or ():
        try:
            routes.append(ip_network("" if "%" in text else text, strict=False))
        except ValueError:
            raise _wrong("RoutableIPs", text, "an address prefix") from None
    return tuple(dict.fromkeys(routes))


def _services(fields: Fields) -> tuple[Service, ...]:
    services: list[Service] = []
    for number, value in enumerate(fields.list("Services") or ()):
        service = Fields(value, f"Services[{number}]")
        services.append(Service(service.shown("Proto"), service.integer("Port"), service.shown("Description")))
    return tuple(services)


def _endpoints(fields: Fields) -> tuple[str, ...] | None:
    texts = fields.texts("Endpoints")
    if texts is None:
        return None
    endpoints: dict[str, None] = {}
    for text in texts:
        host, _, port = text.rpartition(":")
        try:
            address = ip_address("" if "%" in host else host.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise _wrong("Endpoints", text, "address:port") from None
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
            raise _wrong("Endpoints", text, "address:port")
        host = f"[{address}]" if address.version == 6 else str(address)
        endpoints[f"{host}:{int(port)}"] = None
    return tuple(endpoints)[:MAX_ENDPOINTS]

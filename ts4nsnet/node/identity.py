# SPDX-License-Identifier: BSD-3-Clause
"""Who a node is, what it was started as, and how both are written down.

An `Identity` is what makes a restarted process the same node to the control server: it keeps the name and the
addresses. A `Binding` is what a start asks for; only a start that asks for the same may resume an identity. The file
form is one JSON object of both, with a version:

    {"version": 1, "binding": {"control_url": …}, "identity": {"machine_key": base64, …}}

Unknown members are ignored, so that a newer program may add some without a new version; anything else that is not as
expected makes the file `Unreadable`, whose text names the member and shows nothing of its value.

The disco key is not part of it: it is new with every process (Tailscale: types/key, disco keys are never persisted).
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypeVar

from ts4nsnet.keys import InvalidKey, PrivateKey
from ts4nsnet.node.statefile import StateError, Unreadable

VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}|")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)  # private keys are not compared, so neither is this
class Identity:
    """The keys of one node, and what the server has said about them.

    Attributes:
        machine_key: for the control server's Noise channel; of this installation.
        node_key: WireGuard's; new with each login or renewal.
        old_node_key: the one before, while a renewal is not through; the server may still know the node by it.
        tailnet_lock_key: the Ed25519 private key of tailnet lock, if there is one.
        node_id: the server's number; 0 before it is known.
        stable_id: the server's text for the same; may be empty.
        registered: the server has accepted `node_key`: it is enough to come back, and the credential is never sent.
        home_region: the DERP region that was home; 0 if unknown; a hint.
        port: the UDP port that was in use; 0 if unknown; a hint.
    """

    machine_key: PrivateKey
    node_key: PrivateKey
    old_node_key: PrivateKey | None = None
    tailnet_lock_key: bytes | None = field(default=None, repr=False)
    node_id: int = 0
    stable_id: str = ""
    registered: bool = False
    home_region: int = 0
    port: int = 0


@dataclass(frozen=True, slots=True)
class Binding:
    """What a start asks for; equal bindings are the same node started anew.

    Attributes:
        control_url: of the control server.
        credential_hash: SHA-256, 64 hex digits, of what the credential means publicly and what stays the same with
            each start (an OAuth client's id, not its token); empty for interactive login. Never the credential.
        hostname: the wanted one; empty for the default.
        tags: the wanted ones.
        container: its id, or the path of its network namespace; empty where neither is known.
    """

    control_url: str
    credential_hash: str
    hostname: str = ""
    tags: tuple[str, ...] = ()
    container: str = ""

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.credential_hash):  # so that a credential never gets into a file by mistake
            raise StateError("credential_hash: not a SHA-256, want 64 hex digits or nothing")

    @property
    def name(self) -> str:
        """32 hex digits for the names of files; equal for equal bindings only."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:32]


def encode(binding: Binding, identity: Identity) -> bytes:
    """The file form; it holds secrets."""
    members = {
        "machine_key": _to_base64(identity.machine_key.private_bytes()),
        "node_key": _to_base64(identity.node_key.private_bytes()),
        "old_node_key": _to_base64(identity.old_node_key.private_bytes()) if identity.old_node_key else None,
        "tailnet_lock_key": _to_base64(identity.tailnet_lock_key) if identity.tailnet_lock_key is not None else None,
        "node_id": identity.node_id,
        "stable_id": identity.stable_id,
        "registered": identity.registered,
        "home_region": identity.home_region,
        "port": identity.port,
    }
    return json.dumps({"version": VERSION, "binding": asdict(binding), "identity": members}, indent=1).encode()


def decode(data: bytes) -> tuple[Binding, Identity]:
    """Read the file form; raises `Unreadable` and nothing else."""
    try:
        top: object = json.loads(data)
    except (ValueError, RecursionError):
        top = None  # the error would carry the text of the file along, so it is not chained
    top = _object(top, "file")
    if (version := _get(top, "version", int)) != VERSION:
        raise Unreadable(f"version: got {version}, want {VERSION}: another ts4nsnet wrote it")
    return _binding(_object(top.get("binding"), "binding")), _identity(_object(top.get("identity"), "identity"))


def _binding(members: Mapping[str, object]) -> Binding:
    tags = _get(members, "tags", list)
    if not all(isinstance(tag, str) for tag in tags):
        raise Unreadable("tags: not all of them are text")
    hashed = _get(members, "credential_hash", str)
    if not _SHA256.fullmatch(hashed):
        raise Unreadable("credential_hash: not a SHA-256")
    return Binding(
        control_url=_get(members, "control_url", str),
        credential_hash=hashed,
        hostname=_get(members, "hostname", str),
        tags=tuple(tags),
        container=_get(members, "container", str),
    )


def _identity(members: Mapping[str, object]) -> Identity:
    lock_key = members.get("tailnet_lock_key")
    return Identity(
        machine_key=_key(members, "machine_key"),
        node_key=_key(members, "node_key"),
        old_node_key=_key(members, "old_node_key") if members.get("old_node_key") is not None else None,
        tailnet_lock_key=_from_base64(_get(members, "tailnet_lock_key", str)) if lock_key is not None else None,
        node_id=_get(members, "node_id", int),
        stable_id=_get(members, "stable_id", str),
        registered=_get(members, "registered", bool),
        home_region=_get(members, "home_region", int),
        port=_get(members, "port", int),
    )


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise Unreadable(f"{what}: not a JSON object")
    return value


def _get(members: Mapping[str, object], name: str, kind: type[_T]) -> _T:
    value = members.get(name)
    if type(value) is not kind:  # exactly: True is an int
        raise Unreadable(f"{name}: not of type {kind.__name__}")
    return value


def _key(members: Mapping[str, object], name: str) -> PrivateKey:
    try:
        return PrivateKey.from_base64(_get(members, name, str))
    except InvalidKey as error:
        raise Unreadable(f"{name}: {error}") from None


def _to_base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:  # binascii.Error is one
        raise Unreadable("tailnet_lock_key: not base64") from None

# SPDX-License-Identifier: BSD-3-Clause
"""The state file: everything that a restart must find again, as one JSON document.

A change writes the whole file: into `state.json.new`, flushed to the disk, then renamed over the old one. Whoever reads
sees the old state or the new one; a crash in between leaves the old one, and the next write takes over what lies
around. The file is 0600 from its first byte on; the directory is locked while a server uses it.

Names and times are the model's; keys are in their text forms, digests in hexadecimal.
"""

import fcntl
import json
import os
from collections.abc import Mapping
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Any

from ts4nsnet.errors import Ts4nsnetError
from ts4nsnet.keys import DISCO_PREFIX, MACHINE_PREFIX, NODE_PREFIX, PrivateKey, PublicKey
from ts4nsnet.lab.errors import StateError
from ts4nsnet.lab.model import AuthKey, Credential, Hostinfo, Node, Service, State

FILE = "state.json"
FORMAT = 1


class Store:
    """The state file of one directory, which is made and locked; raises `StateError` if another server has it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(f"state directory {directory}: {error.strerror}") from None
        found = os.fstat(self._directory)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            os.close(self._directory)
            raise StateError(f"state directory {directory}: others own it or can write to it; name one of your own")
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._directory)
            raise StateError(
                f"state directory {directory}: another server uses it; stop that or name another"
            ) from None

    def close(self) -> None:
        """Unlock the directory."""
        os.close(self._directory)

    def load(self) -> State | None:
        """What was saved last; None in a new directory. Raises `StateError` for a file that is not ours."""
        path = self.directory / FILE
        try:
            return read_state(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, Ts4nsnetError) as error:
            raise StateError(f"{path}: not a state file of ours ({type(error).__name__}); move it away") from None

    def save(self, state: State) -> None:
        """Replace the state file; raises `StateError` when the disk is full or the like."""
        self.write(FILE, state_text(state))

    def write(self, name: str, content: bytes) -> None:
        """Replace a file of the directory, 0600, old content or new at any moment; raises `StateError`."""
        new = f"{name}.new"
        try:
            descriptor = os.open(
                new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._directory
            )
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            os.replace(new, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except OSError as error:
            raise StateError(f"{self.directory / name}: {error.strerror}") from None

    def read(self, name: str) -> bytes | None:
        """A file of the directory, None if it is not there; raises `StateError`."""
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self.directory / name}: {error.strerror}") from None


def state_text(state: State) -> bytes:
    """The content of the state file."""
    return json.dumps(state_json(state), indent=1).encode()


def state_json(state: State) -> dict[str, object]:
    """The document of a state."""
    return {
        "format": FORMAT,
        "noise_key": state.noise_key.to_text(),
        "relay_key": state.relay_key.to_text(),
        "policy": state.policy,
        "last_node_id": state.last_node_id,
        "last_address": str(state.last_address) if state.last_address else None,
        "users": state.users,
        "nodes": [_node_json(node) for node in state.nodes],
        "keys": [_key_json(key) for key in state.keys],
        "credentials": [_credential_json(each) for each in state.credentials],
    }


def read_state(value: Mapping[str, Any]) -> State:
    """The state of a document; what is wrong with one raises ValueError, KeyError, TypeError or a Ts4nsnetError."""
    if value["format"] != FORMAT:
        raise ValueError("another format")
    last_address = value["last_address"]
    return State(
        noise_key=PrivateKey.from_text(value["noise_key"]),
        relay_key=PrivateKey.from_text(value["relay_key"]),
        policy=str(value["policy"]),
        nodes=[_read_node(node) for node in value["nodes"]],
        users={str(login): int(user_id) for login, user_id in value["users"].items()},
        keys=[_read_key(key) for key in value["keys"]],
        credentials=[_read_credential(each) for each in value["credentials"]],
        last_node_id=int(value["last_node_id"]),
        last_address=IPv4Address(last_address) if last_address else None,
    )


def _node_json(node: Node) -> dict[str, object]:
    return {
        "node_id": node.node_id,
        "machine": node.machine.to_text(MACHINE_PREFIX),
        "key": node.key.to_text(NODE_PREFIX),
        "user_id": node.user_id,
        "login": node.login,
        "label": node.label,
        "ipv4": str(node.ipv4),
        "created_at": node.created_at,
        "tags": node.tags,
        "hostname": node.hostname,
        "version": node.version,
        "ephemeral": node.ephemeral,
        "key_expires_at": node.key_expires_at,
        "hostinfo": _hostinfo_json(node.hostinfo),
        "approved": sorted(map(str, node.approved)),
        "disco": node.disco.to_text(DISCO_PREFIX) if node.disco else None,
        "endpoints": node.endpoints,
        "home_derp": node.home_derp,
        "online": node.online,
        "last_seen_at": node.last_seen_at,
    }


def _read_node(value: Mapping[str, Any]) -> Node:
    simple = ("node_id", "user_id", "login", "label", "created_at", "hostname", "version", "ephemeral")
    return Node(
        **{name: value[name] for name in (*simple, "key_expires_at", "home_derp", "online", "last_seen_at")},
        machine=PublicKey.from_text(value["machine"], MACHINE_PREFIX),
        key=PublicKey.from_text(value["key"], NODE_PREFIX),
        ipv4=IPv4Address(value["ipv4"]),
        tags=tuple(value["tags"]),
        hostinfo=_read_hostinfo(value["hostinfo"]),
        approved=frozenset(map(ip_network, value["approved"])),
        disco=PublicKey.from_text(value["disco"], DISCO_PREFIX) if value["disco"] else None,
        endpoints=tuple(value["endpoints"]),
    )


def _hostinfo_json(hostinfo: Hostinfo) -> dict[str, object]:
    return {
        "hostname": hostinfo.hostname,
        "os": hostinfo.os,
        "version": hostinfo.version,
        "routes": [str(route) for route in hostinfo.routes],
        "tags": hostinfo.tags,
        "services": [[each.protocol, each.port, each.description] for each in hostinfo.services],
        "shields_up": hostinfo.shields_up,
        "ssh_host_keys": hostinfo.ssh_host_keys,
    }


def _read_hostinfo(value: Mapping[str, Any]) -> Hostinfo:
    return Hostinfo(
        **{name: value[name] for name in ("hostname", "os", "version", "shields_up")},
        routes=tuple(map(ip_network, value["routes"])),
        tags=tuple(value["tags"]),
        services=tuple(Service(*each) for each in value["services"]),
        ssh_host_keys=tuple(value["ssh_host_keys"]),
    )


_KEY_FIELDS = ("key_id", "login", "created_at", "expires_at", "reusable", "ephemeral", "description", "used")


def _key_json(key: AuthKey) -> dict[str, object]:
    return {name: getattr(key, name) for name in _KEY_FIELDS} | {"digest": key.digest.hex(), "tags": key.tags}


def _read_key(value: Mapping[str, Any]) -> AuthKey:
    simple = {name: value[name] for name in _KEY_FIELDS}
    return AuthKey(**simple, digest=bytes.fromhex(value["digest"]), tags=tuple(value["tags"]))


_CREDENTIAL_FIELDS = ("credential_id", "federated", "created_at", "description")


def _credential_json(credential: Credential) -> dict[str, object]:
    digests = [digest.hex() for digest in credential.digests]
    simple = {name: getattr(credential, name) for name in _CREDENTIAL_FIELDS}
    return simple | {"digests": digests, "tags": credential.tags}


def _read_credential(value: Mapping[str, Any]) -> Credential:
    simple = {name: value[name] for name in _CREDENTIAL_FIELDS}
    return Credential(**simple, digests=tuple(map(bytes.fromhex, value["digests"])), tags=tuple(value["tags"]))

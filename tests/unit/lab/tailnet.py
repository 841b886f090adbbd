# SPDX-License-Identifier: BSD-3-Clause
"""A coordination server without sockets and with a clock of ours, and nodes that talk to it in JSON."""

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from zstandard import ZstdDecompressor

from ts4nsnet.keys import DISCO_PREFIX, NODE_PREFIX, PrivateKey, PublicKey
from ts4nsnet.lab.control import Coordinator, Event, KeyRetired, Settings
from ts4nsnet.lab.credentials import KeyWish
from ts4nsnet.lab.fanout import MapStream
from ts4nsnet.lab.model import State

Message = dict[str, Any]

VERSION = 130
WALL = 1_800_000_000.0  # Unix seconds at now = 0
BASE_URL = "https://127.0.0.1:8443"
DERP_MAP = {"Regions": {"900": {"RegionID": 900, "RegionCode": "lab", "RegionName": "Lab", "Nodes": []}}}
ZERO_TIME = "0001-01-01T00:00:00Z"


class FakeTailnet:
    """The server, its clock, and what it wants done."""

    def __init__(self, state: State | None = None, *, seed: int = 7, now: float = 1000.0, **settings: Any) -> None:
        self.random = Random(seed).randbytes
        self.now = now
        self.state = state or State(self.key(), self.key())
        self.settings = Settings(**settings)
        wall = WALL + now
        self.server = Coordinator(self.state, self.settings, BASE_URL, dict(DERP_MAP), self.random, now, wall)

    def key(self) -> PrivateKey:
        return PrivateKey(self.random(32))

    def auth_key(self, **wish: Any) -> str:
        _, secret = self.server.keyring.create_key(KeyWish(**wish), self.wall)
        return secret.text

    @property
    def wall(self) -> float:
        return self.server.wall(self.now)

    def after(self, seconds: float) -> None:
        """Let time pass; every timer fires at its time."""
        end = self.now + seconds
        while (at := self.server.next_timer()) <= end:
            self.now = max(self.now, at)
            self.server.handle_timer(self.now)
        self.now = end

    def events(self) -> list[Event]:
        found: list[Event] = []
        while (event := self.server.next_event()) is not None:
            found.append(event)
        return found

    def retired(self) -> list[PublicKey]:
        return [event.key for event in self.events() if isinstance(event, KeyRetired)]

    def node(self, hostname: str = "node", **fields: Any) -> "FakeNode":
        return FakeNode(self, hostname, **fields)

    def join(self, hostname: str, auth_key: str = "", **hostinfo: Any) -> "FakeNode":
        """A node that has registered, polls, and has told its disco key and home; all is flushed."""
        node = self.node(hostname, hostinfo=hostinfo)
        answer = node.register(auth_key or self.auth_key(reusable=True))
        assert answer["MachineAuthorized"], answer
        node.poll()
        node.update(Endpoints=[f"192.0.2.{node.number}:41641"])
        self.after(1.0)
        node.messages()
        return node

    def joined(self, *hostnames: str) -> "list[FakeNode]":
        """Several nodes that have joined and know each other; nothing is under way."""
        nodes = [self.join(hostname) for hostname in hostnames]
        for node in nodes:
            node.messages()
        return nodes

    def restarted(self, **settings: Any) -> "FakeTailnet":
        """The server that finds this one's state, half a second later."""
        return FakeTailnet(self.state, seed=8, now=self.now + 0.5, **settings)


@dataclass
class FakeNode:
    """A node: keys, and the requests that clients make."""

    net: FakeTailnet
    hostname: str
    hostinfo: Message = field(default_factory=dict)
    compressed: bool = False

    def __post_init__(self) -> None:
        self.machine = self.net.key()
        self.key = self.net.key()
        self.disco = self.net.key()
        self.stream: MapStream | None = None

    @property
    def key_text(self) -> str:
        return self.key.public.to_text(NODE_PREFIX)

    @property
    def number(self) -> int:
        """Its NodeID."""
        node = self.net.server.directory.of_machine(self.machine.public)
        assert node is not None
        return node.node_id

    def full_hostinfo(self) -> Message:
        return {"Hostname": self.hostname, "NetInfo": {"PreferredDERP": 900}} | self.hostinfo

    def register(self, auth_key: str = "", **fields: Any) -> Message:
        """The answer; an empty one if it has to wait."""
        request = {"Version": VERSION, "NodeKey": self.key_text, "Expiry": ZERO_TIME, "Hostinfo": self.full_hostinfo()}
        if auth_key:
            request["Auth"] = {"AuthKey": auth_key}
        reply = self.net.server.register(self.machine.public, body(request | fields), self.net.now)
        return dict(reply.body or {})

    def log_out(self) -> Message:
        return self.register(Expiry="1970-01-01T00:02:03Z")

    def map(self, **fields: Any) -> MapStream | bytes:
        request: Message = {"Version": VERSION, "NodeKey": self.key_text, "Hostinfo": self.full_hostinfo()}
        request["DiscoKey"] = self.disco.public.to_text(DISCO_PREFIX)
        if self.compressed:
            request["Compress"] = "zstd"
        return self.net.server.map(self.machine.public, body(request | fields), self.net.now)

    def poll(self, **fields: Any) -> list[Message]:
        """Open the map stream; what has come on it at once."""
        stream = self.map(Stream=True, KeepAlive=True, **fields)
        assert isinstance(stream, MapStream)
        self.stream = stream
        return self.messages()

    def update(self, **fields: Any) -> None:
        assert self.map(OmitPeers=True, **fields) == b""

    def messages(self) -> list[Message]:
        """What has come on the stream."""
        assert self.stream is not None
        return [decoded(frame, compressed=self.compressed) for frame in self.stream.take()]

    def close(self) -> None:
        """The stream's connection is gone."""
        assert self.stream is not None
        self.net.server.close_stream(self.stream, self.net.now)


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def decoded(frame: bytes, *, compressed: bool = False) -> Message:
    """The message of a frame, checked to be whole."""
    size, content = int.from_bytes(frame[:4], "little"), frame[4:]
    assert len(content) == size
    text = ZstdDecompressor().decompress(content) if compressed else content
    message: Message = json.loads(text)
    assert "\\" not in text.decode(), "tailscale-rs cannot read escapes"
    assert "null" not in text.decode()
    return message


def merged(messages: list[Message]) -> Message:
    """Several messages as one: lists appended, the last of everything else."""
    whole: Message = {}
    for message in messages:
        for name, value in message.items():
            whole[name] = whole[name] + value if isinstance(value, list) and name in whole else value
    return whole

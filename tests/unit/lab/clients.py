# SPDX-License-Identifier: BSD-3-Clause
"""Clients of a running lab, on its real sockets: control over ts2021, relay, plain HTTPS, STUN.

They are as small as a test wants them: no retries, one request at a time.
"""

import json
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol
from urllib.parse import urlsplit

import h11
import trio

from tests.unit.lab.tailnet import VERSION, Message, decoded
from ts4nsnet.control.session import ClientSession, DataReceived, HeadersReceived, StreamEnded, StreamReset
from ts4nsnet.control.ts2021 import ClientHandshake
from ts4nsnet.keys import DISCO_PREFIX, MACHINE_PREFIX, NODE_PREFIX, PrivateKey, PublicKey
from ts4nsnet.lab import Tailnet


class Address(Protocol):
    """Where a lab is: a `Tailnet`, or what its command printed."""

    @property
    def control_url(self) -> str: ...

    @property
    def ca(self) -> Path: ...


def new_key(random: Random) -> PrivateKey:
    return PrivateKey(random.randbytes(32))


async def dial(tailnet: Address) -> trio.SSLStream[trio.SocketStream]:
    """A TLS connection whose certificate was checked against the lab's authority."""
    url = urlsplit(tailnet.control_url)
    assert url.hostname is not None
    assert url.port is not None
    context = ssl.create_default_context(cafile=str(tailnet.ca))
    raw = await trio.open_tcp_stream(url.hostname, url.port)
    stream = trio.SSLStream(raw, context, server_hostname=url.hostname, https_compatible=True)
    await stream.do_handshake()
    return stream


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def fetch(
    tailnet: Address, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Answer:
    """One plain HTTPS request."""
    fields = {"Host": "lab", "Content-Length": str(len(body)), "Connection": "close"} | dict(headers or {})
    http = h11.Connection(h11.CLIENT)
    events = [h11.Request(method=method, target=path, headers=list(fields.items())), h11.Data(data=body)]
    async with await dial(tailnet) as stream:
        await stream.send_all(b"".join(http.send(event) or b"" for event in (*events, h11.EndOfMessage())))
        return await read_answer(stream, http)


async def read_answer(stream: trio.abc.Stream, http: h11.Connection) -> Answer:
    status, headers, content = 0, {}, b""
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode(): value.decode() for name, value in event.headers}
        elif isinstance(event, h11.Data):
            content += event.data
        else:
            return Answer(status, headers, content)


async def call_api(tailnet: Tailnet, method: str, path: str, value: object = None) -> Answer:
    """A request of the administrator."""
    body = b"" if value is None else json.dumps(value).encode()
    return await fetch(tailnet, method, f"/api/v2/{path}", body, {"Authorization": f"Bearer {tailnet.api_token}"})


class ControlClient:
    """A ts2021 connection."""

    def __init__(self, stream: trio.abc.Stream, session: ClientSession) -> None:
        self._stream = stream
        self.session = session
        self._bodies: dict[int, bytearray] = {}
        self._statuses: dict[int, int] = {}
        self._ended: set[int] = set()
        self._changed = trio.Condition()

    async def run(self) -> None:
        """Read until the end of the connection."""
        while True:
            try:
                data = await self._stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not data:
                return
            self.session.receive(bytes(data))
            while (event := self.session.next_event()) is not None:
                match event:
                    case HeadersReceived(stream=stream, status=status):
                        self._statuses[stream] = status
                    case DataReceived(stream=stream, data=part):
                        self._bodies.setdefault(stream, bytearray()).extend(part)
                    case StreamEnded(stream=stream) | StreamReset(stream=stream):
                        self._ended.add(stream)
                    case _:
                        pass
            await self.flush()
            async with self._changed:
                self._changed.notify_all()

    async def flush(self) -> None:
        data = self.session.data_to_send()
        if data:
            await self._stream.send_all(data)

    async def start(self, path: str, value: object, method: str = "POST") -> int:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        stream = self.session.request(method, path, {}, body, "lab")
        await self.flush()
        return stream

    async def call(self, path: str, value: object, method: str = "POST") -> tuple[int, bytes]:
        """Status and body of a request."""
        stream = await self.start(path, value, method)
        return await self.finish(stream)

    async def finish(self, stream: int) -> tuple[int, bytes]:
        async with self._changed:
            while stream not in self._ended:
                await self._changed.wait()
        return self._statuses.get(stream, 0), bytes(self._bodies.get(stream, b""))

    async def next_message(self, stream: int) -> Message | None:
        """The next message of a map stream; None at its end."""
        body = self._bodies.setdefault(stream, bytearray())
        async with self._changed:
            while len(body) < 4 or len(body) < 4 + int.from_bytes(body[:4], "little"):
                if stream in self._ended:
                    return None
                await self._changed.wait()
        size = 4 + int.from_bytes(body[:4], "little")
        frame = bytes(body[:size])
        del body[:size]
        return decoded(frame)

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)


async def server_key(tailnet: Address) -> PublicKey:
    answer = await fetch(tailnet, "GET", f"/key?v={VERSION}")
    return PublicKey.from_text(answer.json["publicKey"], MACHINE_PREFIX)


@asynccontextmanager
async def control(tailnet: Address, machine: PrivateKey, random: Random) -> AsyncIterator[ControlClient]:
    """A connection of this machine."""
    handshake = ClientHandshake(machine, await server_key(tailnet), new_key(random), VERSION, "lab")
    stream = await dial(tailnet)
    await stream.send_all(handshake.data_to_send())
    while (channel := handshake.receive(bytes(await stream.receive_some(65536)))) is None:
        pass
    client = ControlClient(stream, ClientSession(channel, handshake.rest))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.flush()
        try:
            yield client
        finally:
            await client.aclose()
            nursery.cancel_scope.cancel()


class Node:
    """A node's keys and requests."""

    def __init__(self, hostname: str, random: Random) -> None:
        self.hostname = hostname
        self.machine, self.key, self.disco = new_key(random), new_key(random), new_key(random)

    def register(self, auth_key: str = "", **fields: Any) -> Message:
        request: Message = {"Version": VERSION, "NodeKey": self.key.public.to_text(NODE_PREFIX)}
        request["Hostinfo"] = {"Hostname": self.hostname}
        if auth_key:
            request["Auth"] = {"AuthKey": auth_key}
        return request | fields

    def map(self, **fields: Any) -> Message:
        request: Message = {"Version": VERSION, "NodeKey": self.key.public.to_text(NODE_PREFIX)}
        request["DiscoKey"] = self.disco.public.to_text(DISCO_PREFIX)
        request["Hostinfo"] = {"Hostname": self.hostname, "NetInfo": {"PreferredDERP": 900}}
        return request | fields

    def poll(self, **fields: Any) -> Message:
        return self.map(Stream=True, KeepAlive=True, **fields)


def stun_request(transaction: bytes) -> bytes:
    """What a Tailscale client sends."""
    head = bytes.fromhex("000100142112a442") + transaction + bytes.fromhex("80220008") + b"tailnode"
    return head + bytes.fromhex("80280004") + (zlib.crc32(head) ^ 0x5354554E).to_bytes(4, "big")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody tells us about."""
    with trio.fail_after(5.0):
        while not condition():  # noqa: ASYNC110  (there is no event for it: it is on the disk, or inside the server)
            await trio.sleep(0.005)

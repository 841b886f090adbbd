# SPDX-License-Identifier: BSD-3-Clause
"""The adapter on loopback: a real connection, plain and with TLS, a server that leaves, and the end."""

import json
import os
import socket
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import h11
import pytest
import trio
import trio.testing

from tests.unit.control.fake_server import Connection, FakeServer
from tests.unit.derp.certificates import issue
from ts4nsnet.control import Client, Config, Identity, events
from ts4nsnet.control.adapter import Wake, run
from ts4nsnet.control.credentials import AuthKey
from ts4nsnet.control.hostinfo import OwnHostinfo
from ts4nsnet.keys import PrivateKey

GOOD = issue("127.0.0.1")


@dataclass
class Served:
    """A fake coordination server on a port of loopback."""

    server: FakeServer = field(default_factory=lambda: FakeServer(Random(1)))
    folder: Path | None = None  # where certificates are, for TLS
    port: int = 0
    heads: list[str] = field(default_factory=list)
    streams: list[trio.abc.Stream] = field(default_factory=list)
    mute: bool = False  # takes requests and says nothing
    pinged: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.abc.Stream) -> None:
        if self.folder is not None:
            context = GOOD.server_context(self.folder)
            stream = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        self.streams.append(stream)
        try:
            await self._speak(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _speak(self, stream: trio.abc.Stream) -> None:
        first = bytes(await stream.receive_some(10_000))
        if self.mute:
            await trio.sleep_forever()
        if not first.startswith(b"POST /ts2021"):
            await self._plain(stream, first)
            return
        connection = Connection(self.server)
        connection.receive(first)
        await stream.send_all(connection.data_to_send())
        while data := await stream.receive_some(10_000):
            connection.receive(bytes(data))
            if out := connection.data_to_send():
                await stream.send_all(out)

    async def _plain(self, stream: trio.abc.Stream, data: bytes) -> None:
        http = h11.Connection(h11.SERVER)
        http.receive_data(data)
        request = http.next_event()
        assert isinstance(request, h11.Request)
        self.heads.append(f"{request.method.decode()} {request.target.decode()}")
        body = b""
        if request.target.startswith(b"/key"):
            body = json.dumps({"publicKey": self.server.key.public.to_text("mkey:")}).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        await stream.send_all(head + body)
        if request.method == b"HEAD":
            self.pinged.set()


@asynccontextmanager
async def serving(served: Served) -> AsyncIterator[Served]:
    (listener,) = await trio.open_tcp_listeners(served.port, host="127.0.0.1")
    served.port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, served.serve, [listener])
        yield served
        nursery.cancel_scope.cancel()


def client_of(served: Served, scheme: str = "http") -> Client:
    keys = [PrivateKey(os.urandom(32)) for _ in range(3)]
    return Client(
        Config(f"{scheme}://127.0.0.1:{served.port}", AuthKey("tskey-auth-good")),
        Identity(keys[0], keys[1], keys[2].public),
        OwnHostinfo("box", "1.80.0"),
        random=os.urandom,
        wall=time.time,
        now=trio.current_time(),
    )


@asynccontextmanager
async def running(
    client: Client, environ: dict[str, str] | None = None
) -> AsyncIterator[tuple[Wake, trio.MemoryReceiveChannel[events.Event]]]:
    """The client under its adapter; what it tells."""
    send, receive = trio.open_memory_channel[events.Event](16)
    wake = Wake()
    async with trio.open_nursery() as nursery, receive:

        async def drive() -> None:
            async with send:
                await run(client, send, wake, environ=environ or {})

        nursery.start_soon(drive)
        yield wake, receive
        nursery.cancel_scope.cancel()


async def next_of(told: trio.MemoryReceiveChannel[events.Event], kind: type, seconds: float = 10.0) -> events.Event:
    with trio.fail_after(seconds):
        while not isinstance(event := await told.receive(), kind):
            pass
    return event


async def test_joining_and_leaving() -> None:
    async with serving(Served()) as served:
        client = client_of(served)
        async with running(client) as (wake, told):
            await next_of(told, events.NetMapChanged)
            client.logout(trio.current_time())
            wake.set()
            await next_of(told, events.LoggedOut)
            with pytest.raises(trio.EndOfChannel), trio.fail_after(10):
                await told.receive()  # `run` has returned
    assert served.heads == ["GET /key?v=130"]


async def test_joining_over_tls_with_an_authority_of_our_own(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(GOOD.pem)
    async with serving(Served(folder=tmp_path)) as served:
        async with running(client_of(served, "https"), {"SSL_CERT_FILE": str(file)}) as (_, told):
            await next_of(told, events.NetMapChanged)
        async with running(client_of(served, "https")) as (_, told):
            lost = await next_of(told, events.Disconnected)
            assert isinstance(lost, events.Disconnected)
            assert "put its authority into SSL_CERT_FILE" in lost.reason


async def test_a_server_that_goes_and_comes_back() -> None:
    served = Served()
    async with serving(served):
        client = client_of(served)
        async with running(client) as (_, told):
            await next_of(told, events.NetMapChanged)
            await trio.aclose_forcefully(served.streams[-1])
            await next_of(told, events.Disconnected)
            await next_of(told, events.Connected)
    assert len(served.server.polls) == 2


async def test_a_connection_that_is_reset() -> None:
    async with serving(Served()) as served, running(client_of(served)) as (_, told):
        await next_of(told, events.NetMapChanged)
        stream = served.streams[-1]
        assert isinstance(stream, trio.SocketStream)
        # close() then sends a reset
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(stream)
        lost = await next_of(told, events.Disconnected)
        assert lost == events.Disconnected("the connection broke")


async def test_a_server_that_says_nothing(mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 100.0
    async with serving(Served(mute=True)) as served, running(client_of(served)) as (_, told):
        lost = await next_of(told, events.Disconnected, seconds=100.0)
        assert lost == events.Disconnected("the server's key: no answer within 10 s")


async def test_a_server_that_is_not_there() -> None:
    served = Served()
    async with serving(served):
        pass
    async with running(client_of(served)) as (_, told):
        lost = await next_of(told, events.Disconnected)
        assert isinstance(lost, events.Disconnected)
        assert "refused" in lost.reason
        async with serving(served):
            await next_of(told, events.Connected)


async def test_a_ping_of_the_servers_is_a_request_of_its_own() -> None:
    async with serving(Served()) as served:
        url = f"http://127.0.0.1:{served.port}/machine/ping-response?id=1"
        node = {"ID": 1, "StableID": "n1", "Name": "box.a.", "Addresses": ["100.64.0.1/32"], "Key": f"nodekey:{1:064x}"}
        served.server.messages = [{"Node": node}, {"PingRequest": {"URL": url}}]
        async with running(client_of(served)) as (_, told):
            await next_of(told, events.Connected)
            with trio.fail_after(10):
                await served.pinged.wait()
    assert served.heads == ["GET /key?v=130", "HEAD /machine/ping-response?id=1"]


async def test_a_bell_that_rang_before_is_heard() -> None:
    wake = Wake()
    wake.set()
    wake.set()
    with trio.fail_after(1):
        await wake.wait()
    with trio.move_on_after(0.01) as scope:
        await wake.wait()
    assert scope.cancelled_caught

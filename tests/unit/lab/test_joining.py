# SPDX-License-Identifier: BSD-3-Clause
"""Our own control client on the lab, over real sockets."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

from tests.unit.lab.clients import call_api, new_key
from ts4nsnet.control import Client, Config, Credential, Identity, NetMap, credential
from ts4nsnet.control.adapter import Wake, run
from ts4nsnet.control.events import (
    Event,
    LoginUrlReceived,
    NetMapChanged,
    NodeKeyExpired,
    Registered,
    RegistrationRefused,
)
from ts4nsnet.control.hostinfo import EndpointKind, NetInfo, OwnEndpoint, OwnHostinfo
from ts4nsnet.lab import Settings, Tailnet

Kind = TypeVar("Kind", bound=Event)
ENDPOINT = OwnEndpoint((ip_network("192.0.2.1/32").network_address, 41641), EndpointKind.LOCAL)


class Joined:
    """A running client, and what it has told."""

    def __init__(self, client: Client, told: trio.MemoryReceiveChannel[Event], wake: Wake) -> None:
        self.client = client
        self.wake = wake
        self.netmap: NetMap | None = None
        self._told = told

    async def next(self, kind: type[Kind]) -> Kind:
        """The next event of a kind; those before it are read."""
        with trio.fail_after(5.0):
            while True:
                event = await self._told.receive()
                if isinstance(event, NetMapChanged):
                    self.netmap = event.netmap
                if isinstance(event, kind):
                    return event

    async def map_where(self, condition: Callable[[NetMap], bool]) -> NetMap:
        """The first netmap, the last one included, that is as wanted."""
        while self.netmap is None or not condition(self.netmap):
            await self.next(NetMapChanged)
        return self.netmap


@asynccontextmanager
async def joining(
    tailnet: Tailnet,
    name: str,
    random: Random,
    entry: Credential | None,
    host: OwnHostinfo | None = None,
) -> AsyncIterator[Joined]:
    """A node of that name, as long as the context lasts."""
    identity = Identity(new_key(random), new_key(random), new_key(random).public)
    host = host or OwnHostinfo(name, "1.0", net_info=NetInfo(preferred_derp=900))
    config = Config(tailnet.control_url, entry)
    client = Client(config, identity, host, random=random.randbytes, wall=time.time, now=trio.current_time())
    client.set_endpoints([ENDPOINT], trio.current_time())
    send, receive = trio.open_memory_channel[Event](64)
    wake = Wake()
    async with trio.open_nursery() as nursery:

        async def running() -> None:
            await run(client, send, wake, environ={"SSL_CERT_FILE": str(tailnet.ca)})

        nursery.start_soon(running)
        yield Joined(client, receive, wake)
        nursery.cancel_scope.cancel()


def key_of(tailnet: Tailnet, *, reusable: bool = True) -> Credential | None:
    return credential(auth_key=tailnet.auth_key(reusable=reusable))


def peers(netmap: NetMap) -> set[str]:
    return {peer.host_name for peer in netmap.peers.values()}


async def test_two_nodes_join_and_learn_of_each_other(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet, joining(tailnet, "alice", random, key_of(tailnet)) as alice:
        await alice.next(Registered)
        first = await alice.map_where(lambda _: True)
        assert first.self_node.name == "alice.lab.internal."
        [region] = first.derp_map.regions.values()
        [relay] = region.nodes
        assert relay.stun_port == relay.derp_port
        assert first.packet_filter
        assert first.magic_dns_suffix == "lab.internal"
        async with joining(tailnet, "bob", random, key_of(tailnet)) as bob:
            await bob.map_where(lambda netmap: peers(netmap) == {"alice"})
            seen = await alice.map_where(
                lambda netmap: any(peer.home_derp == 900 and peer.endpoints for peer in netmap.peers.values())
            )
            [peer] = seen.peers.values()
            assert peer.online is True
            assert peer.addresses
            bob.client.logout(trio.current_time())
            bob.wake.set()
            await alice.map_where(lambda netmap: not netmap.peers)
            assert [node.name for node in tailnet.nodes()] == ["alice.lab.internal"]


async def test_restart_of_the_server_is_survived(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet:
        key = key_of(tailnet)
        url = urlsplit(tailnet.control_url)
        listen = (url.hostname or "", url.port or 0)
    async with joining(tailnet, "alice", random, key) as alice:  # which finds nobody at first
        async with Tailnet(tmp_path, listen) as first:
            before = await alice.map_where(lambda netmap: bool(netmap.packet_filter))
            first.set_policy({"acls": []})
            await alice.map_where(lambda netmap: not netmap.packet_filter)
        async with Tailnet(tmp_path, listen) as second:
            second.set_policy({})
            after = await alice.map_where(lambda netmap: bool(netmap.packet_filter))
            assert after.self_node.addresses == before.self_node.addresses
            assert [(node.name, node.online) for node in second.nodes()] == [("alice.lab.internal", True)]


async def test_login_page_lets_our_client_in(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet, joining(tailnet, "alice", random, None) as alice:
        url = (await alice.next(LoginUrlReceived)).url
        tailnet.approve_login(url, "carol@lab")
        assert (await alice.next(Registered)).login_name == "carol@lab"
        await alice.map_where(lambda _: True)


async def test_spent_key_is_told(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet:
        entry = key_of(tailnet, reusable=False)
        async with joining(tailnet, "alice", random, entry) as alice:
            await alice.next(Registered)
            async with joining(tailnet, "bob", random, entry) as bob:
                assert (await bob.next(RegistrationRefused)).text == "authkey already used"


async def test_oauth_client_secret_and_id_token(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet:
        client = (await call_api(tailnet, "POST", "tailnet/-/keys", {"keyType": "client", "tags": ["tag:ci"]})).json
        wish: dict[str, Any] = {"keyType": "federated", "tags": ["tag:ci"], "tokens": ["a.b.c"]}
        federated = (await call_api(tailnet, "POST", "tailnet/-/keys", wish)).json
        url = tailnet.control_url
        secret = credential(client_secret=f"{client['key']}?baseURL={url}", tags=("tag:ci",), control_url=url)
        [believed] = wish["tokens"]
        token = credential(client_id=federated["id"], id_token=believed, tags=("tag:ci",), control_url=url)
        host = OwnHostinfo("one", "1.0", tags=("tag:ci",))
        for entry in (secret, token):
            async with joining(tailnet, "one", random, entry, host) as node:
                await node.next(Registered)
        assert [(node.tags, node.ephemeral) for node in tailnet.nodes()] == [(("tag:ci",), True)] * 2


async def test_node_that_is_deleted_comes_back_by_its_key(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet, joining(tailnet, "alice", random, key_of(tailnet)) as alice:
        await alice.map_where(lambda _: True)
        [node] = tailnet.nodes()
        tailnet.delete(node.node_id)
        await alice.next(Registered)
        back = await alice.map_where(lambda netmap: netmap.self_node.id != node.node_id)
        assert back.self_node.host_name == "alice"


async def test_key_that_expires_is_renewed(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet, joining(tailnet, "alice", random, key_of(tailnet)) as alice:
        await alice.map_where(lambda _: True)
        [node] = tailnet.nodes()
        tailnet.expire(node.node_id)
        await alice.next(NodeKeyExpired)
        assert (await alice.next(Registered)).changed
        [again] = tailnet.nodes()
        assert (again.node_id, again.addresses) == (node.node_id, node.addresses)
        assert again.key != node.key


async def test_node_answers_pings(tmp_path: Path) -> None:
    random = Random(7)
    async with Tailnet(tmp_path) as tailnet, joining(tailnet, "alice", random, key_of(tailnet)) as alice:
        await alice.map_where(lambda _: True)
        [node] = tailnet.nodes()
        with trio.fail_after(5.0):
            assert await tailnet.ping(node.node_id) == b""
            payload = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
            answer = await tailnet.ping(node.node_id, "c2n", payload=payload)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"hello")


async def test_offline_peer_is_told_after_the_grace(tmp_path: Path) -> None:
    random = Random(7)
    settings = Settings(offline_grace_time=0.05)
    async with (
        Tailnet(tmp_path, settings=settings) as tailnet,
        joining(tailnet, "alice", random, key_of(tailnet)) as alice,
    ):
        async with joining(tailnet, "bob", random, key_of(tailnet)):
            await alice.map_where(lambda netmap: any(peer.online for peer in netmap.peers.values()))
        await alice.map_where(lambda netmap: any(peer.online is False for peer in netmap.peers.values()))

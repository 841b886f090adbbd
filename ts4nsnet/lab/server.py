# SPDX-License-Identifier: BSD-3-Clause
"""A whole tailnet on one address: coordination server, relay, STUN server, pages and API.

    async with Tailnet(directory) as tailnet:
        key = tailnet.auth_key()         # for nodes, with tailnet.control_url and tailnet.ca
        tailnet.set_policy({"acls": []})
        tailnet.nodes()

The state directory belongs to one server at a time. What changes is on disk within a second, and when the server ends;
who starts a server on the same directory and address is, for the nodes, the same server.

The address must be an IP literal that nodes can reach, as it is in the certificate and in the DERP map (control.md 3.2
has the price of other control URLs).
"""

import json
import os
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.lab import certificates
from ts4nsnet.lab.control import Coordinator, Settings
from ts4nsnet.lab.credentials import DEFAULT_KEY_TIME, KeyRefused, KeyWish, Random
from ts4nsnet.lab.errors import LabError
from ts4nsnet.lab.model import DEFAULT_USER, Node, Prefix, State
from ts4nsnet.lab.relay import Rate, Relay
from ts4nsnet.lab.responses import Json, derp_region_json
from ts4nsnet.lab.serving import Server
from ts4nsnet.lab.store import Store
from ts4nsnet.lab.web import Web

REGION_ID = 900
TOKEN_FILE = "api-token"  # noqa: S105  (a file's name)
KEY_FILE = "auth-key"
PORT_TRIES = 20  # for a port number that is free in TCP and UDP

_SLOW = (trio.Cancelled, BaseExceptionGroup)


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as the server knows it. Times are Unix seconds."""

    node_id: int
    name: str  # without the final dot
    key: PublicKey
    addresses: tuple[IPv4Address, IPv6Address]
    login: str
    tags: tuple[str, ...]
    online: bool
    ephemeral: bool
    expires_at: float | None
    advertised: tuple[Prefix, ...]
    routes: tuple[Prefix, ...]  # advertised and approved
    endpoints: tuple[str, ...]
    home_derp: int


class Tailnet:
    """The servers of one tailnet, while the context lasts.

    Args:
        directory: the state directory; made if it is not there.
        listen: IP literal and port; port 0: any that is free.
        settings: times and names.
        relay_rate: how fast each client of the relay may send; None: as fast as it can.
        random: so many unpredictable bytes.

    Raises:
        LabError: on entering, when the directory or the address cannot be used.
    """

    def __init__(
        self,
        directory: Path,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        *,
        settings: Settings | None = None,
        relay_rate: Rate | None = None,
        random: Random = os.urandom,
    ) -> None:
        self._directory = directory
        self._listen = listen
        self._settings = settings or Settings()
        self._relay_rate = relay_rate
        self._random = random
        self._running: AbstractAsyncContextManager[None] | None = None
        self._server: Server | None = None
        self.control_url = ""
        self.ca = directory / certificates.CA_FILE
        self.api_token = ""
        self.kept_auth_key = ""  # reusable, ephemeral; the same after a restart

    async def __aenter__(self) -> Self:
        self._running = self._run()
        await self._running.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._running is None:
            return None
        # an exception of the body is its own; only what comes from our tasks belongs into their nursery
        if error is None or isinstance(error, _SLOW):
            return await self._running.__aexit__(kind, error, traceback)
        await self._running.__aexit__(None, None, None)
        return None

    # --- what a test or a command wants to know and do ------------------------------------------------------------

    @property
    def coordinator(self) -> Coordinator:
        """The coordination server's decisions; who changes something calls `changed` afterwards."""
        return self._serving.coordinator

    @property
    def relay(self) -> Relay:
        """The relay."""
        return self._serving.relay

    def changed(self) -> None:
        """Hand on what a verb of `coordinator` or `relay` has brought about."""
        self._serving.dispatch()

    def auth_key(
        self,
        *,
        reusable: bool = True,
        ephemeral: bool = True,
        tags: Sequence[str] = (),
        user: str = DEFAULT_USER,
        valid_time: float = DEFAULT_KEY_TIME,
    ) -> str:
        """A new pre-auth key; `valid_time` in seconds. Raises `Refused` for tags that are none."""
        wish = KeyWish(reusable, ephemeral, tuple(tags), user, valid_time)
        _, secret = self.coordinator.keyring.create_key(wish, time.time())
        self.changed()
        return secret.text

    def set_policy(self, policy: str | Mapping[str, object]) -> None:
        """Put a policy file, or its JSON value, in force; raises `PolicyError`, and the old one stays."""
        text = policy if isinstance(policy, str) else json.dumps(policy, indent=1)
        self.coordinator.set_policy(text, trio.current_time())
        self.changed()

    def nodes(self) -> list[NodeStatus]:
        """The nodes, in the order in which they joined."""
        nodes = self.coordinator.directory.nodes
        return [_status(nodes[node_id], self._settings.suffix) for node_id in sorted(nodes)]

    def delete(self, node_id: int) -> None:
        """Remove a node; raises `Refused` if there is none."""
        self.coordinator.delete(node_id, trio.current_time())
        self.changed()

    def expire(self, node_id: int, in_time: float | None = 0.0) -> None:
        """Let a node's key expire, so many seconds from now; None: never. Raises `Refused` if there is none."""
        at = None if in_time is None else time.time() + in_time
        self.coordinator.expire(node_id, at, trio.current_time())
        self.changed()

    def approve_routes(self, node_id: int, routes: Sequence[str]) -> None:
        """Set the routes that a node may have when it advertises them; raises `Refused` if there is no such node."""
        self.coordinator.approve_routes(node_id, frozenset(map(ip_network, routes)), trio.current_time())
        self.changed()

    def approve_login(self, auth_url: str, user: str = DEFAULT_USER) -> None:
        """Let the node behind a login URL in, as somebody would do on its page; raises `Refused`."""
        login_id = self.coordinator.registrar.login_id_of(auth_url) or ""
        self.coordinator.approve_login(login_id, user, trio.current_time())
        self.changed()

    async def ping(self, node_id: int, types: str = "", *, payload: bytes = b"", address: str = "") -> bytes:
        """Ask a node something, wait for the answer; see `Coordinator.ping`. Raises `Refused`."""
        coordinator = self.coordinator
        ping = coordinator.ping(node_id, trio.current_time(), types=types, payload=payload, address=address)
        answered = trio.Event()
        self._serving.outlets[ping] = answered.set
        self.changed()
        try:
            await answered.wait()
        finally:
            del self._serving.outlets[ping]
            coordinator.forget_ping(ping)
        return ping.answer or b""

    # --- running ------------------------------------------------------------------------------------------------------

    @property
    def _serving(self) -> Server:
        if self._server is None:
            raise LabError("the tailnet does not run: use it inside of `async with`")
        return self._server

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        store = Store(self._directory)
        try:
            state = store.load() or self._new_state()
            listeners, datagrams = await _listen(*self._listen)
            try:
                async with trio.open_nursery() as nursery:
                    self._server = server = self._compose(store, state, listeners[0])
                    nursery.start_soon(server.run_timers)
                    nursery.start_soon(server.run_saving, store)
                    nursery.start_soon(server.answer_stun, datagrams)
                    context = self._context(store)
                    nursery.start_soon(
                        trio.serve_listeners,
                        server.serve,
                        [trio.SSLListener(each, context, https_compatible=True) for each in listeners],
                    )
                    yield
                    nursery.cancel_scope.cancel()
            finally:
                self._server = None
                datagrams.close()
                for listener in listeners:
                    await trio.aclose_forcefully(listener)
            store.save(state)
        finally:
            store.close()

    def _new_state(self) -> State:
        return State(PrivateKey(self._random(32)), PrivateKey(self._random(32)))

    def _compose(self, store: Store, state: State, listener: trio.SocketListener) -> Server:
        """Make all parts, for the address that was bound."""
        host, port = listener.socket.getsockname()[:2]
        address = ip_address(host)
        self.control_url = f"https://[{host}]:{port}" if address.version == 6 else f"https://{host}:{port}"
        certified = certificates.prepare(store, address, state.relay_key.public, time.time())
        region = derp_region_json(
            REGION_ID, host, port, certified.leaf_sha256, stun_port=port, ipv6=address.version == 6
        )
        derp_map: Json = {"Regions": {str(REGION_ID): region}}
        now = trio.current_time()
        coordinator = Coordinator(state, self._settings, self.control_url, derp_map, self._random, now, time.time())

        def admits(key: PublicKey) -> bool:
            return coordinator.admits(key, trio.current_time())

        self.api_token = self._token(store)
        self.kept_auth_key = self._key(store, coordinator)
        relay = Relay(state.relay_key, admits, self._random, self._relay_rate)
        return Server(coordinator, relay, Web(coordinator, self.api_token), self._random)

    def _context(self, store: Store) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(store.directory / certificates.CHAIN_FILE)
        return context

    def _token(self, store: Store) -> str:
        text = (store.read(TOKEN_FILE) or b"").decode(errors="replace").strip()
        if not text:  # an empty one would be everybody's
            text = "tskey-api-" + self._random(20).hex()
            store.write(TOKEN_FILE, text.encode() + b"\n")
        return text

    def _key(self, store: Store, coordinator: Coordinator) -> str:
        text = (store.read(KEY_FILE) or b"").decode(errors="replace").strip()
        try:
            coordinator.keyring.check_key(text, time.time())
        except KeyRefused:
            _, secret = coordinator.keyring.create_key(KeyWish(reusable=True, ephemeral=True), time.time())
            text = secret.text
            store.write(KEY_FILE, text.encode() + b"\n")
        return text


async def _listen(host: str, port: int) -> tuple[list[trio.SocketListener], trio.socket.SocketType]:
    """Listen on one port number with TCP and UDP."""
    try:
        address = ip_address(host)
    except ValueError:
        raise LabError(f"listen address {host!r}: want an IP address that nodes can reach") from None
    if address.is_unspecified or address.is_multicast:
        raise LabError(f"listen address {host}: want one address that nodes can reach; it is put into the certificate")
    family = trio.socket.AF_INET6 if address.version == 6 else trio.socket.AF_INET
    for attempt in range(PORT_TRIES):
        datagrams = trio.socket.socket(family, trio.socket.SOCK_DGRAM)
        listeners: list[trio.SocketListener] = []
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
            await datagrams.bind((host, listeners[0].socket.getsockname()[1]))
        except OSError as error:
            datagrams.close()
            for listener in listeners:
                await listener.aclose()
            if port or attempt == PORT_TRIES - 1:
                raise LabError(f"cannot listen on {host} port {port}: {error.strerror}") from None
        else:
            return listeners, datagrams
    raise AssertionError("unreachable: the last attempt returns or raises")


def _status(node: Node, suffix: str) -> NodeStatus:
    return NodeStatus(
        node_id=node.node_id,
        name=f"{node.label}.{suffix}",
        key=node.key,
        addresses=(node.ipv4, node.ipv6),
        login=node.login,
        tags=node.tags,
        online=node.online,
        ephemeral=node.ephemeral,
        expires_at=node.key_expires_at,
        advertised=node.hostinfo.routes,
        routes=node.routes,
        endpoints=node.endpoints,
        home_derp=node.home_derp,
    )

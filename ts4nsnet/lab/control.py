# SPDX-License-Identifier: BSD-3-Clause
"""The coordination server's decisions, sans-I/O: who joins, what everybody is told, who is online, who is forgotten.

    requests ──► register, map ──► registration.py ─┐
    page, API ─► delete, expire, … ─────────────────┼──► directory.py ──► fanout.py ──► MapStream.take()
    clock ─────► handle_timer ──────────────────────┘        │
                                                  next_event(): Ready, KeyRetired

Whoever calls a verb then asks for events: `Ready` names a map stream with frames, or a register reply that had to wait;
`KeyRetired` is for the relay. Nothing here waits for anything.

A node is online while its stream is open and `offline_grace_time` beyond, as clients come back after a moment. An
ephemeral node is removed `ephemeral_time` after its last stream ended, at once when it logs out. After a start, nodes
that were online when the state was saved stay so for `restart_grace_time`, so that the first one to return does not see
everybody offline; and all ephemeral nodes have their whole time again.

Source: control.md 3.6, 4.5, 5.1, 5.3, 10.6.
"""

import base64
from collections import Counter, deque
from dataclasses import dataclass
from enum import IntEnum

from ts4nsnet.keys import PublicKey
from ts4nsnet.lab.credentials import Keyring, Random
from ts4nsnet.lab.directory import Directory, Owner
from ts4nsnet.lab.errors import Refused
from ts4nsnet.lab.fanout import FLUSH_TIME, Fanout, MapStream
from ts4nsnet.lab.model import Node, Prefix, State
from ts4nsnet.lab.registration import MIN_VERSION, Registrar, Reply
from ts4nsnet.lab.requests import MapRequest, RegisterRequest
from ts4nsnet.lab.responses import Json, self_json, time_text
from ts4nsnet.lab.timers import Timers

KEEP_ALIVE_TIME = 50.0  # seconds of silence (control.md 5.3); clients give up after 120
# ours: silent streams are looked for this often, so keep-alives come after 50 to 55 s
SWEEP_TIME = 5.0
PING_PATH = "/machine/ping/"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a lab may want to have otherwise. Times in seconds.

    Args:
        suffix: MagicDNS suffix, without dots around it.
        offline_grace_time: after the end of a node's stream, until it counts as offline.
        restart_grace_time: after a start, the same for nodes that were online before.
        ephemeral_time: after the end of an ephemeral node's stream, until it is removed.
        key_time: until a user's node must log in again; None: never.
        dead_time: whole seconds, at least 2: a connection whose client acknowledges nothing for so long is closed.
    """

    suffix: str = "lab.internal"
    offline_grace_time: float = 10.0
    restart_grace_time: float = 15.0
    ephemeral_time: float = 120.0
    key_time: float | None = 180 * 86400.0
    dead_time: int = 20


@dataclass(eq=False)
class Ping:
    """A question to a node; `answer` is the body that it posted, b"" for a HEAD; None: not yet."""

    node: Node
    answer: bytes | None = None


Outlet = MapStream | Reply | Ping


@dataclass(frozen=True, slots=True)
class Ready:
    """There is something to send: frames of a stream (or its end), the answer to a register request or a ping."""

    outlet: Outlet


@dataclass(frozen=True, slots=True)
class KeyRetired:
    """A node key is no longer valid: the relay closes its connections."""

    key: PublicKey


Event = Ready | KeyRetired


class _Timer(IntEnum):
    FLUSH = 0
    SWEEP = 1
    OFFLINE = 2
    EPHEMERAL = 3


class Coordinator:
    """A tailnet's control server.

    Args:
        state: what was saved, or a new one; changed in place.
        settings: see there.
        base_url: "https://10.0.0.1:8443".
        derp_map: the DERPMap object.
        random: so many unpredictable bytes.
        now: CLOCK_BOOTTIME seconds.
        wall: Unix seconds at `now`.
    """

    def __init__(
        self, state: State, settings: Settings, base_url: str, derp_map: Json, random: Random, now: float, wall: float
    ) -> None:
        self.state = state
        self.settings = settings
        self.directory = Directory(state, settings.suffix, settings.key_time)
        self.keyring = Keyring(state, random)
        self.registrar = Registrar(self.directory, self.keyring, base_url, random, self._drop)
        self.counters: Counter[str] = Counter()
        self._fanout = Fanout(self.directory, derp_map)
        self._base_url = base_url
        self._random = random
        self._wall_offset = wall - now
        self._events: deque[Event] = deque()
        self._timers: Timers[tuple[_Timer, int]] = Timers()
        self._pings: dict[str, Ping] = {}
        for node in self.directory.nodes.values():
            if node.online:
                self._timers.set((_Timer.OFFLINE, node.node_id), now + settings.restart_grace_time)
            self._watch_ephemeral(node, now)
        self._timers.set((_Timer.SWEEP, 0), now + SWEEP_TIME)

    # --- the verbs ----------------------------------------------------------------------------------------------------

    def register(self, machine: PublicKey, body: bytes, now: float) -> Reply:
        """`POST /machine/register` of the machine that the handshake proved; raises `Refused`."""
        request = RegisterRequest.parse(body)
        reply = self.registrar.register(machine, request, self.wall(now))
        self.counters["register"] += 1
        node = self.directory.of_machine(machine)
        if node is not None:
            self._watch_ephemeral(node, now)
        self._changed(now)
        return reply

    def map(self, machine: PublicKey, body: bytes, now: float) -> MapStream | bytes:
        """`POST /machine/map`: a stream, or the body of a response that ends there; raises `Refused`."""
        request = MapRequest.parse(body)
        if request.version < MIN_VERSION:
            raise Refused(400, f"unsupported client version: {request.version}, want at least {MIN_VERSION}")
        node = self.directory.find(machine, request.node_key)
        wall = self.wall(now)
        if not request.read_only:
            self._learn(node, request)
        if request.stream:
            self.counters["poll"] += 1
            self._timers.cancel((_Timer.OFFLINE, node.node_id))
            self._timers.cancel((_Timer.EPHEMERAL, node.node_id))
            self.directory.set_online(node, True, wall)
            stream = self._fanout.open(node, compressed=request.compress, now=now, wall=wall)
            self._changed(now)
            return stream
        self.counters["update"] += 1
        self._changed(now)
        if request.omit_peers and not request.read_only:
            return b""
        frame = self._fanout.full_map(MapStream(node, request.compress), wall)
        return frame.compressed if request.compress else frame.plain

    def close_stream(self, stream: MapStream, now: float) -> None:
        """The client of a stream is gone, or was cut."""
        node = stream.node
        if self._fanout.closed(stream) and node.node_id in self.directory.nodes:
            self._timers.set((_Timer.OFFLINE, node.node_id), now + self.settings.offline_grace_time)
            self._watch_ephemeral(node, now)

    def next_event(self) -> Event | None:
        """What the caller has to do, the oldest first."""
        return self._events.popleft() if self._events else None

    def next_timer(self) -> float:
        """When `handle_timer` has something to do, in seconds as `now`."""
        walls = [at for at in (self.directory.next_expiry(), self.registrar.next_expiry()) if at is not None]
        return min([*(at - self._wall_offset for at in walls), self._timers.next() or float("inf")])

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        wall = self.wall(now)
        self.directory.expire_due(wall)
        self.registrar.expire_logins(wall)
        self._changed(now)
        while (due := self._timers.pop_due(now)) is not None:
            timer, node_id = due
            node = self.directory.nodes.get(node_id)
            if timer is _Timer.FLUSH:
                self._fanout.flush(now, wall)
            elif timer is _Timer.SWEEP:
                self._fanout.keep_alive(now - KEEP_ALIVE_TIME, now)
                self._timers.set((_Timer.SWEEP, 0), now + SWEEP_TIME)
            elif timer is _Timer.OFFLINE and node is not None:
                self.directory.set_online(node, False, wall)
            elif timer is _Timer.EPHEMERAL and node is not None:
                self.counters["ephemeral removed"] += 1
                self._drop(node)
        self._changed(now)

    def wall(self, now: float) -> float:
        """Unix seconds at `now`."""
        return now + self._wall_offset

    def set_clock(self, now: float, wall: float) -> None:
        """Follow the machine's clock, which may have been set."""
        self._wall_offset = wall - now

    def take_unsaved(self) -> bool:
        """Whether the state must be saved; then it counts as saved."""
        saved = self.directory.is_saved and self.keyring.is_saved
        self.directory.is_saved = self.keyring.is_saved = True
        return not saved

    # --- for the page, the API and tests ------------------------------------------------------------------------------

    def node(self, node_id: int) -> Node:
        """A node; raises `Refused` (404)."""
        node = self.directory.nodes.get(node_id)
        if node is None:
            raise Refused(404, "no node has this id")
        return node

    def admits(self, key: PublicKey, now: float) -> bool:
        """Whether the relay may serve the owner of this node key."""
        node = self.directory.of_key(key)
        return node is not None and not node.is_expired(self.wall(now))

    def delete(self, node_id: int, now: float) -> None:
        """Remove a node; it is told that its key has expired, which every client understands. Raises `Refused`."""
        node = self.node(node_id)
        wall = self.wall(now)
        value = self_json(self.directory.entry(node, wall).json, ())
        self._fanout.send(node, {"Node": value | {"KeyExpiry": time_text(wall - 1)}}, now)
        self._drop(node)
        self._changed(now)

    def expire(self, node_id: int, expires_at: float | None, now: float) -> None:
        """Set when a node's key expires, Unix seconds, also in the past; None: never. Raises `Refused`."""
        node = self.node(node_id)
        if expires_at is not None and expires_at <= self.wall(now):
            self.directory.expire(node, self.wall(now))
        else:
            self.directory.set_expiry(node, expires_at)
        self._changed(now)

    def approve_routes(self, node_id: int, routes: frozenset[Prefix], now: float) -> None:
        """Set the routes that a node may have when it advertises them; raises `Refused`."""
        self.directory.approve_routes(self.node(node_id), routes)
        self._changed(now)

    def approve_login(self, login_id: str, login: str, now: float) -> Node:
        """Let the node behind a login page in; raises `Refused`."""
        node = self.registrar.approve(login_id, Owner(login), self.wall(now))
        self._watch_ephemeral(node, now)
        self._changed(now)
        return node

    def set_policy(self, text: str, now: float) -> None:
        """Put a policy in force; raises `PolicyError`, and the old one stays."""
        self.directory.set_policy(text)
        self._changed(now)

    def set_derp_map(self, derp_map: Json, now: float) -> None:
        """Send everybody another DERPMap; a region in use had better stay (control.md 6)."""
        self._fanout.derp_map = derp_map
        self._fanout.send_all({"DERPMap": derp_map}, now)
        self._changed(now)

    def set_dns(self, dns: Json, now: float) -> None:
        """Send everybody other members of DNSConfig (Resolvers, Routes, ExtraRecords …), on top of MagicDNS."""
        self._fanout.dns = dns
        self._fanout.send_all({"DNSConfig": {"Proxied": True, "Domains": [self.settings.suffix]} | dns}, now)
        self._changed(now)

    def send(self, node_id: int, message: Json, now: float) -> None:
        """Send one node a MapResponse of the caller's own, for tests; raises `Refused`."""
        if not self._fanout.send(self.node(node_id), message, now):
            raise Refused(409, "the node has no open map stream")
        self._changed(now)

    def ping(self, node_id: int, now: float, *, types: str = "", payload: bytes = b"", address: str = "") -> Ping:
        """Ask a node something (PingRequest): "" for a HEAD, "c2n" with a request, "disco" and others with an address.

        Raises:
            Refused: there is no such node, or it has no stream.
        """
        ping_id = base64.b32encode(self._random(15)).decode().lower()
        url = f"{self._base_url}{PING_PATH}{ping_id}"
        request: Json = {"URL": url, "URLIsNoise": True, "Types": types}
        if payload:
            request["Payload"] = base64.b64encode(payload).decode()
        if address:
            request["IP"] = address
        self.send(node_id, {"PingRequest": request}, now)
        ping = self._pings[ping_id] = Ping(self.node(node_id))
        return ping

    def answer_ping(self, path: str, machine: PublicKey | None, body: bytes) -> None:
        """A node has answered a ping at `path`; `machine` None: not over Noise. Raises `Refused`."""
        ping = self._pings.get(path.removeprefix(PING_PATH))
        if ping is None or machine not in (None, ping.node.machine):
            raise Refused(404, "no such ping is waiting")
        del self._pings[path.removeprefix(PING_PATH)]
        ping.answer = body
        self._events.append(Ready(ping))

    def forget_ping(self, ping: Ping) -> None:
        """Nobody waits for this answer any more."""
        self._pings = {ping_id: each for ping_id, each in self._pings.items() if each is not ping}

    # --- inside -------------------------------------------------------------------------------------------------------

    def _learn(self, node: Node, request: MapRequest) -> None:
        """Take what a map request says about its node; a poll only adds, as its sender may not know everything yet."""
        directory = self.directory
        directory.set_version(node, request.version)
        if request.hostinfo is not None:
            directory.set_hostinfo(node, request.hostinfo)
        if request.home_derp is not None and (request.home_derp or not request.stream):
            directory.set_home(node, request.home_derp)
        if request.disco is not None:
            directory.set_disco(node, request.disco)
        if request.endpoints is not None and (request.endpoints or not request.stream):
            directory.set_endpoints(node, request.endpoints)

    def _watch_ephemeral(self, node: Node, now: float) -> None:
        name = _Timer.EPHEMERAL, node.node_id
        if node.ephemeral and self._fanout.stream_of(node) is None:
            self._timers.set(name, now + self.settings.ephemeral_time)

    def _drop(self, node: Node) -> None:
        self._fanout.end(node)
        self.directory.remove(node)

    def _changed(self, now: float) -> None:
        """Turn what the last verb left behind into events and a timer."""
        directory, flush = self.directory, (_Timer.FLUSH, 0)
        if (directory.changes or directory.removed or directory.policy_changed) and flush not in self._timers:
            self._timers.set(flush, now + FLUSH_TIME)
        self._events += (KeyRetired(key) for key in directory.retired)
        self._events += (Ready(reply) for reply in self.registrar.answered)
        self._events += (Ready(stream) for stream in self._fanout.ready)
        directory.retired, self.registrar.answered = [], []
        self._fanout.ready.clear()

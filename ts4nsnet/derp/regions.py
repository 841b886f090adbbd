# SPDX-License-Identifier: BSD-3-Clause
"""All relays of a node: which connections to hold open, and which of them a packet takes.

    map, home, key, network ──► set_…  ─┐                     ┌─► next_command     Dial, Hangup        to the adapter
    packets for peers ────────► send   ─┼─► a link per region ┼─► data_to_send     of one connection   to the adapter
    bytes of a connection ────► receive ┘                     └─► next_event       what happened       to the node

A *link* is our wish to be connected to a region: `Waiting` for its next try, `Dialling`, or `Up`. The home region has
one as long as there is a key and a network; any other region gets one when a packet needs it, and loses it after 60 s
without a packet *to* it (looked at every 15 s). While a link is not up, its packets wait, as they do while the relay
takes none. They wait by peers, which take turns (`fair`): who is sent much to delays and costs the others nothing.
Handshakes and disco go before the rest: a path or a session does not come later because there is traffic.

Which way a packet takes: the link to its peer's home region if that is up; else the way on which the peer was last
heard, if that connection still exists (a peer that found us at our home is answered there, instead of dialling its);
else a link to the peer's home region, made if need be. Such *learned routes* end with their connection, and when the
relay says that the peer is gone.

A link that failed waits min(n² · 10 ms, 5 s), times 0.5 to 1.5 at random, before its nth next try, for ever. n starts
anew once a connection has lasted 5 s, so a relay that takes and drops us at once is spared as well. A relay that has
said it restarts is left alone for as long as it asked, up to 10 s.

At most one connection per region: a new one is dialled when the adapter has said that the old one `ended`. Whatever it
says about a connection that we have given up has no effect.

Source: tailscale's wgengine/magicsock/derp.go, util/backoff; our notes on DERP, section 5.
"""

from collections import Counter, deque
from collections.abc import Collection, Sequence

from ts4nsnet.derp.client import Client
from ts4nsnet.derp.errors import DerpError, Drop, Malformed
from ts4nsnet.derp.events import Connected, Disconnected, Event, HealthChanged, HomeLost, PeerGone, Received, Restarting
from ts4nsnet.derp.hello import Random
from ts4nsnet.derp.links import (
    MAX_QUEUED_BYTES,
    Command,
    Dial,
    Dialling,
    Hangup,
    Link,
    LinkStatistics,
    RegionsStatistics,
    Up,
    Waiting,
)
from ts4nsnet.derp.map import DEFAULT_DERP_PORT, Map, Node
from ts4nsnet.keys import PrivateKey, PublicKey

IDLE_TIME = 60.0  # seconds without a packet to a region that is not our home
IDLE_CHECK_TIME = 15.0  # seconds between looking
RETRY_STEP_TIME = 0.010  # seconds, times the square of the number of tries
MAX_RETRY_TIME = 5.0  # seconds
# ours: of packets in one write, unless one is longer: two TLS records. The reference's relay keeps 32 packets per
# receiver: of trains of 45 it lost 20 % when a train was one write; 24 of a tailnet's largest packets fit in this one
MAX_WRITE_BYTES = 1 << 15
# ours: when the queue is half full; what the relay may lose then would be lost here
MAX_FULL_WRITE_BYTES = 1 << 16
MAX_RESTART_TIME = 10.0  # ours: seconds that a relay may ask us to stay away
MAX_ROUTES = 1 << 14  # ours: the longest known leaves first


class Regions:
    """The relays of a node.

    Args:
        random: yields unpredictable bytes (`os.urandom`).
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._seed = int.from_bytes(random(8), "big")
        self._key: PrivateKey | None = None
        self._map = Map()
        self._home = 0
        self._online = True
        self._links: dict[int, Link] = {}
        self._connections: dict[int, int] = {}  # those that the adapter has not ended, and their regions
        self._last_connection = 0
        self._routes: dict[PublicKey, int] = {}  # peer → the connection it was heard on; see MAX_ROUTES
        self._idle_check_at: float | None = None
        self._commands: deque[Command] = deque()
        self._events: deque[Event] = deque()
        self._packets_sent = self._packets_received = 0  # by connections that are over
        self._dropped: Counter[Drop] = Counter()

    # --- configuration ------------------------------------------------------------------------------------------------

    def set_key(self, key: PrivateKey | None, now: float) -> None:
        """Be the node with this key from now on, or nobody; a relay knows us by it, so all connections end."""
        if key is None or self._key is None or key.public != self._key.public:
            self._key = key
            self._drop_links()
        self._settle(now)

    def set_online(self, online: bool, now: float) -> None:
        """Say whether there is a network; without one there are no connections, and no tries."""
        self._online = online
        if not online:
            self._drop_links()
        self._settle(now)

    def set_map(self, new: Map, now: float) -> None:
        """Go by this map; regions that it defines anew, or not any more, are closed, and such a home is none."""
        old, self._map = self._map, new
        for region_id, region in old.regions.items():
            if new.regions.get(region_id) != region:
                self._drop_link(region_id)
                if region_id == self._home:
                    self._home = 0
                    self._events.append(HomeLost(region_id))
        self._settle(now)

    def set_home(self, region_id: int, now: float) -> None:
        """Be reachable through this region; 0: through none. It is connected to as soon as the map has it."""
        self._home = region_id
        for link in self._links.values():
            if isinstance(link.state, Up):
                link.state.client.preferred = link.region_id == region_id
        self._settle(now)

    def fallback_home(self) -> int:
        """A home for who could not measure: the one there is, else one by chance, but always the same; 0 for none."""
        regions = self._map.regions
        choice = [region_id for region_id, region in regions.items() if not region.no_measure_no_home] or list(regions)
        return self._home or (choice[self._seed % len(choice)] if choice else 0)

    def is_connected(self, region_id: int) -> bool:
        """Whether a relay of this region has taken us."""
        link = self._links.get(region_id)
        return link is not None and link.is_ready

    def rebind(self, local_addresses: Collection[str], now: float) -> None:
        """Networks have changed: close connections from other addresses than these, ask the others for an answer."""
        for link in list(self._links.values()):
            if not isinstance(link.state, Up):
                continue
            if link.state.local_address in local_addresses:
                link.state.client.probe(now)
            else:
                self._drop_link(link.region_id)
        self._settle(now)

    # --- packets ------------------------------------------------------------------------------------------------------

    def send(
        self, peer: PublicKey, region_id: int, packets: Sequence[bytes], now: float, *, urgent: bool = False
    ) -> None:
        """Send packets to `peer`, whose home is `region_id` (0: not known); what cannot leave is counted.

        Args:
            urgent: these do not wait behind others: handshakes, disco.
        """
        if self._key is None or not self._online:
            self._dropped[Drop.OFFLINE] += len(packets)
            return
        link = self._way(peer, region_id, now)
        if link is None:
            self._dropped[Drop.NO_REGION] += len(packets)
            return
        link.written_at = now
        queue = link.urgent if urgent else link.queue
        self._dropped[Drop.QUEUE_FULL] += queue.put(peer, packets)

    def next_event(self) -> Event | None:
        """The next thing that happened, or None."""
        return self._events.popleft() if self._events else None

    def _way(self, peer: PublicKey, region_id: int, now: float) -> Link | None:
        link = self._links.get(region_id)
        if link is not None and link.is_ready:
            return link
        if (heard := self._link_of(self._routes.get(peer, 0))) is not None:
            return heard
        if link is None and region_id in self._map.regions:
            link = self._links[region_id] = Link(region_id, Waiting(now), now)
            self._settle(now)
        return link

    # --- the adapter's side -------------------------------------------------------------------------------------------

    @property
    def has_commands(self) -> bool:
        """Whether there is something for the adapter to do."""
        return bool(self._commands)

    def next_command(self) -> Command | None:
        """The next thing for the adapter to do, or None."""
        return self._commands.popleft() if self._commands else None

    def opened(self, connection: int, node: Node, server_key: PublicKey | None, local_address: str, now: float) -> None:
        """There is a stream to `node`: its metacert's key (None: no fast start), and our address (an IP)."""
        link = self._link_of(connection)
        if link is None or not isinstance(link.state, Dialling):
            return
        ideal_node = self._map.regions[link.region_id].nodes[0].name
        try:
            client = Client(
                link.region_id,
                link.state.key,
                self._random,
                link.state.since,
                host=_http_host(node),
                server_key=server_key,
                ideal_node="" if node.name == ideal_node else ideal_node,
                preferred=link.region_id == self._home,
            )
        except Malformed as error:
            self._fail(link, error, now)
        else:
            link.state = Up(connection, client, node.name, local_address)

    def receive(self, connection: int, data: bytes, now: float) -> None:
        """Take bytes of a connection; none of them: the relay has ended it."""
        link = self._link_of(connection)
        if link is not None and isinstance(link.state, Up):
            link.state.client.receive(data, now)
            self._collect(link, link.state, now)

    def ended(self, connection: int, error: DerpError, now: float) -> None:
        """A connection, or the attempt at one, is over and its tasks are, too."""
        if (link := self._link_of(connection)) is not None:
            self._fail(link, error, now)
        self._connections.pop(connection, None)
        self._settle(now)

    def wants_write(self, connection: int) -> bool:
        """Whether `data_to_send` has something for this connection."""
        link = self._link_of(connection)
        if link is None or not isinstance(link.state, Up):
            return False
        return link.state.client.wants_write or (link.state.client.is_ready and link.queued_bytes > 0)

    def data_to_send(self, connection: int, now: float) -> bytes:
        """What is to leave on this connection with one write; ask again when it has left."""
        link = self._link_of(connection)
        if link is None or not isinstance(link.state, Up):
            return b""
        client, limit = link.state.client, MAX_WRITE_BYTES
        if link.queue.size > MAX_QUEUED_BYTES // 2:
            limit = MAX_FULL_WRITE_BYTES
        if client.is_ready:
            for peer, packets in link.urgent.take(limit) or link.queue.take(limit):
                for packet in packets:
                    client.send(peer, packet, now)
        return client.data_to_send()

    # --- time ---------------------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called; None for never."""
        times = [self._idle_check_at]
        for link in self._links.values():
            if isinstance(link.state, Up):
                times.append(link.state.client.next_timer())
            elif isinstance(link.state, Waiting) and not self._is_busy(link.region_id):
                times.append(link.state.until)
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due; nothing before its time."""
        for link in list(self._links.values()):
            if isinstance(link.state, Up):
                link.state.client.handle_timer(now)
                self._collect(link, link.state, now)
        if self._idle_check_at is not None and self._idle_check_at <= now:
            self._idle_check_at = None
            for link in list(self._links.values()):
                if link.region_id != self._home and link.written_at <= now - IDLE_TIME:
                    self._drop_link(link.region_id)
        self._settle(now)

    def statistics(self) -> RegionsStatistics:
        """What happened so far, and how it stands."""
        dropped, sent, received = self._dropped.copy(), self._packets_sent, self._packets_received
        for link in self._links.values():
            if isinstance(link.state, Up):
                client = link.state.client.statistics()
                dropped.update(client.dropped)
                sent += client.packets_sent
                received += client.packets_received
        links = tuple(self._describe(self._links[region_id]) for region_id in sorted(self._links))
        return RegionsStatistics(self._home, links, len(self._routes), sent, received, dict(dropped))

    # --- links --------------------------------------------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Make the home's link if it has none, dial what is due, and look for idle links if there may be some."""
        if self._key is None or not self._online:
            return
        if self._home in self._map.regions and self._home not in self._links:
            self._links[self._home] = Link(self._home, Waiting(now), now)
        for link in self._links.values():
            if isinstance(link.state, Waiting) and link.state.until <= now and not self._is_busy(link.region_id):
                self._last_connection += 1
                self._connections[self._last_connection] = link.region_id
                link.state = Dialling(self._last_connection, now, self._key)
                self._commands.append(Dial(self._last_connection, self._map.regions[link.region_id], link.avoid))
        if self._idle_check_at is None and any(region_id != self._home for region_id in self._links):
            self._idle_check_at = now + IDLE_CHECK_TIME

    def _is_busy(self, region_id: int) -> bool:
        return region_id in self._connections.values()

    def _link_of(self, connection: int) -> Link | None:
        link = self._links.get(self._connections.get(connection, 0))
        return link if link is not None and link.connection == connection else None

    def _collect(self, link: Link, up: Up, now: float) -> None:
        """Pass on what a client has to say, and learn from it."""
        while (event := up.client.next_event()) is not None:
            match event:
                case Received(_, source):
                    self._learn(source, up.connection)
                case PeerGone(_, peer) if self._routes.get(peer) == up.connection:
                    del self._routes[peer]
                case Connected():
                    link.connected_at, link.health, link.error = now, "", ""
                case HealthChanged(_, problem):
                    link.health = problem
                case Restarting(_, reconnect_time):
                    link.away_until = now + min(reconnect_time, MAX_RESTART_TIME)
                case Disconnected(_, error):
                    self._fail(link, error, now)
                    return
            self._events.append(event)

    def _learn(self, peer: PublicKey, connection: int) -> None:
        if self._routes.get(peer) == connection:
            return
        self._routes.pop(peer, None)  # to the end
        self._routes[peer] = connection
        if len(self._routes) > MAX_ROUTES:
            del self._routes[next(iter(self._routes))]

    def _fail(self, link: Link, error: DerpError, now: float) -> None:
        """A link has lost its connection, or not got one: it waits and tries again."""
        if link.connected_at is not None and now - link.connected_at >= MAX_RETRY_TIME:
            link.tries = 0
        link.tries += 1
        link.avoid = link.state.node if isinstance(link.state, Up) and link.connected_at is None else ""
        self._part(link)
        chance = 0.5 + int.from_bytes(self._random(4), "big") / (1 << 32)
        wait = min(link.tries**2 * RETRY_STEP_TIME, MAX_RETRY_TIME) * chance
        link.state = Waiting(max(now + wait, link.away_until))
        link.connected_at, link.health, link.error = None, "", str(error)
        self._events.append(Disconnected(link.region_id, error))

    def _part(self, link: Link) -> None:
        """Take leave of a link's connection."""
        if (connection := link.connection) is None:
            return
        self._commands.append(Hangup(connection))
        for peer in [peer for peer, way in self._routes.items() if way == connection]:
            del self._routes[peer]
        if isinstance(link.state, Up):
            client = link.state.client.statistics()
            self._dropped.update(client.dropped)
            self._packets_sent += client.packets_sent
            self._packets_received += client.packets_received

    def _drop_link(self, region_id: int) -> None:
        if (link := self._links.pop(region_id, None)) is not None:
            self._part(link)
            self._dropped[Drop.REGION_CLOSED] += link.queued_packets

    def _drop_links(self) -> None:
        for region_id in list(self._links):
            self._drop_link(region_id)

    def _describe(self, link: Link) -> LinkStatistics:
        state, node, address, frame_at = type(link.state).__name__.lower(), "", "", None
        if isinstance(link.state, Up):
            client = link.state.client.statistics()
            state, node, address = client.phase.value, link.state.node, link.state.local_address
            frame_at = client.last_frame_at
        return LinkStatistics(
            region_id=link.region_id,
            is_home=link.region_id == self._home,
            state=state,
            node=node,
            local_address=address,
            health=link.health,
            error=link.error,
            tries=link.tries,
            queued_packets=link.queued_packets,
            queued_bytes=link.queued_bytes,
            last_frame_at=frame_at,
        )


def _http_host(node: Node) -> str:
    host = f"[{node.host_name}]" if ":" in node.host_name else node.host_name
    return host if node.derp_port == DEFAULT_DERP_PORT else f"{host}:{node.derp_port}"

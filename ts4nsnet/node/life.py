# SPDX-License-Identifier: BSD-3-Clause
"""A node from the moment on at which it has keys and a TUN.

    control     netmaps, keys, refusals ─┐
    transport   packets, paths, pings   ─┤
    engine      TUN ↔ WireGuard ↔ UDP   ─┼─► Life, in the order in which it comes
    names       questions of the container
    time        keys that expire        ─┘

The parts do not know each other; what each says is passed on here. What a netmap means for them is in wiring.py.
"""

import os
import platform
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import trio

import ts4nsnet
from ts4nsnet import control
from ts4nsnet.control import adapter as control_adapter
from ts4nsnet.control import events as told
from ts4nsnet.control.hostinfo import EndpointKind, OwnEndpoint
from ts4nsnet.endpoint import to_ip, to_text
from ts4nsnet.filter import tsmp
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.magicsock import Pinged
from ts4nsnet.netns import Link, NetnsError
from ts4nsnet.node import state
from ts4nsnet.node.config import Config
from ts4nsnet.node.engine import Engine, Tailnet, TunGone
from ts4nsnet.node.exit_node import ExitNode
from ts4nsnet.node.identity import Identity
from ts4nsnet.node.names import Names
from ts4nsnet.node.offloads import Switches
from ts4nsnet.node.peers import Peers
from ts4nsnet.node.pings import Pings
from ts4nsnet.node.restart import is_at_work
from ts4nsnet.node.statefile import StateError
from ts4nsnet.node.status import Phase, StartFailed, Status
from ts4nsnet.node.surroundings import Surroundings
from ts4nsnet.node.transport import Transport
from ts4nsnet.node.view import View
from ts4nsnet.node.wiring import Admission, Changes, Wiring
from ts4nsnet.packet import Malformed
from ts4nsnet.tailnet import is_tailnet
from ts4nsnet.uring import Train
from ts4nsnet.uring.offloads import OffloadRefused
from ts4nsnet.wireguard import Device, SessionMemory

# ours: seconds after the first calls to a new peer; it hears of us within 0.2 to 0.9 s of our first netmap
EARLY_RETRIES = (0.25, 0.5, 1.0, 2.0)
# ours: seconds after the end's beginning in which the server is to confirm our removal; the keeper gives us 1.85
LEAVE_TIME = 1.8
# ours: likewise, in which a container tool that is at work may start our successor; between two looks
RESTART_TIME, RESTART_LOOK_TIME = 1.2, 0.05
# ours: seconds that a start waits for the server to know our home relay, without which no peer can call us first
TELL_TIME = 1.0
EXPIRY_LOOK_TIME = 10.0  # seconds between two looks for expired keys; as the reference
# ours: seconds from a path's new MTU to that of the link's routes, as there may be others; until a link is tried again
MTU_SETTLE_TIME, LINK_RETRY_TIME = 1.0, 5.0
NO_NETMAP_CACHE = "disable-cache-network-maps"  # attribute of a node that may not keep it on disk; tailscale, tailcfg
# with one of these a server will not change its mind
_HOPELESS = frozenset((told.Reason.SPENT, told.Reason.EXPIRED, told.Reason.INVALID))

EngineMaker = Callable[[Device, Tailnet], Engine]


class Life:
    """Ties together what a node consists of.

    Args:
        config: what the node is told at its start.
        say: takes what a user should read.
        claim: the hold on `identity`.
        surroundings: give the container's link and sockets.
        memory: of the WireGuard sessions.
        make_engine: of the device and of what a tailnet has beside it.
        sock: the UDP socket under the tunnel.
    """

    def __init__(
        self,
        config: Config,
        say: Callable[[str], None],
        claim: state.Claim,
        identity: Identity,
        surroundings: Surroundings,
        memory: SessionMemory,
        make_engine: EngineMaker,
        sock: socket.socket,
    ) -> None:
        self._config = config
        self._say = say
        self._claim = claim
        self._identity = identity
        self._surroundings = surroundings
        # the same for a node that follows another one in its sessions: peers would give those up for a new key
        disco_key = PrivateKey(memory.seed(os.urandom))
        self._device = Device(
            identity.node_key, memory, os.urandom, time.time_ns, early_retries=EARLY_RETRIES, roaming=False
        )
        self._engine = make_engine(self._device, self)
        self._switches = Switches(config.offloads_off, say)
        self._engine.set_offloads(self._switches.wanted)
        self._transport = Transport(
            self._device,
            self._engine,
            sock,
            disco_key,
            os.urandom,
            self._host_changed,
            self._pinged,
            self._widened,
            config.max_mtu,
        )
        self._peers = Peers(self._device, memory, self._transport, say)
        self._names = Names(config, surroundings, self._device.routes, self._engine.write)
        self._engine.set_local(self._names.traffic(self._peers.exits))
        self._wiring = Wiring(config.interface, config.own_address, config.max_mtu, config.exit_node)
        self._exit_node = ExitNode(config.exit_node)
        self._link = self._wiring.first_link()
        self._linked: Link | None = None
        self._configured: Link | None = None  # with the routes of wide paths
        self._link_changed = trio.Event()
        self._link_changed.set()
        self._mtu_changed = trio.Event()
        self._phase = Phase.JOINING
        self._netmap: control.NetMap | None = None
        self._remembered = False
        self._key_expired = False
        self._login_url = self._refusal = ""
        self._has_said_refused = False
        self._outcome = trio.Event()  # of the start
        self._reachable = trio.Event()
        self._is_known = False  # to the server, or it has had its time
        self._failure = ""
        self._logged_out = trio.Event()
        self._removal_confirmed = False
        self._wake = control_adapter.Wake()
        self._client = control.Client(
            control.Config(config.control_url, config.credential, config.ephemeral),
            control.Identity(identity.machine_key, identity.node_key, disco_key.public, identity.registered),
            self._host(),
            random=os.urandom,
            wall=time.time,
            now=trio.current_time(),
            snapshot=(claim.load_netmap() or b"") if identity.registered else b"",  # else it is another node's
        )
        self._pings = Pings(self._transport, self._client, self._wake)

    async def ready(self) -> None:
        """See `Node.ready`."""
        await self._outcome.wait()
        if self._failure:
            raise StartFailed(self._failure)

    def status(self) -> Status:
        """See `Node.status`."""
        netmap = self._netmap
        return Status(
            phase=self._phase,
            name=netmap.self_node.name.rstrip(".") if netmap else "",
            addresses=tuple(map(str, netmap.self_node.addresses)) if netmap else (),
            peers=tuple(node.name.rstrip(".") for node in netmap.peers.values()) if netmap else (),
            home_region=self._transport.home,
            relayed=self._transport.is_relayed,
            direct=self._transport.is_direct,
            linked=self._linked == self._link,
            is_ready=self._is_ready(),
            login_url=self._login_url,
            refusal=self._refusal,
            problem=self._client.status().last_error,
        )

    def view(self) -> View:
        """See `Node.view`."""
        status, wall, counted = self.status(), time.time(), self._engine.statistics()
        return View(
            at=wall,
            hostname=self._config.hostname,
            node_key=self._identity.node_key.public,
            netmap=self._netmap,
            online=self._client.status().state is control.State.ONLINE,
            ready=status.is_ready,
            leaving=self._phase is Phase.LEAVING,
            login_url=self._login_url,
            health=tuple(filter(None, (status.hindrance or status.problem, self._exit_node.problem))),
            home_region=self._transport.home,
            endpoints=tuple(map(to_text, self._transport.own_endpoints)),
            exit_node=self._exit_node.node.id if self._exit_node.node is not None else None,
            peers=self._peers.states(trio.current_time(), wall),
            engine=self._engine.name,
            offloads=self._switches.lines(counted.offloads),
            counted=counted,
        )

    async def run(self, stopping: trio.Event) -> None:
        """Everything up to the end."""
        events, received = trio.open_memory_channel[told.Event](16)
        async with trio.open_nursery() as control_plane:
            async with trio.open_nursery() as data_plane:
                for task in (
                    self._transport.run,
                    self._give_the_server_time,
                    self._keep_link,
                    self._follow_mtus,
                    self._watch_expiry,
                    self._names.run,
                ):
                    data_plane.start_soon(task)
                control_plane.start_soon(control_adapter.run, self._client, events, self._wake)
                control_plane.start_soon(self._from_control, received)
                async with trio.open_nursery() as engine_tasks:
                    engine_tasks.start_soon(self._carry, stopping)
                    await stopping.wait()
                    self._phase = Phase.LEAVING
                    self._claim.leaving()
                    engine_tasks.cancel_scope.cancel()
                self._engine.close()  # nothing of the data plane runs between this and the next line
                data_plane.cancel_scope.cancel()
            await self._leave()
            control_plane.cancel_scope.cancel()

    async def _carry(self, stopping: trio.Event) -> None:
        try:
            await self._engine.run()
        except* TunGone as gone:
            self._say(f"the container's interface is gone: {gone.exceptions[0]}")
            stopping.set()

    async def _leave(self) -> None:
        begun = trio.current_time()
        await trio.sleep(state.HANDOVER_TIME)
        with trio.move_on_at(begun + RESTART_TIME):
            while self._claim.is_wanted() or is_at_work(self._config.container):  # noqa: ASYNC110  no event tells of that
                await trio.sleep(RESTART_LOOK_TIME)
        if not self._claim.may_logout():
            return
        self._client.logout(trio.current_time())
        self._wake.set()
        with trio.move_on_at(begun + LEAVE_TIME):
            await self._logged_out.wait()
        if self._removal_confirmed:
            self._claim.forget()

    def _is_ready(self) -> bool:
        reachable = self._transport.is_relayed or self._transport.is_direct
        remembered = self._remembered and self._config.start_now
        return self._phase is Phase.RUNNING and self._linked == self._link and (reachable or remembered)

    def _look_at_start(self) -> None:
        """Something has changed that the start may have waited for."""
        if self._outcome.is_set() or not self._is_ready():
            return
        self._reachable.set()
        if self._is_known or self._remembered:
            self._outcome.set()

    async def _give_the_server_time(self) -> None:
        await self._reachable.wait()
        await trio.sleep(TELL_TIME)
        self._is_known = True
        self._look_at_start()

    def _fail_start(self, text: str) -> None:
        if not self._outcome.is_set():
            self._failure = text
            self._outcome.set()

    # --- control ----------------------------------------------------------------------------------------------

    def _host(self) -> control.hostinfo.OwnHostinfo:
        home = self._transport.home
        return control.hostinfo.OwnHostinfo(
            host_name=self._config.hostname,
            client_version=ts4nsnet.__version__,
            os_version=platform.release(),
            machine=platform.machine(),
            app="ts4nsnet",
            backend_log_id=self._identity.machine_key.public.raw.hex(),
            container=True,
            tags=self._config.tags,
            net_info=control.hostinfo.NetInfo(preferred_derp=home) if home else None,
        )

    def _host_changed(self) -> None:
        self._look_at_start()
        if self._netmap is None:
            return  # an update would only hold up the first netmap (Headscale: 0.5 s), and is not needed before
        now = trio.current_time()
        self._client.set_host(self._host(), now)
        own = [OwnEndpoint(to_ip(endpoint), EndpointKind.LOCAL) for endpoint in self._transport.own_endpoints]
        self._client.set_endpoints(own, now)
        self._wake.set()

    async def _from_control(self, received: trio.MemoryReceiveChannel[told.Event]) -> None:
        async for event in received:
            match event:
                case told.Registered():
                    self._registered(event)
                case told.NetMapChanged():
                    self._netmap_changed(event)
                case told.LoginUrlReceived(url):
                    self._login_url = url
                    self._say(f"to let this node in, visit: {url}")
                case told.RegistrationRefused():
                    self._refused(event)
                case told.Disconnected(reason) if self._phase is not Phase.LEAVING:
                    self._say(f"no netmaps from the control server, trying again: {reason}")
                case told.RateLimited(text, retry_time):
                    self._say(f"the control server wants to be left alone for {retry_time:.0f} s: {text}")
                case told.NodeKeyExpired():
                    self._say("this node's key has expired: peers do not talk to it until there is another one")
                    self._key_expired = True
                    self._set_names()
                case told.BrowserUrlReceived(url):
                    self._say(f"the control server would like you to see: {url}")
                case told.PingRequested():
                    self._pings.asked(event, self._netmap)
                case told.HostTold():
                    self._is_known = self._transport.home != 0
                case told.LoggedOut(confirmed):
                    self._removal_confirmed = confirmed
                    self._logged_out.set()
            self._look_at_start()

    def _refused(self, event: told.RegistrationRefused) -> None:
        self._refusal = event.text
        hopeless = event.reason in _HOPELESS
        what = "this node's auth key (TS_AUTHKEY)" if hopeless else "this node"
        text = f"the control server refuses {what}: {event.text}; {event.advice}"
        self._say(text)
        if hopeless:
            self._fail_start(text)

    def _registered(self, event: told.Registered) -> None:
        now = trio.current_time()
        self._login_url = self._refusal = ""
        old = self._identity.node_key if event.changed else self._identity.old_node_key
        self._identity = replace(self._identity, node_key=event.node_key, old_node_key=old, registered=True)
        self._keep("this node's keys", lambda: self._claim.save(self._identity))
        self._transport.set_key(event.node_key, now)  # before the calls that follow, which are to leave under this key
        if event.changed:
            self._transport.key_changed()
            self._device.set_private_key(event.node_key, now)
            self._engine.device_changed()
        if self._key_expired:
            self._key_expired = False
            self._set_names()

    def _netmap_changed(self, event: told.NetMapChanged) -> None:
        first = self._netmap is None
        netmap, delta = event.netmap, event.delta
        self._netmap = netmap
        self._remembered = first and not event.snapshot
        if NO_NETMAP_CACHE in netmap.self_node.capabilities:
            self._keep("that no netmap is kept", self._claim.drop_netmap)
        elif event.snapshot:
            self._keep("the netmap", lambda: self._claim.save_netmap(event.snapshot))
        peers = bool(delta.added or delta.changed or delta.removed)
        if first or delta.self_node:
            self._engine.set_offloads(self._switches.look(netmap.self_node.capabilities))
            self._transport.take_long(self._switches.merges_tcp)
        if first or peers or delta.packet_filter or delta.self_node:
            self._engine.set_filter(Admission.of(netmap))
        if first or peers or delta.dns or delta.self_node:
            self._set_names()
        self._wire(self._wiring.apply(netmap, delta, time.time()))
        self._phase = Phase.RUNNING if self._phase is Phase.JOINING else self._phase
        if delta.derp_map or first:
            now = trio.current_time()
            self._transport.set_key(self._identity.node_key, now)  # the server knows it, or there would be no netmap
            self._transport.set_map(netmap.derp_map, now)
        self._look_for_exit_node(event)

    def _set_names(self) -> None:
        if self._netmap is not None:
            self._names.set_netmap(self._netmap, expired=self._key_expired)

    def _look_for_exit_node(self, event: told.NetMapChanged) -> None:
        if self._exit_node.look(event.netmap, event.delta):
            self._say(self._exit_node.problem or "TS_EXIT_NODE: the exit node can be used again")
        if self._exit_node.problem and not self._remembered:  # what is remembered decides nothing
            self._fail_start(self._exit_node.problem)

    def _keep(self, what: str, keep: Callable[[], None]) -> None:
        """Write something to disk; where that cannot be done the node goes on."""
        try:
            keep()
        except StateError as error:
            self._say(f"the next start will not know {what}: {error}")

    def _wire(self, changes: Changes) -> None:
        now = trio.current_time()
        self._engine.set_routes(self._peers.apply(changes, now))
        self._transport.peers_changed()
        self._engine.device_changed()
        self._engine.set_local(self._names.traffic(self._peers.exits))
        if changes.link is not None:
            self._link = changes.link
            self._link_changed.set()

    # --- what the engine meets (engine.Tailnet), and pings ----------------------------------------------------

    def take_train(self, train: Train, now: float) -> bool:
        """See `engine.Tailnet`."""
        return self._transport.take_train(train, now)

    def take_wanted(self, peer: int, now: float) -> None:
        """See `engine.Tailnet`."""
        self._transport.note_sent(self._peers.key(peer), now)

    def take_datagram(self, datagram: bytes, source: bytes, now: float) -> bool:
        """See `engine.Tailnet`."""
        return self._transport.take_datagram(datagram, source, now)

    def take_local(self, packet: bytes) -> bool:
        """See `engine.Tailnet`."""
        return self._names.take(packet)

    def take_refused(self, destination: bytes) -> None:
        """See `engine.Tailnet`: said once, with what changes it."""
        address = ip_address(destination)
        if not self._has_said_refused and not is_tailnet(address):
            self._has_said_refused = True
            cure = self._exit_node.problem or "TS_EXIT_NODE=… sends such traffic through an exit node"
            self._say(
                f"the container tried to reach {address}, which is not in the tailnet, and was refused at once: "
                f"{cure} (said once)"
            )

    def take_message(self, peer: int, packet: bytes) -> None:
        """See `engine.Tailnet`: a ping is answered, all else is for us to know."""
        try:
            received = tsmp.parse(packet)
        except Malformed:
            return
        if isinstance(received.message, tsmp.Ping):
            answer = tsmp.emit(tsmp.Pong(received.message.data), received.destination, received.source)
            self._engine.seal(peer, answer)

    def take_offload_refused(self, refused: OffloadRefused) -> None:
        """See `engine.Tailnet`."""
        self._switches.refused(refused)
        self._transport.take_long(self._switches.merges_tcp)

    def _pinged(self, event: Pinged) -> None:
        self._pings.answered(event, self._netmap)

    def _widened(self, key: PublicKey, mtu: int) -> None:
        number = self._peers.number(key)
        if number is not None:
            self._engine.set_mtu(number, mtu)
            self._wiring.widen(key, mtu)
            self._mtu_changed.set()

    # --- link and time ----------------------------------------------------------------------------------------

    async def _keep_link(self) -> None:
        """Make the container's link as the netmap asks, again and again."""
        skipped: set[str] = set()
        while True:
            await self._link_changed.wait()
            self._link_changed = trio.Event()
            wanted = self._link
            widened = self._wiring.widened(wanted)
            try:
                done = await self._surroundings.configure(widened)
            except NetnsError as error:
                self._say(f"the container's link is not as it should be: {error}")
                with trio.move_on_after(LINK_RETRY_TIME):
                    await self._link_changed.wait()
                self._link_changed.set()
                continue
            self._linked, self._configured = wanted, widened
            self._mtu_changed.set()  # it may have been there and back meanwhile
            for each in set(done.skipped) - skipped:
                self._say(f"left out, as the container has no IPv6 or a route of its own there: {each}")
            skipped = set(done.skipped)
            self._look_at_start()

    async def _follow_mtus(self) -> None:
        """Let the link's routes say what paths carry; the engine knows it already, so there is time."""
        while True:
            await self._mtu_changed.wait()
            await trio.sleep(MTU_SETTLE_TIME)
            self._mtu_changed = trio.Event()
            if self._wiring.widened(self._link) != self._configured:
                self._link_changed.set()

    async def _watch_expiry(self) -> None:
        while True:
            await trio.sleep(EXPIRY_LOOK_TIME)
            if self._netmap is not None:
                self._wire(self._wiring.expire(self._netmap, time.time()))

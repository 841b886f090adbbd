# SPDX-License-Identifier: BSD-3-Clause
"""One container's node: joins the tailnet, carries its traffic, and leaves it in order.

    Config ─► identity (claimed) ─► TUN ─► control    netmaps, keys, refusals ─┐
                                           relays     packets, home            ├─► Node, in the order in which it comes
                                           engine     TUN ↔ WireGuard ↔ UDP    │
                                           time       keys that expire        ─┘

The parts do not know each other; what each says is passed on here. To WireGuard a relay is an address like any other:
sealed packets for a peer behind one leave the engine with an endpoint that names it, and come in with one.

The end, whatever its cause: the TUN is closed first, so that the container sees at once that nothing goes any more and
the next start finds the interface's name free; then the node logs out, unless a start that has begun already takes its
identity over (state.py). All of it takes 2 seconds at most.

Only what fails at the start ends a node. Later there is something to lose: a full disk, or a route of a peer's that is
in the way of the container's own, is told, and the rest goes on.

Run it with trio on `drive.BoottimeClock`: WireGuard's and the relays' times are CLOCK_BOOTTIME.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import Enum, auto
from mmap import mmap

import trio

import ts4nsnet
from ts4nsnet import control, derp
from ts4nsnet.control import adapter as control_adapter
from ts4nsnet.control import events as told
from ts4nsnet.derp import adapter as derp_adapter
from ts4nsnet.keys import PrivateKey, PublicKey
from ts4nsnet.netns import Link, NetnsError, Tun, configure, open_tun
from ts4nsnet.node import state
from ts4nsnet.node.config import Config
from ts4nsnet.node.engine import PythonEngine, TunGone
from ts4nsnet.node.identity import Identity
from ts4nsnet.node.statedir import StateDir
from ts4nsnet.node.statefile import StateError
from ts4nsnet.node.wiring import TAILNET_MTU, Changes, Wiring
from ts4nsnet.uring import Reference, Train, open_socket
from ts4nsnet.wireguard import Device, SessionMemory, SessionTable, WireGuardError

# ours: peers that there is room for; memory is touched for those with a session only
MAX_PEERS = 16384
# ours: seconds after the first calls to a new peer; it hears of us within 0.2 to 0.9 s of our first netmap
EARLY_RETRIES = (0.25, 0.5, 1.0, 2.0)
# ours: seconds for the server to confirm our removal; with the rest of the end at most 2
LOGOUT_TIME = 1.5
EXPIRY_LOOK_TIME = 10.0  # seconds between two looks for expired keys; as the reference
LINK_RETRY_TIME = 5.0  # ours: seconds until the link is tried again
# the attribute of a node that may not keep its netmap on disk; tailscale, tailcfg
NO_NETMAP_CACHE = "disable-cache-network-maps"
_KEY_PREFIX_BYTES = 24  # of a peer's key, in a relayed endpoint

Say = Callable[[str], None]


class Phase(Enum):
    """Where a node is in its life."""

    JOINING = auto()  # there is no netmap yet
    RUNNING = auto()
    LEAVING = auto()


@dataclass(frozen=True, slots=True)
class Status:
    """A node at this moment.

    Attributes:
        name: in the tailnet, without the final dot; empty before it is known.
        peers: names, likewise.
        relayed: whether peers can reach us through our home relay.
        linked: whether the container's link has what the netmap asks for.
        login_url: that somebody has to visit; empty for none.
        refusal: the server's last word why it does not let us in; empty if it does.
        problem: what went wrong last with the control server; empty for nothing.
    """

    phase: Phase
    name: str
    addresses: tuple[str, ...]
    peers: tuple[str, ...]
    home_region: int
    relayed: bool
    linked: bool
    login_url: str
    refusal: str
    problem: str

    @property
    def is_ready(self) -> bool:
        """Whether the container can use the network."""
        return self.phase is Phase.RUNNING and self.linked and self.relayed


class Node:
    """The node of one container; several may live in one process.

    Args:
        config: what it is told at its start.
        say: takes what a user should read: a login URL, a refusal, a warning; one line each.
    """

    def __init__(self, config: Config, say: Say) -> None:
        self._config = config
        self._say: Say = lambda text: say(_one_line(text))
        self._stopping = trio.Event()
        self._life: _Life | None = None

    def stop(self) -> None:
        """Leave the tailnet; `run` returns when that is done."""
        self._stopping.set()

    def status(self) -> Status | None:
        """What the node is doing; None before it has an identity and a TUN, and after the end."""
        return self._life.status() if self._life else None

    async def run(self) -> None:
        """Join, carry packets until `stop`, the TUN's end or a cancellation, and leave.

        Raises, in exception groups as all that comes out of trio's nurseries:
            StateError: the identity's folder cannot be used, or another node has it.
            NetnsError: the container's namespaces cannot be entered, or the TUN not be made.
            ControlError: the control URL is none.
            OSError: there is no UDP socket to be had.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_to_its_end)
            try:
                await self._stopping.wait()
            finally:
                self.stop()  # a cancellation ends it in order, too

    async def _run_to_its_end(self) -> None:
        with trio.CancelScope(shield=True):
            claim = await self._claim()
            try:
                if claim.warning:
                    self._say(claim.warning)
                await self._live(claim)
            finally:
                self._life = None
                claim.release()
                self.stop()

    async def _claim(self) -> state.Claim:
        if self._config.state_dir is not None:
            return StateDir.open(self._config.state_dir, self._config.binding)
        return await state.claim(self._config.runtime_folder, self._config.binding)

    async def _live(self, claim: state.Claim) -> None:
        async with AsyncExitStack() as opened:
            tun = await trio.to_thread.run_sync(open_tun, self._config.target, self._config.interface)
            opened.callback(tun.close)
            sock = opened.enter_context(open_socket(self._config.port))
            identity = claim.identity or Identity(PrivateKey(os.urandom(32)), PrivateKey(os.urandom(32)))
            claim.save(identity)
            memory = SessionMemory(mmap(-1, SessionMemory.size(MAX_PEERS)))
            device = Device(identity.node_key, memory, os.urandom, time.time_ns, early_retries=EARLY_RETRIES)
            pipeline = Reference(SessionTable(memory), device.routes, mtu=TAILNET_MTU, vnet_hdr=tun.vnet_hdr)
            self._life = _Life(self._config, self._say, claim, identity, device)
            engine = PythonEngine(device, pipeline, tun, sock, self._life.relay)
            await self._life.run(engine, tun, self._stopping)


class _Life:
    """A node from the moment on at which it has keys and a TUN."""

    def __init__(self, config: Config, say: Say, claim: state.Claim, identity: Identity, device: Device) -> None:
        self._config = config
        self._say = say
        self._claim = claim
        self._identity = identity
        self._device = device
        self._phase = Phase.JOINING
        self._netmap: control.NetMap | None = None
        self._wiring = Wiring(config.interface)
        self._link: Link | None = None
        self._linked: Link | None = None
        self._link_changed = trio.Event()
        self._by_prefix: dict[bytes, PublicKey] = {}  # the first bytes of a peer's key → its key
        self._regions = derp.Regions(os.urandom)
        self._relays = derp_adapter.Adapter(self._regions, self._from_relays)
        self._home = 0
        self._relayed = False
        self._login_url = self._refusal = ""
        self._logged_out = trio.Event()
        self._removal_confirmed = False
        self._wake = control_adapter.Wake()
        self._client = control.Client(
            control.Config(config.control_url, config.credential, config.ephemeral),
            control.Identity(
                identity.machine_key, identity.node_key, PrivateKey(os.urandom(32)).public, identity.registered
            ),
            self._host(),
            random=os.urandom,
            wall=time.time,
            now=trio.current_time(),
            snapshot=(claim.load_netmap() or b"") if identity.registered else b"",  # else it is another node's
        )

    def status(self) -> Status:
        """See `Node.status`."""
        netmap = self._netmap
        return Status(
            phase=self._phase,
            name=netmap.self_node.name.rstrip(".") if netmap else "",
            addresses=tuple(map(str, netmap.self_node.addresses)) if netmap else (),
            peers=tuple(node.name.rstrip(".") for node in netmap.peers.values()) if netmap else (),
            home_region=self._home,
            relayed=self._relayed,
            linked=self._linked is not None and self._linked == self._link,
            login_url=self._login_url,
            refusal=self._refusal,
            problem=self._client.status().last_error,
        )

    async def run(self, engine: PythonEngine, tun: Tun, stopping: trio.Event) -> None:
        """Everything up to the end."""
        self._engine = engine
        events, received = trio.open_memory_channel[told.Event](16)
        async with trio.open_nursery() as control_plane:
            control_plane.start_soon(control_adapter.run, self._client, events, self._wake)
            control_plane.start_soon(self._from_control, received)
            async with trio.open_nursery() as data_plane:
                for task in (self._relays.run, self._keep_link, self._watch_expiry):
                    data_plane.start_soon(task)
                async with trio.open_nursery() as engine_tasks:
                    engine_tasks.start_soon(self._carry, stopping)
                    await stopping.wait()
                    self._phase = Phase.LEAVING
                    self._claim.leaving()
                    engine_tasks.cancel_scope.cancel()
                tun.close()  # nothing of the data plane runs between this and the next line
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
        await trio.sleep(state.HANDOVER_TIME)
        if not self._claim.may_logout():
            return
        self._client.logout(trio.current_time())
        self._wake.set()
        with trio.move_on_after(LOGOUT_TIME):
            await self._logged_out.wait()
        if self._removal_confirmed:
            self._claim.forget()

    # --- control ----------------------------------------------------------------------------------------------

    def _host(self) -> control.hostinfo.OwnHostinfo:
        return control.hostinfo.OwnHostinfo(
            host_name=self._config.hostname,
            client_version=ts4nsnet.__version__,
            os_version=platform.release(),
            machine=platform.machine(),
            app="ts4nsnet",
            backend_log_id=self._identity.machine_key.public.raw.hex(),
            container=True,
            tags=self._config.tags,
            net_info=control.hostinfo.NetInfo(preferred_derp=self._home) if self._home else None,
        )

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
                case told.RegistrationRefused(text, _, advice):
                    self._refusal = text
                    self._say(f"the control server refuses this node: {text}; {advice}")
                case told.Disconnected(reason) if self._phase is not Phase.LEAVING:
                    self._say(f"no netmaps from the control server, trying again: {reason}")
                case told.RateLimited(text, retry_time):
                    self._say(f"the control server wants to be left alone for {retry_time:.0f} s: {text}")
                case told.NodeKeyExpired():
                    self._say("this node's key has expired: peers do not talk to it until there is another one")
                case told.BrowserUrlReceived(url):
                    self._say(f"the control server would like you to see: {url}")
                case told.PingRequested(number, kinds, address):
                    # without disco we have no path but the relay's, which the server knows
                    result = told.PingResult(kinds[0], str(address), error="this node cannot ping others yet")
                    self._client.answer_ping(number, result, trio.current_time())
                    self._wake.set()
                case told.LoggedOut(confirmed):
                    self._removal_confirmed = confirmed
                    self._logged_out.set()

    def _registered(self, event: told.Registered) -> None:
        now = trio.current_time()
        self._login_url = self._refusal = ""
        old = self._identity.node_key if event.changed else self._identity.old_node_key
        self._identity = replace(self._identity, node_key=event.node_key, old_node_key=old, registered=True)
        self._keep("this node's keys", lambda: self._claim.save(self._identity))
        self._regions.set_key(event.node_key, now)  # before the calls that follow, which are to leave under this key
        self._relays.wake()
        if event.changed:
            self._relayed = False
            self._device.set_private_key(event.node_key, now)
            self._engine.device_changed()

    def _netmap_changed(self, event: told.NetMapChanged) -> None:
        first = self._netmap is None
        self._netmap = event.netmap
        self._phase = Phase.RUNNING if self._phase is Phase.JOINING else self._phase
        if NO_NETMAP_CACHE in event.netmap.self_node.capabilities:
            self._keep("that no netmap is kept", self._claim.drop_netmap)
        elif event.snapshot:
            self._keep("the netmap", lambda: self._claim.save_netmap(event.snapshot))
        self._wire(self._wiring.apply(event.netmap, event.delta, time.time()))
        if event.delta.derp_map or first:
            self._set_relays(event.netmap.derp_map)

    def _keep(self, what: str, keep: Callable[[], None]) -> None:
        """Write something to disk; where that cannot be done the node goes on."""
        try:
            keep()
        except StateError as error:
            self._say(f"the next start will not know {what}: {error}")

    def _wire(self, changes: Changes) -> None:
        now = trio.current_time()
        for key in changes.removed:
            self._device.remove_peer(key)
            self._by_prefix.pop(key.raw[:_KEY_PREFIX_BYTES], None)
        for config in changes.peers:
            try:
                self._device.set_peer(config, now)
            except WireGuardError as error:
                self._say(f"left out of the tailnet: {error}")
                break  # there is no room for the others either
            self._by_prefix[config.public_key.raw[:_KEY_PREFIX_BYTES]] = config.public_key
        self._engine.device_changed()
        if changes.link is not None:
            self._link = changes.link
            self._link_changed.set()

    # --- relays -----------------------------------------------------------------------------------------------

    def _set_relays(self, relays: derp.Map) -> None:
        now = trio.current_time()
        self._regions.set_key(self._identity.node_key, now)  # the server knows it, or there would be no netmap
        self._regions.set_map(relays, now)
        self._choose_home()

    def _choose_home(self) -> None:
        now = trio.current_time()
        self._home = self._regions.fallback_home()
        self._regions.set_home(self._home, now)
        self._relayed = self._regions.is_connected(self._home)  # it may be up already, for a peer's sake
        self._relays.wake()
        self._client.set_host(self._host(), now)
        self._wake.set()

    async def _from_relays(self, events: Sequence[derp.Event]) -> None:
        trains = []
        for event in events:
            match event:
                case derp.Received(region, source, packet):
                    if source.raw[:_KEY_PREFIX_BYTES] in self._by_prefix:
                        trains.append(Train.received(packet, 0, derp.to_endpoint(region, source)))
                case derp.Connected(region):
                    self._relayed = self._relayed or region == self._home
                case derp.Disconnected(region):
                    self._relayed = self._relayed and region != self._home
                case derp.HomeLost():
                    self._relayed = False
                    self._choose_home()
        if trains:
            self._engine.receive(trains)

    def relay(self, train: Train) -> bool:
        """Send a train through a relay, if its endpoint is behind one; what a relay drops it counts."""
        relayed = derp.from_endpoint(train.endpoint)
        if relayed is None:
            return False
        region, prefix = relayed
        peer = self._by_prefix.get(prefix)
        if peer is not None:
            now = trio.current_time()
            for datagram in train.payload:
                self._regions.send(peer, region, bytes(datagram), now)
            self._relays.wake()
        return True

    # --- link and time ----------------------------------------------------------------------------------------

    async def _keep_link(self) -> None:
        """Make the container's link as the netmap asks, again and again."""
        while True:
            await self._link_changed.wait()
            self._link_changed = trio.Event()
            if (wanted := self._link) is None:
                continue
            try:
                # abandoned at the end: without the TUN it comes to nothing, and need not be waited for
                done = await trio.to_thread.run_sync(configure, self._config.target, wanted, abandon_on_cancel=True)
            except NetnsError as error:
                self._say(f"the container's link is not as it should be: {error}")
                with trio.move_on_after(LINK_RETRY_TIME):
                    await self._link_changed.wait()
                self._link_changed.set()
                continue
            self._linked = wanted
            for skipped in done.skipped:
                self._say(f"left out, as IPv6 is off in the container: {skipped}")

    async def _watch_expiry(self) -> None:
        while True:
            await trio.sleep(EXPIRY_LOOK_TIME)
            if self._netmap is not None:
                self._wire(self._wiring.expire(self._netmap, time.time()))


def _one_line(text: str) -> str:
    """A text that may be a server's, so that a terminal shows it and does nothing else."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)

# SPDX-License-Identifier: BSD-3-Clause
"""The map streams: a full map first, then what changed, to everybody whom it concerns.

Changes are collected for `FLUSH_TIME` and sent together: what a node tells in its first milliseconds (register, poll,
disco key) is one message to its peers. A flush looks at each stream and each changed node:

    visible now, told before      PeersChangedPatch, or PeersChanged when a patch cannot say it
    visible now, not told         PeersChanged
    not visible, told before      PeersRemoved

Most streams come out with the same list; the message for it is encoded and compressed once and shared. What is a
stream's own, its Node and its packet filter, goes into a message before that, if it differs from what was sent.

`told` is a set of NodeIDs as the bits of an integer: a thousand streams that know a thousand nodes take 125 kB.

A stream's queue is bounded: whoever lets `MAX_QUEUED_BYTES` pile up is cut off (`overrun`), and starts with a full map
when it comes back. A node has one stream; a new one ends the old.

Source: control.md 5.2 to 5.6, 10.2, 10.6, 10.7.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ts4nsnet.lab.directory import Change, Directory
from ts4nsnet.lab.model import Node
from ts4nsnet.lab.responses import KEEP_ALIVE, Frame, Json, dump, profiles_json, self_json, time_text, users_of

FLUSH_TIME = 0.02  # ours: seconds that changes wait for others
# ours: a full map of 10,000 peers is 8 MB
MAX_QUEUED_BYTES = 16 << 20

# changes that PeersChangedPatch can say
_PATCHABLE = Change.DISCO | Change.ENDPOINTS | Change.HOME | Change.ONLINE | Change.KEY_EXPIRY


@dataclass(eq=False)
class MapStream:
    """The open map poll of a node: frames to be sent, the oldest first; at most MAX_QUEUED_BYTES, then it is cut.

    Args:
        node: whose it is.
        compressed: whether frames are zstd.
    """

    node: Node
    compressed: bool
    told: int = 0  # the NodeIDs it knows, as bits
    self_text: str = ""  # what was sent last
    filter_text: str = ""
    sent_at: float = 0.0
    ended: bool = False  # no more frames come; the response is over
    overrun: bool = False  # it did not read
    _frames: list[bytes] = field(default_factory=list, repr=False)
    _queued_bytes: int = 0

    def put(self, frame: Frame, now: float) -> None:
        """Queue a frame; one too many, and all are dropped."""
        data = frame.compressed if self.compressed else frame.plain
        self.sent_at = now
        if self._frames and self._queued_bytes + len(data) > MAX_QUEUED_BYTES:
            self.overrun = True
        if self.overrun:
            self._frames.clear()
            return
        self._queued_bytes += len(data)
        self._frames.append(data)

    def take(self) -> list[bytes]:
        """The frames that are to be sent now."""
        frames, self._frames, self._queued_bytes = self._frames, [], 0
        return frames


class Fanout:
    """All map streams.

    Args:
        directory: the nodes.
        derp_map: the DERPMap object; may be replaced, see `send_derp_map`.
    """

    def __init__(self, directory: Directory, derp_map: Json) -> None:
        self.derp_map = derp_map
        self.dns: Json = {}
        self.ready: dict[MapStream, None] = {}  # streams with something to send, in order
        self._directory = directory
        self._streams: dict[int, MapStream] = {}

    def stream_of(self, node: Node) -> MapStream | None:
        """The open stream of a node."""
        return self._streams.get(node.node_id)

    def open(self, node: Node, *, compressed: bool, now: float, wall: float) -> MapStream:
        """A new stream with its full map; ends the node's older one."""
        self.end(node)
        stream = MapStream(node, compressed)
        self._streams[node.node_id] = stream
        self._put(stream, self.full_map(stream, wall), now)
        return stream

    def end(self, node: Node) -> None:
        """End the stream of a node, when what is queued was sent."""
        stream = self._streams.pop(node.node_id, None)
        if stream is not None:
            stream.ended = True
            self.ready[stream] = None

    def closed(self, stream: MapStream) -> bool:
        """The stream's client is gone; whether that leaves the node without one."""
        if self._streams.get(stream.node.node_id) is not stream:
            return False
        del self._streams[stream.node.node_id]
        return True

    def full_map(self, stream: MapStream, wall: float) -> Frame:
        """The first message of a stream, which holds everything."""
        directory, node = self._directory, stream.node
        directory.elect()
        peers = [other for other in directory.nodes.values() if other is not node and directory.sees(node, other)]
        stream.told = sum(1 << peer.node_id for peer in peers)
        stream.self_text, stream.filter_text = self._self_text(node, wall), self._filter_text(node)
        parts = [
            f'"Node":{stream.self_text}',
            f'"DERPMap":{dump(self.derp_map)}',
            f'"DNSConfig":{dump({"Proxied": True, "Domains": [directory.suffix]} | self.dns)}',
            f'"Domain":{dump(directory.suffix)}',
            '"CollectServices":false',
            f'"PacketFilters":{{"base":{stream.filter_text}}}',
            f'"UserProfiles":{dump(profiles_json(users_of([node, *peers])))}',
            f'"ControlTime":{dump(time_text(wall))}',
            '"Debug":{"DisableLogTail":true}',
        ]
        if peers:
            parts.append(f'"Peers":[{",".join(directory.entry(peer, wall).text for peer in peers)}]')
        return Frame("{" + ",".join(parts) + "}")

    def send(self, node: Node, value: Json, now: float) -> bool:
        """Send a message of its own to one node; False if it has no stream."""
        stream = self._streams.get(node.node_id)
        if stream is not None:
            self._put(stream, Frame(dump(value)), now)
        return stream is not None

    def send_all(self, value: Json, now: float) -> None:
        """Send a message to every node."""
        frame = Frame(dump(value))
        for stream in self._streams.values():
            self._put(stream, frame, now)

    def keep_alive(self, silent_since: float, now: float) -> None:
        """Send a keep-alive to the streams that got nothing since then."""
        for stream in self._streams.values():
            if stream.sent_at <= silent_since:
                self._put(stream, KEEP_ALIVE, now)

    def flush(self, now: float, wall: float) -> None:
        """Send what has changed."""
        directory = self._directory
        directory.elect()
        changes, removed = directory.changes, directory.removed
        affected = directory.affected_bits
        everything = directory.policy_changed
        directory.changes, directory.removed = {}, set()
        directory.affected_bits, directory.policy_changed = 0, False
        if not (changes or removed or everything):
            return
        batch = _Batch(directory, changes, removed, wall)
        for node_id, change in changes.items():
            if Change.MATCH in change and node_id in directory.nodes:
                match = directory.match(directory.nodes[node_id])
                affected |= match.sources | match.own_sources
        affected &= directory.rules.member_bits
        for node_id, stream in self._streams.items():
            change = changes.get(node_id, Change.NOTHING)
            match = directory.match(stream.node)
            refilter = everything or change or affected & (match.destinations | match.own_destinations)
            own = self._own(stream, wall, refilter=bool(refilter)) if change or refilter else {}
            if own:
                self._put(stream, Frame(dump_texts(own)), now)
            concerned = directory.nodes if everything or Change.MATCH in change else batch.nodes
            frame = batch.frame_for(stream, concerned)
            if frame is not None:
                self._put(stream, frame, now)

    def _own(self, stream: MapStream, wall: float, *, refilter: bool) -> dict[str, str]:
        """What of a stream's own things differs from what was sent: names and JSON texts."""
        own: dict[str, str] = {}
        text = self._self_text(stream.node, wall)
        if text != stream.self_text:
            own["Node"] = stream.self_text = text
        text = self._filter_text(stream.node) if refilter else stream.filter_text
        if text != stream.filter_text:
            stream.filter_text = text
            own["PacketFilters"] = f'{{"base":{text}}}'
        return own

    def _self_text(self, node: Node, wall: float) -> str:
        value = self._directory.entry(node, wall).json
        return dump(self_json(value, self._directory.rules.attributes(node)))

    def _filter_text(self, node: Node) -> str:
        directory = self._directory
        return dump(directory.rules.packet_filter(node, directory.match(node), directory.nodes))

    def _put(self, stream: MapStream, frame: Frame, now: float) -> None:
        stream.put(frame, now)
        self.ready[stream] = None


class _Batch:
    """The changes of one flush, and the messages made of them: one for each different list."""

    def __init__(self, directory: Directory, changes: dict[int, Change], removed: set[int], wall: float) -> None:
        self._directory = directory
        self._changes = changes
        self._removed = removed
        self._wall = wall
        self._frames: dict[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], Frame] = {}
        self.nodes = {node_id: directory.nodes[node_id] for node_id in changes if node_id in directory.nodes}

    def frame_for(self, stream: MapStream, concerned: dict[int, Node]) -> Frame | None:
        """The message that tells a stream about the nodes concerned, and those removed; None when there is nothing."""
        changed: list[int] = []
        patched: list[int] = []
        gone = [node_id for node_id in self._removed if stream.told >> node_id & 1]
        for node_id, node in concerned.items():
            if node is stream.node:
                continue
            told = stream.told >> node_id & 1
            if not self._directory.sees(stream.node, node):
                if told:
                    gone.append(node_id)
                continue
            change = self._changes.get(node_id, Change.NOTHING)
            if not told or Change.ENTRY in change or (change & _PATCHABLE and not _can_patch(node, change)):
                changed.append(node_id)
                stream.told |= 1 << node_id
            elif change & _PATCHABLE:
                patched.append(node_id)
        for node_id in gone:
            stream.told &= ~(1 << node_id)
        if not (changed or patched or gone):
            return None
        key = tuple(changed), tuple(patched), tuple(sorted(gone))
        if key not in self._frames:
            self._frames[key] = self._encode(*key)
        return self._frames[key]

    def _encode(self, changed: Iterable[int], patched: Iterable[int], gone: Iterable[int]) -> Frame:
        nodes = [self._directory.nodes[node_id] for node_id in changed]
        own: dict[str, str] = {}
        if nodes:
            texts = (self._directory.entry(node, self._wall).text for node in nodes)
            own["PeersChanged"] = f"[{','.join(texts)}]"
            own["UserProfiles"] = dump(profiles_json(users_of(nodes)))
        if gone:
            own["PeersRemoved"] = dump(gone)
        patches = [_patch(self._directory.nodes[node_id], self._changes[node_id]) for node_id in patched]
        if patches:
            own["PeersChangedPatch"] = dump(patches)
        return Frame(dump_texts(own))


def dump_texts(members: dict[str, str]) -> str:
    """A JSON object of names and JSON texts."""
    return "{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}"


def _can_patch(node: Node, change: Change) -> bool:
    """Whether a patch says it: one cannot clear anything, and Go drops a patch with a disco key and `Online: false`."""
    if Change.DISCO in change and (node.disco is None or Change.ONLINE in change):
        return False
    if Change.ENDPOINTS in change and not node.endpoints:
        return False
    if Change.HOME in change and not node.home_derp:
        return False
    return Change.KEY_EXPIRY not in change or node.key_expires_at is not None


def _patch(node: Node, change: Change) -> Json:
    patch: Json = {"NodeID": node.node_id}
    if Change.DISCO in change and node.disco:
        patch["DiscoKey"] = "discokey:" + node.disco.raw.hex()
    if Change.ENDPOINTS in change:
        patch["Endpoints"] = node.endpoints
    if Change.HOME in change:
        patch["DERPRegion"] = node.home_derp
    if Change.ONLINE in change:
        patch["Online"] = node.online
        if not node.online:
            patch["LastSeen"] = time_text(node.last_seen_at)
    if Change.KEY_EXPIRY in change and node.key_expires_at is not None:
        patch["KeyExpiry"] = time_text(node.key_expires_at)
    return patch

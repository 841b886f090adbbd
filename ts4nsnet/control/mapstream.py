# SPDX-License-Identifier: BSD-3-Clause
"""One map poll: what we ask, and the messages that come until it ends.

    uint32 LE length │ zstd frame of JSON ─► MapResponse ─► NetMap and delta ─► MapMessage        again and again

Each message is a zstd frame of its own. State belongs to the poll: its first message that is no keep-alive starts a
netmap from nothing, unless the server takes up the session whose handle we named; then it goes on where that ended.

* A message, compressed or not, has at most 64 MiB.
* 120 s without a message end the poll: servers send a keep-alive at least every 65 s.
* `Debug.SleepSeconds` makes us look away for up to five minutes: what comes meanwhile is kept, and the watchdog sleeps
  as well.

Source: control.md 5.1 to 5.4; RFC 8878 (zstd).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO

import zstandard

from ts4nsnet.control.errors import Malformed
from ts4nsnet.control.messages import MapResponse
from ts4nsnet.control.netmap import NetMap, NetMapDelta
from ts4nsnet.control.wire import read_map_response
from ts4nsnet.keys import DISCO_PREFIX, NODE_PREFIX, PublicKey

MAP_PATH = "/machine/map"
WATCHDOG_TIME = 120.0  # seconds; as the reference
# ours: a map of 10,000 peers has 8 MB
MAX_MESSAGE_BYTES = 64 << 20
_LENGTH_BYTES = 4
_CHUNK_BYTES = 1 << 17


@dataclass(frozen=True, slots=True)
class Resume:
    """Where an earlier poll ended, if its server can take it up again."""

    handle: str
    sequence: int
    netmap: NetMap = field(repr=False)


@dataclass(frozen=True, slots=True)
class MapRequest:
    """A MapRequest: a poll, or a lite update of what the server knows of us; control.md 5.1."""

    version: int
    node: PublicKey
    disco: PublicKey
    hostinfo: Mapping[str, object]
    endpoints: Mapping[str, object]  # as `hostinfo.endpoints_to_json`; empty: unknown
    stream: bool
    resume: Resume | None = None

    def emit(self) -> bytes:
        """The request's body."""
        request: dict[str, object] = {
            "Version": self.version,
            "Compress": "zstd",
            "KeepAlive": True,
            "NodeKey": self.node.to_text(NODE_PREFIX),
            "DiscoKey": self.disco.to_text(DISCO_PREFIX),
            "Hostinfo": self.hostinfo,
            **self.endpoints,
        }
        request |= {"Stream": True} if self.stream else {"OmitPeers": True}
        if self.resume:
            request |= {"MapSessionHandle": self.resume.handle, "MapSessionSeq": self.resume.sequence}
        return json.dumps(request, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class MapMessage:
    """One message, and what it made of the netmap."""

    response: MapResponse
    netmap: NetMap | None  # None before the first message that is no keep-alive
    delta: NetMapDelta | None  # None if this message says nothing of the netmap
    snapshot: bytes = field(default=b"", repr=False)  # JSON of a message that starts a netmap, for a cache


class MapStream:
    """The body of a poll's response.

    Args:
        before: the netmap of an earlier poll, to tell what is new.
        resume: what the request asked to be taken up.
        now: seconds; the watchdog runs from here.
    """

    def __init__(self, before: NetMap | None, resume: Resume | None, now: float) -> None:
        self.watchdog_at = now + WATCHDOG_TIME
        self._before = before
        self._wanted = resume
        self._netmap: NetMap | None = None
        self._handle = ""
        self._sequence = 0
        self._buffer = bytearray()
        self._asleep_until: float | None = None

    @property
    def resume(self) -> Resume | None:
        """Where the next poll may go on, if the server has named the session."""
        if self._netmap is None or not self._handle:
            return None
        return Resume(self._handle, self._sequence, self._netmap)

    def receive(self, data: bytes, now: float) -> None:
        """Take a part of the body; raises `Malformed` if we are flooded while we sleep."""
        self._buffer += data
        if self._asleep_until is None or now >= self._asleep_until:
            self.watchdog_at = now + WATCHDOG_TIME
        elif len(self._buffer) > MAX_MESSAGE_BYTES:
            raise Malformed("", f"{len(self._buffer)} bytes while we sleep", f"at most {MAX_MESSAGE_BYTES}")

    def next_message(self, now: float, wall: float) -> MapMessage | None:
        """The next whole message, None if there is none, or not before `watchdog_at`, or while we sleep.

        Raises:
            Malformed: the poll is of no use any more.
        """
        if self._asleep_until is not None and now < self._asleep_until:
            return None
        self._asleep_until = None
        if (frame := self._take_frame()) is None:
            return None
        text = decompress(frame)
        response = read_map_response(text)
        self._sleep(response.sleep_time, now)
        if response.sequence:
            self._sequence = response.sequence
        if response.keep_alive:
            return MapMessage(response, self._netmap, None)
        if self._netmap is not None:
            self._netmap, delta = self._netmap.apply(response, wall)
            return MapMessage(response, self._netmap, delta)
        return self._start(response, text, wall)

    def next_timer(self) -> float:
        """When to look again: at the end of a sleep, or when the watchdog bites."""
        return self.watchdog_at if self._asleep_until is None else self._asleep_until

    def _start(self, response: MapResponse, text: bytes, wall: float) -> MapMessage:
        self._handle = response.session_handle
        if self._wanted is not None and self._handle == self._wanted.handle:
            self._sequence = response.sequence or self._wanted.sequence
            self._netmap, delta = self._wanted.netmap.apply(response, wall)
            return MapMessage(response, self._netmap, delta)
        self._netmap = NetMap.first(response, wall)
        return MapMessage(response, self._netmap, NetMapDelta.between(self._before, self._netmap), text)

    def _sleep(self, time: float, now: float) -> None:
        if time:
            self._asleep_until = now + time
            self.watchdog_at = self._asleep_until + WATCHDOG_TIME

    def _take_frame(self) -> bytes | None:
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "little")
        if not 0 < length <= MAX_MESSAGE_BYTES:
            raise Malformed("", f"a message of {length} bytes", f"1 to {MAX_MESSAGE_BYTES}")
        if len(self._buffer) < _LENGTH_BYTES + length:
            return None
        with memoryview(self._buffer) as view:
            frame = bytes(view[_LENGTH_BYTES : _LENGTH_BYTES + length])
        del self._buffer[: _LENGTH_BYTES + length]
        return frame


def decompress(frame: bytes) -> bytes:
    """The content of one zstd frame, at most 64 MiB; raises `Malformed`."""
    out = bytearray()
    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_MESSAGE_BYTES).stream_reader(BytesIO(frame)) as reader:
            while chunk := reader.read(_CHUNK_BYTES):
                out += chunk
                if len(out) > MAX_MESSAGE_BYTES:
                    raise Malformed("", f"more than {MAX_MESSAGE_BYTES} bytes, unpacked", "a message of usual size")
    except zstandard.ZstdError as error:
        raise Malformed("", f"zstd: {error}", "a zstd frame") from None
    return bytes(out)


def frame_message(text: bytes) -> bytes:
    """A message as a server sends it; one frame serves any number of polls."""
    frame = zstandard.ZstdCompressor(level=1).compress(text)
    return len(frame).to_bytes(_LENGTH_BYTES, "little") + frame

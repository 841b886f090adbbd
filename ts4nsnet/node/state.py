# SPDX-License-Identifier: BSD-3-Clause
"""The identity journal: a node that is started anew, however it ended, is the same node.

The keys of a running ephemeral node lie in a folder that is gone with the next boot, until the server has confirmed
the node's removal. A start with an equal `Binding` then finds one of three things:

* nobody, but an identity: the owner was killed. The starter resumes it and has the same name and addresses;
* an owner that is leaving (a container tool restarts 75-90 ms after the end of the old container, container-tools.md 1,
  row 6): the starter takes over, the owner skips its logout. Otherwise the name would be taken, and end in "-1";
* an owner that runs on: two containers were started alike. The starter takes the next slot, with keys of its own.

**Files** of one binding and slot: `HASH-0.json` is the identity. `HASH-0.owner` is locked by the owner for as long as
it lives, and marked once it is leaving. `HASH-0.logout` is locked by the one who decides about the logout: by the owner
when it begins it, by a starter to claim the identity. SIGKILL frees both locks, at any step.

    owner                                            starter, once every `poll_time`
      leaving()     mark owner                         1. claimed, no mark now → free logout, go on with 2
      may_logout()  lock logout, if free               2. owner can be locked  → ours: clear the mark, free logout,
      …the server confirms                                                       resume what lies there
      forget()      remove json                        3. owner has no mark    → wait until `watch_time`, next slot
      release()     no json: remove logout, owner;     4. logout can be locked → claimed, wait as in 5
                    free both                          5. else                 → wait until `logout_time`, next slot

**What always holds.**
(1) Only the holder of the owner lock reads or changes `json`: no identity lives twice.
(2) An owner marks before it tries the logout lock. Who claims lets go of that lock only when it sees no mark, and then
    looks again, 2 to 4. So an owner that was told no is taken over: either its mark is seen then, or it has left.
(3) Both locks are removed by the owner only, `owner` last. Who has opened a file that was removed since gets a lock on
    nothing, sees it, and tries the name again (statefile.py). A claim on a removed `logout` is harmless: the identity
    that it waits for is gone as well, or 1 and (1) decide.

| owner is between          | a starter comes          | and then                                                    |
|---------------------------|--------------------------|-------------------------------------------------------------|
| start, save               | watches, next slot       | killed here: nothing lies there, the next one is fresh      |
| save, leaving             | watches, next slot       | marked within watch_time: as in the next row                |
| leaving, may_logout       | claims                   | may_logout says no; at the release the starter resumes      |
| … the starter is killed   | its claim is free again  | may_logout says yes; after a no: as if the owner was killed |
| … two starters            | one claims, one waits    | the mark is cleared: the other watches, next slot           |
| … a third is faster       | its claim is void        | the mark is cleared: claim given back, next slot            |
| may_logout, forget        | waits for the end        | nothing lies there: fresh, the name is free                 |
| … the owner is killed     | both locks are free      | resumes; "node not known" makes node.py register anew       |
| … the server is silent    | waits                    | released without forget: resumes                            |
| forget, release           | waits                    | nothing lies there: fresh                                   |
| unlinks of release        | has opened a file before | its lock is on a file without a name: tries again           |
| hangs after leaving       | waits until logout_time  | next slot, fresh; the old one is for a later start          |
| taken over, leaves again  | has just locked logout   | with a mark it is claimed; without one it looks again       |

Limits: who removes `owner` of a running node by hand gets its identity used twice. Nothing here talks to a server, and
every step but `claim` is a short, blocking call.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from ts4nsnet.node import remember
from ts4nsnet.node.identity import Binding, Identity, decode, encode
from ts4nsnet.node.statefile import Folder, Lock, StateError, Unreadable

# ours, seconds: the owner waits this long between leaving() and may_logout(), for the start that follows a restart's
# end after 75-90 ms, and needs some 100 ms to announce itself
HANDOVER_TIME = 0.3


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a start waits; all in seconds.

    Attributes:
        watch_time: for a running owner to be leaving.
        logout_time: longer, for one that is leaving to have left.
        poll_time: between two looks.
    """

    watch_time: float = 0.3
    logout_time: float = 2.0
    poll_time: float = 0.015


class Claim(ABC):
    """A node's hold on its identity, on disk in one way or another; nobody else has it until `release`.

    Attributes:
        identity: what to resume, or what was saved last; None: make a fresh one.
        warning: why an older file was moved aside and not used; empty if there was none. For the log.
    """

    identity: Identity | None = None
    warning: str = ""

    @abstractmethod
    def save(self, identity: Identity) -> None:
        """Keep `identity`: before it is registered, so that a crash leaves no unknown node behind, and after.

        Raises:
            StateError: it cannot be written; what was saved before is still there.
        """

    def leaving(self) -> None:  # noqa: B027  # not everybody can take over
        """Say that the end has begun: who starts from now on may take over."""

    def is_wanted(self) -> bool:
        """Whether a start for the same container is on its way and has not looked here yet (remember.py)."""
        return False

    @abstractmethod
    def may_logout(self) -> bool:
        """Decide about the logout, `HANDOVER_TIME` after `leaving`; False: leave the node to whoever takes over.

        It may be asked again until `release`: True after a False means that the one who took over is gone.
        """

    @abstractmethod
    def forget(self) -> None:
        """Remove the identity: the server has confirmed that the node is no more."""

    @abstractmethod
    def release(self) -> None:
        """Let go of it, as the last step; idempotent."""

    def save_netmap(self, response: bytes) -> None:  # noqa: B027  # a claim without a place for it keeps none
        """Keep the first full MapResponse, for a start while the server is away; raises `StateError`."""

    def load_netmap(self) -> bytes | None:
        """The kept MapResponse; None if there is none."""
        return None

    def drop_netmap(self) -> None:  # noqa: B027
        """Remove the kept MapResponse: the tailnet forbids it."""


async def claim(path: Path, binding: Binding, *, limits: Limits = Limits()) -> Claim:
    """Get an identity for `binding` from the journal in the folder `path`, within the time of `limits`.

    Raises:
        Unsafe: the folder is not ours alone.
        StateError: the folder cannot be used.
    """
    starter = Starter(Folder.open(path), binding, trio.current_time(), limits)
    try:
        found = starter.step(trio.current_time())
        remember.arrive(path, binding.container)  # who is leaving is claimed by now
        while found is None:
            await trio.sleep(limits.poll_time)
            found = starter.step(trio.current_time())
    except BaseException:
        starter.close()
        raise
    return found


def remembered(path: Path, container: str) -> tuple[Binding, ...]:
    """What nodes of `container` in the journal were started as.

    For a restart that has lost its environment, and with it the credential, the control URL and the rest (podman up to
    4.7; container-tools.md 1, row 7). Raises `StateError` if the folder cannot be used.
    """
    folder = Folder.open(path)
    try:
        found = {_read(folder, name)[0] for name in folder.names() if name.endswith(".json")}
    finally:
        folder.close()
    return tuple(sorted((b for b in found if b is not None and b.container == container), key=lambda b: b.name))


@dataclass(frozen=True, slots=True)
class _Slot:
    """The names of the files of one slot."""

    binding_name: str
    number: int

    @property
    def identity(self) -> str:
        return f"{self.binding_name}-{self.number}.json"

    @property
    def owner(self) -> str:
        return f"{self.binding_name}-{self.number}.owner"

    @property
    def logout(self) -> str:
        return f"{self.binding_name}-{self.number}.logout"

    @property
    def aside(self) -> str:
        return f"{self.binding_name}-{self.number}.bad"


class Starter:
    """A start on its way to a slot: `step` until it gives a claim, or `close`.

    Args:
        folder: of the journal; the claim closes it at its end.
        binding: of this start.
        started_at: seconds of the clock of `step`.
        limits: how long to wait.
    """

    def __init__(self, folder: Folder, binding: Binding, started_at: float, limits: Limits) -> None:
        self._folder = folder
        self._binding = binding
        self._watch_until = started_at + limits.watch_time
        self._logout_until = self._watch_until + limits.logout_time
        self._claimed: tuple[_Slot, Lock] | None = None  # a leaving owner's slot, and its logout lock
        self._warnings: list[str] = []

    def step(self, now: float) -> "JournalClaim | None":
        """Look around once; None: look again a little later. Raises `StateError`."""
        if self._claimed:
            if now < self._logout_until and self._folder.is_marked(self._claimed[0].owner):
                return self._take(self._claimed[0])
            self._unclaim()
        busy: set[int] = set()
        waiting = False
        for slot in self._slots():
            found = self._take(slot)
            if found and found.identity:
                return found
            if found:
                found.vacate()
                continue
            busy.add(slot.number)
            if now < self._logout_until and self._is_leaving(slot):
                if self._claimed:
                    return None
                waiting = True
        if waiting or (busy and now < self._watch_until):
            return None
        return self._take(_Slot(self._binding.name, min(set(range(len(busy) + 1)) - busy)))

    def close(self) -> None:
        """Give up: what was claimed on the way is free again."""
        self._unclaim()
        self._folder.close()

    def _slots(self) -> list[_Slot]:
        pattern = re.compile(rf"{self._binding.name}-(\d{{1,6}})\.(?:owner|json)")
        matches = (pattern.fullmatch(name) for name in self._folder.names())
        return [_Slot(self._binding.name, number) for number in sorted({int(match[1]) for match in matches if match})]

    def _is_leaving(self, slot: _Slot) -> bool:
        # its owner is; and what it leaves is claimed, if nobody else has decided
        if not self._folder.is_marked(slot.owner):
            return False
        if logout := self._folder.try_lock(slot.logout, create=False):
            self._claimed = slot, logout  # perhaps of another owner by now; the next step sees that it has no mark
        return True

    def _take(self, slot: _Slot) -> "JournalClaim | None":
        # None: its owner lives
        owner = self._folder.try_lock(slot.owner)
        if owner is None:
            return None
        owner.mark(False)
        self._unclaim()
        try:
            if logout := self._folder.try_lock(slot.logout):  # makes the file, for a claim of our own identity later
                logout.release()
            identity = self._identity_in(slot)
        except StateError:
            owner.release()
            raise
        return JournalClaim(self._folder, slot, owner, self._binding, identity, self._warnings)

    def _identity_in(self, slot: _Slot) -> Identity | None:
        binding, identity, problem = _read(self._folder, slot.identity)
        if binding and binding != self._binding:
            identity, problem = None, f"{self._folder.path / slot.identity}: of another start"
        if problem:
            self._folder.move(slot.identity, slot.aside)
            self._warnings.append(f"{problem}; not used, kept as {slot.aside}")
        return identity

    def _unclaim(self) -> None:
        if self._claimed:
            self._claimed[1].release()
            self._claimed = None


class JournalClaim(Claim):
    """A slot of the journal; made by `Starter`."""

    def __init__(
        self,
        folder: Folder,
        slot: _Slot,
        owner: Lock,
        binding: Binding,
        identity: Identity | None,
        warnings: Sequence[str],
    ) -> None:
        self._folder = folder
        self._slot = slot
        self._owner = owner
        self._binding = binding
        self._logout: Lock | None = None
        self.identity = identity
        self.warning = "; ".join(warnings)

    def save(self, identity: Identity) -> None:
        """See `Claim`."""
        self._folder.write(self._slot.identity, encode(self._binding, identity))
        self.identity = identity

    def leaving(self) -> None:
        """See `Claim`."""
        self._owner.mark(True)

    def is_wanted(self) -> bool:
        """See `Claim`."""
        with suppress(StateError):  # the folder is gone, so nobody can take over
            return remember.is_announced(self._folder.path, self._binding.container)
        return False

    def may_logout(self) -> bool:
        """See `Claim`; after a True nobody can take over any more."""
        if self._logout is None:
            self._owner.mark(True)
            try:
                self._logout = self._folder.try_lock(self._slot.logout)
            except StateError:  # the folder is gone, so nobody can take over
                return True
        return self._logout is not None

    def forget(self) -> None:
        """See `Claim`."""
        self._folder.remove(self._slot.identity)
        self.identity = None

    def vacate(self) -> None:
        """`release` but for the folder, which is still needed."""
        try:
            if self.identity is None and self._owner.held:  # later the names are those of the next owner
                for name in (f"{self._slot.identity}.tmp", self._slot.logout, self._slot.owner):
                    self._folder.remove(name)
        finally:
            if self._logout:
                self._logout.release()
            self._owner.release()

    def release(self) -> None:
        """See `Claim`."""
        try:
            self.vacate()
        finally:
            self._folder.close()


def _read(folder: Folder, name: str) -> tuple[Binding | None, Identity | None, str]:
    # the third: why there is nothing, if there should be
    try:
        data = folder.read(name)
        return (*decode(data), "") if data is not None else (None, None, "")
    except Unreadable as error:
        return None, None, f"{folder.path / name}: {error}"
    except StateError as error:
        return None, None, str(error)

# SPDX-License-Identifier: BSD-3-Clause
"""`/machine/register`: who may join, by what.

    past Expiry                        logout: an ephemeral node goes, another one's key expires
    Followup                           wait for the login page
    known machine and node key         in, whatever auth key is sent along: a restarted container has a spent one
    … but expired, without a key       NodeKeyExpired: make a new one
    Auth                               a valid key lets in: a new node, or a new node key for a known machine
    nothing                            AuthURL: the login page

A machine has one node. So a new node key of a known machine is a rotation, and keeps NodeID, addresses and name; it
needs a valid auth key or a login as a new machine does, and takes over that one's owner or tags.

An answer that has to wait for the login page is a `Reply` without a body; the caller is told when it has one. Pending
logins are bounded, the oldest go; they and their waiting requests are lost at a restart, where the client gets a new
URL. Nothing is kept for requests that are refused.

Source: control.md 1.2, 4.1 to 4.5, 10.3.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ts4nsnet.keys import PublicKey
from ts4nsnet.lab.credentials import KeyRefused, Keyring, Random
from ts4nsnet.lab.directory import Directory, Owner
from ts4nsnet.lab.errors import Refused
from ts4nsnet.lab.model import Hostinfo, Node
from ts4nsnet.lab.requests import RegisterRequest
from ts4nsnet.lab.responses import Json, register_json

LOGIN_PATH = "/register/"
LOGIN_TIME = 15 * 60.0  # as headscale: seconds that a login page is valid
# ours: logins that are pending at a time; the oldest go
MAX_LOGINS = 1024
# as headscale: older clients expect things of maps that ours do not have
MIN_VERSION = 113

NO_USER = (0, "")


@dataclass(eq=False)
class Reply:
    """The answer to a register request; `body` is None as long as it waits for the login page."""

    body: Json | None = None


@dataclass(eq=False)
class Login:
    """A login page that somebody may open.

    Args:
        machine, request: who wants in.
        expires_at: Unix seconds.
        owner: who let it in; None: nobody yet.
        waiting: requests that wait for it.
    """

    machine: PublicKey
    request: RegisterRequest
    expires_at: float
    owner: Owner | None = None
    waiting: list[Reply] = field(default_factory=list)


class Registrar:
    """Decides about register requests.

    Args:
        directory, keyring: what it decides by, and changes.
        base_url: of the login pages; "https://10.0.0.1:8443".
        random: so many unpredictable bytes.
        drop: removes a node and ends its streams.
    """

    def __init__(
        self, directory: Directory, keyring: Keyring, base_url: str, random: Random, drop: Callable[[Node], None]
    ) -> None:
        self._directory = directory
        self._keyring = keyring
        self._base_url = base_url
        self._random = random
        self._drop = drop
        self._logins: dict[str, Login] = {}
        self.answered: list[Reply] = []  # that had to wait

    def register(self, machine: PublicKey, request: RegisterRequest, wall: float) -> Reply:
        """Answer a request; raises `Refused` for one that no client would send."""
        if request.version < MIN_VERSION:
            raise Refused(400, f"unsupported client version: {request.version}, want at least {MIN_VERSION}")
        if request.expiry_at is not None and request.expiry_at <= wall:
            return Reply(self._log_out(machine, request, wall))
        owner = self._directory.of_key(request.node_key)
        if owner is not None and owner.machine != machine:
            return _error("node key already in use by another machine")
        if request.followup:
            return self._follow(machine, request, wall)
        node = self._directory.of_machine(machine)
        if node is not None and node.key == request.node_key:
            if not node.is_expired(wall):
                return self._welcome_back(node, request)
            if not request.auth_key:
                return Reply(register_json(*NO_USER, expired=True))
        if request.auth_key:
            return self._admit_by_key(machine, request, wall)
        return self._open_login(machine, request, wall)

    def login(self, login_id: str, wall: float) -> Login | None:
        """A pending login, for its page."""
        login = self._logins.get(login_id)
        return login if login is not None and login.expires_at > wall else None

    def approve(self, login_id: str, owner: Owner, wall: float) -> Node:
        """Let a pending login in; raises `Refused` when there is none (any more)."""
        login = self.login(login_id, wall)
        if login is None:
            raise Refused(404, "no such login is pending; start it again")
        if refused := self._refused_tags(owner.login, owner.tags, login.request.hostinfo):
            raise Refused(403, refused)
        login.owner = owner
        node = self._admit(login.machine, login.request, owner, wall)
        body = self._success(node)
        for reply in login.waiting:
            reply.body = body
        self.answered += login.waiting
        login.waiting = []
        return node

    def login_id_of(self, url: str) -> str | None:
        """The id in one of our login URLs; None for another text."""
        try:
            path = urlsplit(url).path
        except ValueError:
            return None
        is_ours = url.startswith(self._base_url) and path.startswith(LOGIN_PATH)
        return path.removeprefix(LOGIN_PATH) if is_ours else None

    def forget(self, reply: Reply) -> None:
        """Whoever waited for this answer is gone."""
        for login in self._logins.values():
            if reply in login.waiting:
                login.waiting.remove(reply)

    def next_expiry(self) -> float | None:
        """When, in Unix seconds, `expire_logins` has something to do."""
        return next((login.expires_at for login in self._logins.values()), None)

    def expire_logins(self, wall: float) -> None:
        """Forget the login pages that nobody opened in time; who waits for one gets a new one."""
        for login_id, login in list(self._logins.items()):
            if login.expires_at > wall:
                return
            del self._logins[login_id]
            for reply in login.waiting:
                reply.body = self._open_login(login.machine, login.request, wall).body
            self.answered += login.waiting

    def _log_out(self, machine: PublicKey, request: RegisterRequest, wall: float) -> Json:
        node = self._directory.of_key(request.node_key)
        if node is not None and node.machine == machine:
            if node.ephemeral:
                self._drop(node)
            else:
                self._directory.expire(node, wall)
        return register_json(*NO_USER, expired=True)

    def _welcome_back(self, node: Node, request: RegisterRequest) -> Reply:
        """A known node starts anew: no credential is asked for, or spent."""
        refused = self._refused_tags(node.login, node.tags, request.hostinfo)
        if refused:
            return _error(refused)
        self._update(node, request)
        if request.expiry_at is not None and (node.key_expires_at is None or request.expiry_at < node.key_expires_at):
            self._directory.set_expiry(node, request.expiry_at)
        return Reply(self._success(node))

    def _admit_by_key(self, machine: PublicKey, request: RegisterRequest, wall: float) -> Reply:
        try:
            key = self._keyring.check_key(request.auth_key, wall)
        except KeyRefused as refused:
            return _error(str(refused))
        owner = Owner(key.login, key.tags)
        refused_tags = self._refused_tags(owner.login, owner.tags, request.hostinfo)
        if refused_tags:
            return _error(refused_tags)
        node = self._admit(machine, request, owner, wall, ephemeral=key.ephemeral)
        self._keyring.spend(key)
        return Reply(self._success(node))

    def _admit(
        self, machine: PublicKey, request: RegisterRequest, owner: Owner, wall: float, *, ephemeral: bool = False
    ) -> Node:
        directory = self._directory
        hostinfo = request.hostinfo or Hostinfo()
        owner = Owner(owner.login, hostinfo.tags or owner.tags)
        node = directory.of_machine(machine)
        if node is None:
            node = directory.create(machine, request.node_key, owner, hostinfo, wall)
        else:
            directory.set_key(node, request.node_key)
            directory.set_owner(node, owner)
            directory.renew(node, wall)
        node.ephemeral = ephemeral or request.ephemeral
        self._update(node, request)
        return node

    def _update(self, node: Node, request: RegisterRequest) -> None:
        self._directory.set_version(node, request.version)
        if request.hostinfo is not None:
            self._directory.set_hostinfo(node, request.hostinfo)

    def _follow(self, machine: PublicKey, request: RegisterRequest, wall: float) -> Reply:
        login_id = self.login_id_of(request.followup)
        if login_id is None:
            return _error("invalid registration ID")
        login = self.login(login_id, wall)
        if login is None or login.machine != machine or login.request.node_key != request.node_key:
            return self._open_login(machine, request, wall)
        if login.owner is not None:
            node = self._directory.of_key(request.node_key)
            return Reply(self._success(node)) if node else self._open_login(machine, request, wall)
        reply = Reply()
        login.waiting.append(reply)
        return reply

    def _open_login(self, machine: PublicKey, request: RegisterRequest, wall: float) -> Reply:
        if len(self._logins) >= MAX_LOGINS:
            lost = self._logins.pop(next(iter(self._logins)))
            for reply in lost.waiting:
                reply.body = register_json(*NO_USER, error="too many logins are pending; try again")
            self.answered += lost.waiting
        login_id = base64.b32encode(self._random(15)).decode().lower()
        self._logins[login_id] = Login(machine, request, wall + LOGIN_TIME)
        return Reply(register_json(*NO_USER, auth_url=f"{self._base_url}{LOGIN_PATH}{login_id}"))

    def _refused_tags(self, login: str, tags: tuple[str, ...], hostinfo: Hostinfo | None) -> str:
        """Why the tags that a node asks for are refused; "" if they are not."""
        for tag in hostinfo.tags if hostinfo else ():
            if not self._directory.rules.may_have_tag(login, tags, tag):
                return "requested tags are invalid or not permitted by the policy's tagOwners"
        return ""

    def _success(self, node: Node) -> Json:
        return register_json(node.user_id, node.login)


def _error(text: str) -> Reply:
    return Reply(register_json(*NO_USER, error=text))

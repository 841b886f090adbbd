# SPDX-License-Identifier: BSD-3-Clause
"""Registering a node key: which key, with what credential, and what an answer means.

    `Login.attempt` is the request that is due, None when we are in.

    start ──► new key ────────── {key, Auth} ─────────► in                       AuthURL without credential: the URL is
         └──► registered key ─── {key}, no Auth ──────► in                       shown, and `followup` waits for a visit
                                  │ AuthURL: not known │ NodeKeyExpired
                                  ▼ any more           ▼
                                 {fresh key, Auth}    {fresh key, OldNodeKey, Auth}

* **The credential is sent as rarely as can be.** Servers take a registered key without it; sent again, it is spent
  without effect or throws a valid node out. So a key that was registered is first asked for alone, even after a 404 of
  the map poll: only if the server does not know it, a fresh key and the credential follow; if it refuses it as it is,
  the same key with the credential.
* A refused or unanswered attempt is repeated with the same key: the server may have heard the one before, and a
  single-use key is good for the same node key twice.
* An answer is read in the reference's order: 429, other errors, Error, NodeKeySignature, NodeKeyExpired, AuthURL,
  success. A logged-out node may say MachineAuthorized and NodeKeyExpired at once.

Source: control.md 4; new-features.md 2, traps 5 and 6.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from ts4nsnet.control.backoff import Random, retry_after
from ts4nsnet.control.credentials import AuthKey, Credential, redact
from ts4nsnet.control.errors import ControlError
from ts4nsnet.control.events import Reason
from ts4nsnet.control.fields import Fields, load
from ts4nsnet.control.http import HttpResponse, parse_url
from ts4nsnet.control.lock import LockKey
from ts4nsnet.keys import NODE_PREFIX, ZERO_KEY, PrivateKey, PublicKey

REGISTER_PATH = "/machine/register"
LOGOUT_EXPIRY = "1970-01-01T00:02:03Z"  # Unix time 123: what the reference sends to log out
# seconds; how long the reference trusts an AuthURL: a week less an hour
LOGIN_URL_TIME = 7 * 86400.0 - 3600.0

_ADVICE = {
    Reason.SPENT: "this single-use key was used before: make a reusable one for nodes that come back",
    Reason.EXPIRED: "make a new auth key",
    Reason.INVALID: "is it complete, and of this server?",
    Reason.LOCKED: "sign the node key from a trusted machine (tailscale lock sign), or use a wrapped auth key (--TL)",
    Reason.NO_KEY: "see its settings in the administration pages",
    Reason.OTHER: "ask the tailnet's administrator",
}
_TEXTS = (
    (re.compile(r"already (been )?used|single.use|one.time", re.IGNORECASE), Reason.SPENT),
    (re.compile(r"expired", re.IGNORECASE), Reason.EXPIRED),
    (re.compile(r"invalid|not valid|not found|unknown|revoked|parse auth-key", re.IGNORECASE), Reason.INVALID),
)


# --- requests -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """A RegisterRequest; control.md 4.1 has the fields."""

    version: int
    node: PublicKey
    old: PublicKey
    hostinfo: Mapping[str, object]
    auth_key: str = field(default="", repr=False)
    followup: str = ""
    ephemeral: bool = False
    tailnet: str = ""
    lock_public: bytes = b""
    signature: bytes = b""
    expiry: str = ""

    def emit(self) -> bytes:
        """The request's body."""
        request: dict[str, object] = {
            "Version": self.version,
            "NodeKey": self.node.to_text(NODE_PREFIX),
            "OldNodeKey": self.old.to_text(NODE_PREFIX),
            "Hostinfo": self.hostinfo,
            "Followup": self.followup,
        }
        if self.auth_key:
            request["Auth"] = {"AuthKey": self.auth_key}
        if self.ephemeral:
            request["Ephemeral"] = True
        if self.tailnet:
            request["Tailnet"] = self.tailnet
        if self.lock_public:
            request["NLKey"] = f"nlpub:{self.lock_public.hex()}"
        if self.signature:
            request["NodeKeySignature"] = base64.b64encode(self.signature).decode()
        if self.expiry:
            request["Expiry"] = self.expiry
        return json.dumps(request, separators=(",", ":")).encode()


# --- answers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Authorized:
    """We are in."""

    login_name: str
    display_name: str
    machine_authorized: bool


@dataclass(frozen=True, slots=True)
class LoginPending:
    """Somebody has to visit `url`."""

    url: str


@dataclass(frozen=True, slots=True)
class KeyExpired:
    """This node key is of no use any more."""


@dataclass(frozen=True, slots=True)
class SignatureWanted:
    """A locked tailnet: sign a new key on the strength of this."""

    signature: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The server says no, and why."""

    text: str
    reason: Reason

    @property
    def advice(self) -> str:
        """What the user can do."""
        return _ADVICE[self.reason]


@dataclass(frozen=True, slots=True)
class Postponed:
    """The server is too busy: again in `retry_time` seconds."""

    text: str
    retry_time: float


@dataclass(frozen=True, slots=True)
class Failed:
    """Something else than an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class AskAgain:
    """A conclusion of ours: the next attempt follows at once."""


Answer = Authorized | LoginPending | KeyExpired | SignatureWanted | Refused | Postponed | Failed
Outcome = Authorized | LoginPending | KeyExpired | AskAgain | Refused | Postponed | Failed


def parse_answer(response: HttpResponse, *, https_only: bool, random: Random, wall: float) -> Answer:
    """Read the answer to a register request; never raises.

    Args:
        https_only: whether a login URL of plain http is none (the control URL is https).
        random: for a 429 that does not say how long.
        wall: unix seconds, for a 429 that says until when.
    """
    if response.status == 429:
        return Postponed(response.text, retry_after(response.headers, random, wall))
    if response.status != 200:
        return Failed(f"register: got status {response.status}, want 200: {response.text}")
    try:
        fields = Fields(load(response.body))
        if error := fields.text("Error"):
            return Refused(error, reason_of(error))
        if signature := fields.data("NodeKeySignature"):
            return SignatureWanted(signature)
        if fields.flag("NodeKeyExpired"):
            return KeyExpired()
        if url := fields.text("AuthURL"):
            if parse_url(url)[0].tls or not https_only:
                return LoginPending(url)
            return Failed("register: the login URL should be of https, as the control URL is")
        login = fields.object("Login") or Fields({})
        return Authorized(login.text("LoginName"), login.text("DisplayName"), fields.flag("MachineAuthorized"))
    except ControlError as error:
        return Failed(f"register: {error}")


def reason_of(text: str) -> Reason:
    """What a server's text means; servers have no codes for it."""
    return next((reason for pattern, reason in _TEXTS if pattern.search(text)), Reason.OTHER)


# --- what to ask next -----------------------------------------------------------------------------------------


class Why(Enum):
    """What an attempt is for."""

    JOIN = auto()  # to get in with a key that was never in; no other is good
    CHECK = auto()  # to be sure that the server knows a registered key
    RENEW = auto()  # another key while the current one is still good
    EXPIRED = auto()  # another key after its time; the poll goes on, and may tell that it is good after all


@dataclass(frozen=True, slots=True)
class Attempt:
    """A registration that is due."""

    why: Why
    key: PrivateKey
    old: PublicKey = ZERO_KEY
    with_credential: bool = False
    followup: str = ""  # the AuthURL that we wait for
    followup_at: float = 0.0
    signature: bytes = field(default=b"", repr=False)


class Login:
    """Which node key is ours, and what has to be asked to keep it so.

    Args:
        key: the node key.
        registered: whether a server has once taken it.
        credential: what lets us in; None: only a visit of a login URL does.
        lock: our key for signatures of a locked tailnet.
        random: source of new keys.
    """

    def __init__(
        self, key: PrivateKey, *, registered: bool, credential: Credential | None, lock: LockKey | None, random: Random
    ) -> None:
        self.key = key
        self.registered = registered
        self.credential = credential
        self.auth_key: AuthKey | None = credential if isinstance(credential, AuthKey) else None
        self.attempt: Attempt | None
        self._lock = lock
        self._random = random
        if registered:
            self.attempt = Attempt(Why.CHECK, key)
        else:
            self.attempt = Attempt(Why.JOIN, key, with_credential=credential is not None)

    @property
    def may_poll(self) -> bool:
        """Whether our key is, for all we know, known to the server."""
        return self.registered and (self.attempt is None or self.attempt.why in (Why.RENEW, Why.EXPIRED))

    @property
    def lacks_auth_key(self) -> bool:
        """Whether the attempt needs a key that the credential has yet to be turned into."""
        return self.attempt is not None and self.attempt.with_credential and self.auth_key is None

    def doubt(self) -> None:
        """The map poll says that the server does not know us: ask it without the credential first."""
        self.attempt = Attempt(Why.CHECK, self.key)

    def renew(self, why: Why) -> None:
        """Get another node key; `why` is RENEW or EXPIRED. An attempt that goes on keeps its key."""
        if self.attempt is None:
            self.attempt = Attempt(why, self._new_key(), self.key.public, with_credential=self.credential is not None)
        elif self.attempt.why is Why.RENEW:
            self.attempt = replace(self.attempt, why=why)

    def cancel_renewal(self) -> None:
        """The current key is good after all, or must do."""
        if self.attempt is not None and self.attempt.why in (Why.RENEW, Why.EXPIRED):
            self.attempt = None

    def request(
        self, version: int, hostinfo: Mapping[str, object], *, ephemeral: bool, tailnet: str, now: float
    ) -> RegisterRequest:
        """The request that is due."""
        attempt = self._current()
        if attempt.followup and now - attempt.followup_at >= LOGIN_URL_TIME:
            attempt = self.attempt = replace(attempt, followup="")
        auth_key, signature = "", attempt.signature
        if attempt.with_credential and self.auth_key is not None:
            auth_key = self.auth_key.text
            if self.auth_key.wrapping is not None and not signature:
                signature = self.auth_key.wrapping.sign(attempt.key.public)
        return RegisterRequest(
            version=version,
            node=attempt.key.public,
            old=attempt.old,
            hostinfo=hostinfo,
            auth_key=auth_key,
            followup=attempt.followup,
            ephemeral=ephemeral,
            tailnet=tailnet,
            lock_public=self._lock.public if self._lock else b"",
            signature=signature,
        )

    def take(self, answer: Answer, now: float) -> Outcome:
        """Draw the conclusions; what is left for the caller to tell, or to wait for.

        `Authorized` has ended the attempt. After `LoginPending`, `KeyExpired` and `AskAgain` the next request is due
        at once, after the others later.
        """
        attempt = self._current()
        match answer:
            case Authorized():
                self.key, self.registered, self.attempt = attempt.key, True, None
                self._forget_made_key()
            case LoginPending(url):
                if attempt.why is Why.CHECK and self.credential is not None:
                    self.attempt = Attempt(Why.JOIN, self._new_key(), with_credential=True)
                    return AskAgain()
                repeated = url == attempt.followup
                self.attempt = replace(attempt, followup=url, followup_at=attempt.followup_at if repeated else now)
                return Failed("register: the login URL has not been visited") if repeated else answer
            case KeyExpired() if attempt.key is not self.key:
                return Failed("register: the server calls a fresh node key expired")
            case KeyExpired():
                with_credential = self.credential is not None
                self.attempt = Attempt(Why.JOIN, self._new_key(), self.key.public, with_credential)
            case SignatureWanted(signature):
                return self._resign(attempt, signature)
            case Refused(text, reason):
                self._forget_made_key()
                if attempt.why is Why.CHECK and self.credential is not None:
                    # that server wants the credential each time; by its key it is the same node
                    self.attempt = Attempt(Why.JOIN, attempt.key, with_credential=True)
                    return AskAgain()
                # the current key is good for a while: it is asked again when its time is over
                self.attempt = None if attempt.why is Why.RENEW else replace(attempt, followup="")
                secret = self.auth_key.text if self.auth_key else ""
                return Refused(redact(text, secret), reason)
            case _:
                pass
        return answer

    def _resign(self, attempt: Attempt, signature: bytes) -> Outcome:
        if self._lock is None or attempt.signature:
            return Refused("the tailnet is locked and our node key is not signed", Reason.LOCKED)
        key = self._new_key()
        try:
            signed = self._lock.sign_rotation(key.public, signature)
        except ControlError as error:
            return Failed(f"register: {error}")
        self.attempt = replace(attempt, key=key, old=self.key.public, signature=signed)
        return AskAgain()

    def _forget_made_key(self) -> None:
        """A key that was made for this one registration is spent."""
        if not isinstance(self.credential, AuthKey):
            self.auth_key = None

    def _new_key(self) -> PrivateKey:
        return PrivateKey(self._random(32))

    def _current(self) -> Attempt:
        if self.attempt is None:
            raise RuntimeError("no registration is due")
        return self.attempt

# SPDX-License-Identifier: BSD-3-Clause
"""Pre-auth keys, and what makes them: the administrator, OAuth clients, federated identities.

    administrator ──────────────────────────────────────────────┐
    OAuth client: secret ───────────► /oauth/token ──► access   ├──► /tailnet/-/keys ──► pre-auth key
    federated identity: id token ───► /oauth/token-exchange ──► token ┘

A secret is shown once, when it is made; we keep its SHA-256. All have the public service's forms,
`tskey-<kind>-<id>-<secret>`, where the id may be shown.

An OAuth client's keys carry tags, some of its own. A federated identity believes exactly the tokens that it was set up
with: a lab has no issuer whose signature could be checked, and a test wants to say which token is good.

Source: control.md 1.2; Tailscale's public API documentation (keys, OAuth clients, workload identity federation).
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ts4nsnet.lab.errors import LabError, Refused
from ts4nsnet.lab.model import DEFAULT_USER, AuthKey, Credential, State
from ts4nsnet.lab.policy import TAG

Random = Callable[[int], bytes]

ACCESS_TIME = 3600.0  # seconds that an access token lives, as the public service has it
DEFAULT_KEY_TIME = 90 * 86400.0  # likewise
_ID_BYTES, _SECRET_BYTES = 9, 33


class KeyRefused(LabError):
    """A pre-auth key that lets nobody in; the text is for the user, with headscale's words."""


@dataclass(frozen=True, slots=True)
class KeyWish:
    """What a new pre-auth key shall be."""

    reusable: bool = False
    ephemeral: bool = False
    tags: tuple[str, ...] = ()
    login: str = DEFAULT_USER
    valid_time: float = DEFAULT_KEY_TIME  # seconds
    description: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """What an access token may do: make keys with these tags."""

    tags: tuple[str, ...]
    expires_at: float


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that is shown once."""

    text: str = field(repr=False)


class Keyring:
    """All keys and credentials of a tailnet.

    Args:
        state: what is saved.
        random: so many unpredictable bytes.
    """

    def __init__(self, state: State, random: Random) -> None:
        self._state = state
        self._random = random
        self._access: dict[bytes, Access] = {}  # by digest; lost at a restart: they live an hour
        self.is_saved = True

    @property
    def keys(self) -> Sequence[AuthKey]:
        """The pre-auth keys, spent and expired ones too."""
        return self._state.keys

    @property
    def credentials(self) -> Sequence[Credential]:
        """The OAuth clients and federated identities."""
        return self._state.credentials

    def create_key(self, wish: KeyWish, wall: float) -> tuple[AuthKey, Secret]:
        """A new pre-auth key; raises `Refused` for tags that are none."""
        _check_tags(wish.tags)
        key_id, secret = self._new("auth")
        key = AuthKey(
            key_id=key_id,
            digest=digest(secret.text),
            login=wish.login,
            created_at=wall,
            expires_at=wall + wish.valid_time,
            reusable=wish.reusable,
            ephemeral=wish.ephemeral,
            tags=wish.tags,
            description=wish.description,
        )
        self._state.keys.append(key)
        self.is_saved = False
        return key, secret

    def check_key(self, text: str, wall: float) -> AuthKey:
        """The key that this text is; raises `KeyRefused` when it lets nobody in (any more)."""
        wanted = digest(text)
        for key in self._state.keys:
            if hmac.compare_digest(key.digest, wanted):
                if key.used and not key.reusable:
                    raise KeyRefused("authkey already used")
                if key.expires_at <= wall:
                    raise KeyRefused("authkey expired")
                return key
        raise KeyRefused("invalid pre auth key")

    def spend(self, key: AuthKey) -> None:
        """A node has joined with this key."""
        key.used += 1
        self.is_saved = False

    def delete(self, name: str) -> None:
        """Revoke a key or a credential, and the access tokens with it; raises `Refused` for an unknown id."""
        state = self._state
        keys = [key for key in state.keys if key.key_id != name]
        credentials = [each for each in state.credentials if each.credential_id != name]
        if len(keys) == len(state.keys) and len(credentials) == len(state.credentials):
            raise Refused(404, "no key or credential has this id")
        if len(credentials) < len(state.credentials):
            self._access.clear()
        state.keys, state.credentials = keys, credentials
        self.is_saved = False

    def create_client(self, tags: tuple[str, ...], description: str, wall: float) -> tuple[Credential, Secret]:
        """A new OAuth client and its secret; raises `Refused` for tags that are none."""
        name, secret = self._new("client")
        return self._add(Credential(name, (digest(secret.text),), False, tags, wall, description)), secret

    def create_federated(
        self, tags: tuple[str, ...], tokens: Sequence[str], description: str, wall: float
    ) -> Credential:
        """A new federated identity that believes these tokens; raises `Refused` for tags that are none."""
        if not tokens:
            raise Refused(400, "tokens: want at least one token to believe")
        name = _text(self._random(_ID_BYTES))
        return self._add(Credential(name, tuple(map(digest, tokens)), True, tags, wall, description))

    def access_for_secret(self, secret: str, wall: float) -> Secret:
        """An access token for an OAuth client's secret; raises `Refused` (401)."""
        return self._grant(secret, [each for each in self._state.credentials if not each.federated], wall)

    def access_for_token(self, client_id: str, token: str, wall: float) -> Secret:
        """An access token for a token of a federated identity; raises `Refused` (401)."""
        candidates = [each for each in self._state.credentials if each.federated and each.credential_id == client_id]
        return self._grant(token, candidates, wall)

    def access(self, token: str, wall: float) -> Access | None:
        """What an access token may do; None if it is not, or no longer, one."""
        access = self._access.get(digest(token))
        return access if access is not None and access.expires_at > wall else None

    def _grant(self, secret: str, candidates: Sequence[Credential], wall: float) -> Secret:
        wanted = digest(secret)
        for credential in candidates:
            if any(hmac.compare_digest(each, wanted) for each in credential.digests):
                self._access = {key: access for key, access in self._access.items() if access.expires_at > wall}
                _, token = self._new("api")
                self._access[digest(token.text)] = Access(credential.tags, wall + ACCESS_TIME)
                return token
        raise Refused(401, "the client id, or its secret or token, is not one that we know")

    def _add(self, credential: Credential) -> Credential:
        if not credential.tags:
            raise Refused(400, "tags: want at least one; nodes of a credential belong to no user")
        _check_tags(credential.tags)
        self._state.credentials.append(credential)
        self.is_saved = False
        return credential

    def _new(self, kind: str) -> tuple[str, Secret]:
        name = _text(self._random(_ID_BYTES))
        return name, Secret(f"tskey-{kind}-{name}-{_text(self._random(_SECRET_BYTES))}")


def digest(secret: str) -> bytes:
    """SHA-256 of a secret text."""
    return hashlib.sha256(secret.encode(errors="replace")).digest()


def _check_tags(tags: Sequence[str]) -> None:
    for tag in tags:
        if not TAG.fullmatch(tag):
            raise Refused(400, "tags: want tag: and letters, digits, hyphens")


def _text(data: bytes) -> str:
    """Letters and digits: nothing that a URL or a `-` would cut."""
    return base64.b32encode(data).decode().rstrip("=")

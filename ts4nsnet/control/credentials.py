# SPDX-License-Identifier: BSD-3-Clause
"""What lets a node into a tailnet, and how it becomes an auth key.

    AuthKey            goes into the register request as it is; a wrapped one (`--TL`, lock.py) without its suffix
    OAuthSecret        tskey-client-…: POST {api}/oauth/token ──────────► token ─┐
    WorkloadIdentity   client id + ID token: POST {api}/oauth/token-exchange ────┴► POST {api}/tailnet/-/keys ─► AuthKey

`obtain` is such a conversation as a generator: it yields requests, is sent the responses (None: no answer came) and
returns the key. Keys made this way are single-use, so one is made for each registration that needs one.

Attributes behind a `?` on the secret or the client id: `ephemeral` (by default true), `preauthorized` (false), for the
secret also `baseURL`. A client id with a `?` but no `ephemeral` makes keys that are not ephemeral, as the reference has
it.

An ID token comes from the user, or for an audience from where we run: GitHub Actions, Google Cloud. On AWS that needs
signed requests to its token service, which we do not make: there the token must be given.

No value here shows a secret, no error quotes one.

Source: tailscale feature/oauthkey, feature/identityfederation, wif, cmd/containerboot (which settings exclude which).
"""

import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode

from ts4nsnet.control.errors import ControlError, CredentialError
from ts4nsnet.control.fields import Fields, load
from ts4nsnet.control.http import HttpRequest, HttpResponse
from ts4nsnet.control.lock import Wrapping, unwrap

DEFAULT_API_URL = "https://api.tailscale.com"
CLIENT_PREFIX = "tskey-client-"
# what people mix up with an auth key
_NOT_KEYS = ("tskey-api-", "tskey-webhook-", "tskey-scim-", "hskey-api-", "hskey-client-", "hskey-oauthtok-")
_METADATA_TIME = 5.0  # seconds; as the reference
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

Conversation = Generator[HttpRequest, HttpResponse | None, "AuthKey"]


@dataclass(frozen=True, slots=True)
class AuthKey:
    """A pre-auth key."""

    text: str = field(repr=False)
    wrapping: Wrapping | None = None  # of a key for a locked tailnet


@dataclass(frozen=True, slots=True)
class KeyWish:
    """What keys to ask the API for."""

    ephemeral: bool
    preauthorized: bool
    tags: tuple[str, ...]
    api_url: str


@dataclass(frozen=True, slots=True)
class OAuthSecret:
    """The secret of an OAuth client that may make keys."""

    secret: str = field(repr=False)
    wish: KeyWish


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """An identity that somebody else vouches for: by an ID token, or by one asked for at `audience`."""

    client_id: str
    wish: KeyWish
    id_token: str = field(default="", repr=False)
    audience: str = ""
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)  # where GitHub Actions leaves its address


Credential = AuthKey | OAuthSecret | WorkloadIdentity


def credential(
    *,
    auth_key: str = "",
    client_id: str = "",
    client_secret: str = "",
    id_token: str = "",
    audience: str = "",
    tags: Sequence[str] = (),
    control_url: str = "",
    environ: Mapping[str, str] | None = None,
) -> Credential | None:
    """The credential that the user's settings make, None without any.

    Args:
        auth_key: TS_AUTHKEY; the next four are TS_CLIENT_ID, TS_CLIENT_SECRET, TS_ID_TOKEN, TS_AUDIENCE.
        tags: what the node asks for; keys that we make carry them.
        control_url: where a workload identity's tokens are exchanged.
        environ: where GitHub Actions says how to get an ID token.

    Raises:
        CredentialError: they contradict each other, or are of a wrong kind.
    """
    if auth_key and (client_id or client_secret or id_token or audience):
        raise CredentialError(
            "TS_AUTHKEY excludes TS_CLIENT_ID, TS_CLIENT_SECRET, TS_ID_TOKEN and TS_AUDIENCE: give one way to log in"
        )
    if sum(map(bool, (client_secret, id_token, audience))) > 1:
        raise CredentialError("TS_CLIENT_SECRET, TS_ID_TOKEN and TS_AUDIENCE exclude each other: give one of them")
    if (id_token or audience) and not client_id:
        raise CredentialError("TS_ID_TOKEN and TS_AUDIENCE need TS_CLIENT_ID beside them")
    secret = client_secret or (auth_key if auth_key.startswith(CLIENT_PREFIX) else "")
    if secret:
        return _oauth_secret(secret, tuple(tags))
    if client_id:
        return _workload_identity(client_id, id_token, audience, tuple(tags), control_url, environ or {})
    return _auth_key(auth_key) if auth_key else None


def obtain(source: Credential) -> Conversation:
    """Get an auth key; raises `CredentialError`, after which one may try again."""
    if isinstance(source, AuthKey):
        return source
    if isinstance(source, OAuthSecret):
        secret = source.secret
        form = {"grant_type": "client_credentials", "client_id": "some-client-id", "client_secret": secret}
        path = "/api/v2/oauth/token"
    else:
        secret = source.id_token or (yield from _provider_token(source))
        form = {"client_id": source.client_id, "jwt": secret}
        path = "/api/v2/oauth/token-exchange"
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    response = yield HttpRequest("POST", source.wish.api_url + path, headers, urlencode(form).encode())
    token = _answer(response, "token", "access_token", secret)
    response = yield _key_request(source.wish, token)
    return AuthKey(_answer(response, "auth key", "key", token))


def _auth_key(text: str) -> AuthKey:
    for prefix in _NOT_KEYS:
        if text.startswith(prefix):
            raise CredentialError(f"TS_AUTHKEY: got a key of kind {prefix}…, want an auth key (tskey-auth-…)")
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise CredentialError("TS_AUTHKEY: has blanks or characters that no key has; is there a second line?")
    try:
        auth_key, wrapping = unwrap(text)
    except ControlError as error:
        raise CredentialError(f"TS_AUTHKEY: {error}") from None
    return AuthKey(auth_key, wrapping)


def _oauth_secret(text: str, tags: tuple[str, ...]) -> OAuthSecret:
    secret, _, query = text.partition("?")
    attributes = _attributes(query, ("ephemeral", "preauthorized", "baseURL"))
    ephemeral = _flag(attributes, "ephemeral") if attributes.get("ephemeral") else True
    preauthorized = _flag(attributes, "preauthorized") if attributes.get("preauthorized") else False
    api_url = attributes.get("baseURL") or DEFAULT_API_URL
    return OAuthSecret(secret, _wish(ephemeral, preauthorized, tags, api_url))


def _workload_identity(
    text: str, id_token: str, audience: str, tags: tuple[str, ...], control_url: str, environ: Mapping[str, str]
) -> WorkloadIdentity:
    if not (id_token or audience):
        raise CredentialError("TS_CLIENT_ID needs TS_CLIENT_SECRET, TS_ID_TOKEN or TS_AUDIENCE beside it")
    client_id, question, query = text.partition("?")
    attributes = _attributes(query, ("ephemeral", "preauthorized"))
    ephemeral = _flag(attributes, "ephemeral") if "ephemeral" in attributes else not question
    preauthorized = _flag(attributes, "preauthorized") if "preauthorized" in attributes else False
    wish = _wish(ephemeral, preauthorized, tags, control_url)
    return WorkloadIdentity(client_id, wish, id_token.strip(), audience.strip(), environ)


def _wish(ephemeral: bool, preauthorized: bool, tags: tuple[str, ...], api_url: str) -> KeyWish:
    if not tags:
        raise CredentialError("an OAuth client or workload identity makes keys for tags only: ask for a tag (tag:name)")
    return KeyWish(ephemeral, preauthorized, tags, api_url.rstrip("/"))


def _attributes(query: str, known: Sequence[str]) -> dict[str, str]:
    parsed = parse_qs(query, keep_blank_values=True)
    for name in parsed:
        if name not in known:
            raise CredentialError(f"unknown attribute {name!r} behind the '?', want one of {', '.join(known)}")
    return {name: values[0] for name, values in parsed.items()}


def _flag(attributes: Mapping[str, str], name: str) -> bool:
    value = attributes[name]
    if value not in _TRUE | _FALSE:
        raise CredentialError(f"attribute {name}: got {value!r}, want true or false")
    return value in _TRUE


def _key_request(wish: KeyWish, token: str) -> HttpRequest:
    create = {
        "reusable": False,
        "ephemeral": wish.ephemeral,
        "preauthorized": wish.preauthorized,
        "tags": list(wish.tags),
    }
    body = json.dumps({"capabilities": {"devices": {"create": create}}}).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return HttpRequest("POST", f"{wish.api_url}/api/v2/tailnet/-/keys", headers, body)


def _provider_token(source: WorkloadIdentity) -> Generator[HttpRequest, HttpResponse | None, str]:
    """An ID token from where we run, tried in the reference's order."""
    github_url = source.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL", "")
    github_token = source.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
    if github_url and github_token:
        url = f"{github_url}{'&' if '?' in github_url else '?'}{urlencode({'audience': source.audience})}"
        headers = {"Authorization": f"Bearer {github_token}", "Accept": "application/json"}
        response = yield HttpRequest("GET", url, headers, timeout=_METADATA_TIME)
        return _answer(response, "ID token of GitHub Actions", "value", github_token)
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "1"}
    url = "http://169.254.169.254/latest/api/token"
    response = yield HttpRequest("PUT", url, lifetime, timeout=_METADATA_TIME)
    on_aws = response is not None and response.status == 200
    flavor = {"Metadata-Flavor": "Google"}
    if not on_aws:
        url = "http://metadata.google.internal/"
        response = yield HttpRequest("GET", url, flavor, timeout=_METADATA_TIME)
        if response is not None and response.headers.get("metadata-flavor") == "Google":
            query = urlencode({"audience": source.audience, "format": "full"})
            url += f"computeMetadata/v1/instance/service-accounts/default/identity?{query}"
            response = yield HttpRequest("GET", url, flavor, timeout=_METADATA_TIME)
            return _success(response, "ID token of Google Cloud", "").body.decode("latin-1").strip()
        on_aws = "ECS_CONTAINER_METADATA_URI_V4" in source.environ
    where = "on AWS we cannot ask for one" if on_aws else "neither GitHub Actions nor Google Cloud is here to ask"
    raise CredentialError(f"no ID token for TS_AUDIENCE: {where}; give TS_ID_TOKEN")


def _success(response: HttpResponse | None, what: str, secret: str) -> HttpResponse:
    if response is None:
        raise CredentialError(f"{what}: no answer")
    if response.status != 200:
        text = redact(response.text, secret)
        raise CredentialError(f"{what}: got status {response.status}, want 200: {text}")
    return response


def _answer(response: HttpResponse | None, what: str, name: str, secret: str) -> str:
    """The text called `name` in a JSON answer to a request that had `secret` in it."""
    body = _success(response, what, secret).body
    try:
        text = Fields(load(body)).text(name)
    except ControlError:  # its text would quote the answer, and a token may be in that
        raise CredentialError(f"{what}: the answer is not JSON with a text {name!r}") from None
    if not text:
        raise CredentialError(f"{what}: the answer has no {name!r}")
    return text


def redact(text: str, secret: str) -> str:
    """`text` from somebody else, without our secret if they repeat it."""
    return text.replace(secret, "…") if secret else text

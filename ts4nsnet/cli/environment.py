# SPDX-License-Identifier: BSD-3-Clause
"""The variables that a start reads: `TS_…`, with Tailscale's names and meanings, and `TS4NSNET_…`, our own.

docs/settings.md has the table. A variable that is empty is one that is not set. A wrong one ends the start with an
error that names it, shows what it got and says what it accepts; a secret is never shown.

Secrets go into `Secrets`, all else into `Settings`. What lets the node in is judged by `control.credential`, and a
proxy by `dial`, whose libraries take a third of a second to load; a plain auth key and a plain proxy, which nearly
everybody has, need no judge.

Without any variable there may still be settings: those that the same container was started with before (remember.py).
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from ts4nsnet.node import remember
from ts4nsnet.node.settings import (
    DEFAULT_CONTROL_URL,
    ENGINES,
    LOG_LEVELS,
    OFFLOADS,
    Secrets,
    Settings,
    SettingsError,
    shown,
)
from ts4nsnet.node.statefile import runtime_folder

OWN_PREFIX = "TS4NSNET_"
OWN = ("START", "ENGINE", "OFFLOADS_OFF", "EGRESS", "LOG_LEVEL")
# all that are read; TS_ is the beginning of other people's variables, too
TAILSCALES = frozenset((
    "TS_AUTHKEY", "TS_AUTH_KEY", "TS_AUTHKEY_FILE", "TS_CLIENT_ID", "TS_CLIENT_SECRET", "TS_ID_TOKEN", "TS_AUDIENCE",
    "TS_HOSTNAME", "TS_TAGS", "TS_CONTROL_URL", "TS_EXIT_NODE", "TS_STATE_DIR",
))  # fmt: skip
# a key that got into a wrong place; many could be a label
_KEY = re.compile(r"(?:ts|hs)key-")
_LABEL = re.compile(rf"(?!{_KEY.pattern})[a-z0-9](?:[a-z0-9-]{{0,61}}[a-z0-9])?")
# what Tailscale and Headscale give out; not wrapped for a locked tailnet (--TL)
_PLAIN_KEY = re.compile(r"(?!.*--TL)(?:[th]skey-auth-[\w-]+|[0-9a-f]+)", re.ASCII)
_TAG = re.compile(r"tag:[a-zA-Z][a-zA-Z0-9-]*")
_MAX_NAME = 253  # RFC 1035, 2.3.4, as text
_MAX_SECRET_BYTES = 65536  # ours: a key has a hundred, a token some thousand
_PEM = b" CERTIFICATE-----"
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_PLAIN_PROXY = re.compile(r"(?:https?://)?(?:[\w.~%:-]*@)?[\w.-]+(?::[1-5]?\d{1,4})?/?", re.ASCII)
# where GitHub Actions says how to get an ID token, and with what
_GITHUB = ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN")


def read(environ: Mapping[str, str], container: str) -> tuple[Settings, Secrets]:
    """What the environment says.

    Args:
        environ: the variables.
        container: what tells this container from others; "" if nothing does.

    Returns:
        the settings, with the defaults for all that comes from the command line, and the secrets.

    Raises:
        SettingsError: a variable is missing or wrong.
        StateError: the runtime folder is not ours alone.
    """
    secrets = _secrets(environ)
    folder = runtime_folder(environ)
    if not environ.get("TS_HOSTNAME") and not secrets.given:
        known = remember.recall(folder, container)
        if known is not None:
            return replace(known, notes=()), secrets
    settings = _settings(environ, str(folder), container)
    if not secrets.given and not (settings.state_dir and Path(settings.state_dir, "identity.json").exists()):
        want = "an auth key; or TS_AUTHKEY_FILE, TS_CLIENT_SECRET, or TS_CLIENT_ID with TS_ID_TOKEN or TS_AUDIENCE"
        raise SettingsError("TS_AUTHKEY", "nothing", want)
    _judge(secrets, settings)
    return replace(settings, credential_hash=secrets.hash()), secrets


def document(settings: Settings, secrets: Secrets) -> bytes:
    """What `keeper.launch` hands on to the node's process; it holds secrets."""
    return json.dumps({"settings": settings.to_json(), "secrets": secrets.to_json()}).encode()


def without_ours(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for somebody else: without a variable that is for us."""
    return {
        name: value for name, value in environ.items() if name not in TAILSCALES and not name.startswith(OWN_PREFIX)
    }


def _settings(environ: Mapping[str, str], folder: str, container: str) -> Settings:
    _choice(environ, "TS4NSNET_EGRESS", ("none",), ": the way out through the host is not there yet")
    state_dir = _state_dir(environ)
    return Settings(
        hostname=_hostname(environ),
        control_url=_control_url(environ),
        exit_node=_exit_node(environ),
        tags=_tags(environ),
        ephemeral=not state_dir,
        state_dir=state_dir,
        start_now=bool(_choice(environ, "TS4NSNET_START", ("now",))),
        engine=_choice(environ, "TS4NSNET_ENGINE", ENGINES) or "auto",
        offloads_off=_offloads_off(environ),
        container=container,
        runtime_folder=folder,
        log_level=_choice(environ, "TS4NSNET_LOG_LEVEL", LOG_LEVELS) or "info",
        environ=tuple(pair for pair in _network(environ) if not _has_password(*pair)),
        notes=(*_proxies(environ), *_unknown(environ)),
    )


def _secrets(environ: Mapping[str, str]) -> Secrets:
    github = ((name, environ[name]) for name in _GITHUB if environ.get(name))
    return Secrets(
        auth_key=_auth_key(environ),
        client_id=environ.get("TS_CLIENT_ID", ""),
        client_secret=_secret(environ, "TS_CLIENT_SECRET"),
        id_token=_secret(environ, "TS_ID_TOKEN"),
        audience=environ.get("TS_AUDIENCE", ""),
        environ=(*(pair for pair in _network(environ) if _has_password(*pair)), *github),
    )


def _judge(secrets: Secrets, settings: Settings) -> None:
    """Raise the error that the node's process would have, sooner."""
    given = {name: getattr(secrets, name) for name in Secrets.CREDENTIALS if getattr(secrets, name)}
    if given.keys() <= {"auth_key"} and (not given or _PLAIN_KEY.fullmatch(secrets.auth_key)):
        return
    from ts4nsnet.control import credential

    credential(**given, tags=settings.tags, control_url=settings.control_url)


def _auth_key(environ: Mapping[str, str]) -> str:
    name = "TS_AUTHKEY" if environ.get("TS_AUTHKEY") else "TS_AUTH_KEY"
    key, path = _secret(environ, name), environ.get("TS_AUTHKEY_FILE", "")
    if key and path:
        raise SettingsError("TS_AUTHKEY_FILE", f"a file beside {name}", "one of both: remove the other")
    return _content("TS_AUTHKEY_FILE", path) if path else key


def _secret(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "")
    return _content(name, value.removeprefix("file:")) if value.startswith("file:") else value


def _content(name: str, path: str) -> str:
    # what is to be read, and nothing around it; a FIFO that nobody writes to must not stop us
    try:
        with open(path, "rb", opener=_at_once) as file:
            text = (file.read(_MAX_SECRET_BYTES) or b"").decode().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise SettingsError(name, f"{shown(path)} ({reason})", "the path of a readable file") from None
    if not text:
        raise SettingsError(name, f"{shown(path)}, which is empty", "a file with the secret in it")
    return text


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _hostname(environ: Mapping[str, str]) -> str:
    text = environ.get("TS_HOSTNAME", "")
    if not (text.isascii() and _LABEL.fullmatch(text.lower())):
        want = "the name that the container shall have in the tailnet: 1 to 63 of a-z, 0-9 and, not at an end, '-'"
        raise SettingsError("TS_HOSTNAME", shown(text) if text else "nothing", want)
    return text.lower()


def _control_url(environ: Mapping[str, str]) -> str:
    text = environ.get("TS_CONTROL_URL") or DEFAULT_CONTROL_URL
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    fits = fits and text.isascii() and text.isprintable() and " " not in text
    if fits and _KEY.match(parts.hostname or ""):  # which a name server would be asked for
        raise SettingsError("TS_CONTROL_URL", "a key in place of a host", "http://HOST[:PORT] or https://HOST[:PORT]")
    if not fits or parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        got = "a URL with a user's name" if "@" in text else shown(text)
        raise SettingsError("TS_CONTROL_URL", got, "http://HOST[:PORT] or https://HOST[:PORT]")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def _exit_node(environ: Mapping[str, str]) -> str:
    text = environ.get("TS_EXIT_NODE", "")
    if text and not _is_address(text) and not _is_name(text.removesuffix(".")):
        raise SettingsError("TS_EXIT_NODE", shown(text), "the name of a node, or its IP address in the tailnet")
    return text.removesuffix(".").lower()


def _is_address(text: str) -> bool:
    try:
        return "%" not in str(ip_address(text))
    except ValueError:
        return False


def _is_name(text: str) -> bool:
    labels = text.lower().split(".")
    fits = text.isascii() and len(text) <= _MAX_NAME and all(map(_LABEL.fullmatch, labels))
    return fits and not labels[-1].isdecimal()  # as the end of an address that is none


def _tags(environ: Mapping[str, str]) -> tuple[str, ...]:
    tags = [tag.strip() for tag in environ.get("TS_TAGS", "").split(",") if tag.strip()]
    for tag in tags:
        if not _TAG.fullmatch(tag):
            raise SettingsError("TS_TAGS", shown(tag), "tag:NAME, several with commas between them")
    return tuple(dict.fromkeys(tags))


def _offloads_off(environ: Mapping[str, str]) -> tuple[str, ...]:
    names = [name.strip() for name in environ.get("TS4NSNET_OFFLOADS_OFF", "").split(",") if name.strip()]
    for name in names:
        if name not in OFFLOADS:
            raise SettingsError("TS4NSNET_OFFLOADS_OFF", shown(name), f"one or more of {','.join(OFFLOADS)}")
    return tuple(dict.fromkeys(names))


def _state_dir(environ: Mapping[str, str]) -> str:
    text = environ.get("TS_STATE_DIR", "")
    if text and not (os.path.isabs(text) and os.path.isdir(os.path.dirname(os.path.normpath(text)))):
        raise SettingsError("TS_STATE_DIR", shown(text), "an absolute path; all but its last folder must be there")
    return os.path.normpath(text) if text else ""


def _choice(environ: Mapping[str, str], name: str, choices: tuple[str, ...], why: str = "") -> str:
    value = environ.get(name, "")
    if value and value not in choices:
        raise SettingsError(name, shown(value), " or ".join(choices) + why)
    return value


def _network(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    """The variables that say how to reach servers, and which to trust."""
    names = (*_PROXIES, *(name.lower() for name in _PROXIES))
    return [*_certificates(environ), *((name, environ[name]) for name in names if environ.get(name))]


def _certificates(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    # absolute: the node's process is in another folder
    found = []
    if path := environ.get("SSL_CERT_FILE"):
        try:
            with open(path, "rb", opener=_at_once) as file:
                why = "" if _PEM in (file.read() or b"") else "no certificate in it"
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
        if why:
            raise SettingsError("SSL_CERT_FILE", f"{shown(path)} ({why})", "a readable file of PEM certificates")
        found.append(("SSL_CERT_FILE", os.path.abspath(path)))
    folders = [path for path in environ.get("SSL_CERT_DIR", "").split(":") if path]
    for path in folders:
        try:
            os.listdir(path)
        except (OSError, ValueError) as error:
            got = f"{shown(path)} ({getattr(error, 'strerror', None) or error})"
            raise SettingsError("SSL_CERT_DIR", got, "a readable folder, several with ':' between them") from None
    if folders:
        found.append(("SSL_CERT_DIR", ":".join(map(os.path.abspath, folders))))
    return found


def _proxies(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Raise the error that the first dialling would end in, sooner; and note what is passed over."""
    notes = []
    for name in _PROXIES[:3]:
        url = environ.get(name) or environ.get(name.lower())
        if not url or _PLAIN_PROXY.fullmatch(url):
            continue
        from ts4nsnet.dial import proxy_for

        if proxy_for("control.invalid", 443, tls=name != "HTTP_PROXY", environ={name: url}) is None:
            notes.append(("info", f"{name}: neither http nor https, so no proxy that we could use: passed over"))
    return tuple(notes)


def _has_password(name: str, value: str) -> bool:
    return name.upper() in _PROXIES[:3] and "@" in value


def _unknown(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    known = {OWN_PREFIX + name for name in OWN}
    names = sorted(name for name in environ if name.startswith(OWN_PREFIX) and name not in known)
    return tuple(("info", f"{name} is no variable of ours: ignored") for name in names)

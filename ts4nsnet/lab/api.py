# SPDX-License-Identifier: BSD-3-Clause
"""The JSON API, shaped after Tailscale's public one, so what scripts know of that works here.

    POST   /api/v2/oauth/token, /oauth/token-exchange      an access token for a client's secret, for an id token
    GET    /api/v2/tailnet/-/keys          POST: a new one {"keyType": "auth" | "client" | "federated", …}
    GET    /api/v2/tailnet/-/keys/<id>     DELETE
    GET    /api/v2/tailnet/-/devices
    GET    /api/v2/tailnet/-/acl           POST: another policy file
    GET    /api/v2/device/<id>             DELETE
    GET    /api/v2/device/<id>/routes      POST {"routes": ["10.0.0.0/8"]}: approve these
    POST   /api/v2/device/<id>/expire      now
    POST   /api/v2/device/<id>/key         {"keyExpiryDisabled": true}, or {"expiry": "2030-01-01T00:00:00Z"} (ours)

    GET    /api/v2/lab/counters                              (ours) how often what has happened, refusals above all

Who calls shows the administrator's token, as `Authorization: Bearer` or as the password of Basic; or, to make auth keys
with its own tags, an access token. Ours beside the public API: `user`, the owner of nodes that join with a key, and
`tokens`, what a federated identity believes.

Source: Tailscale's public API documentation; control.md 1.2.
"""

import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from ipaddress import ip_network
from urllib.parse import unquote

from ts4nsnet.keys import NODE_PREFIX
from ts4nsnet.lab.control import Coordinator
from ts4nsnet.lab.credentials import ACCESS_TIME, DEFAULT_KEY_TIME, Access, KeyWish, Secret
from ts4nsnet.lab.errors import PolicyError, Refused
from ts4nsnet.lab.http import JSON_TYPE, Request, Response
from ts4nsnet.lab.model import DEFAULT_USER, AuthKey, Credential, Node, Prefix
from ts4nsnet.lab.requests import MAX_SECRET_CHARACTERS, Fields, load
from ts4nsnet.lab.responses import Json, stable_id, time_text

PREFIX = "/api/v2/"
MAX_KEY_TIME = 10 * 366 * 86400


class Api:
    """The JSON API of a tailnet.

    Args:
        coordinator: whose.
        token: the administrator's.
    """

    def __init__(self, coordinator: Coordinator, token: str) -> None:
        self._coordinator = coordinator
        self._token = token

    def handle(self, request: Request, now: float) -> Response:
        """Answer a request below PREFIX; errors are JSON as well."""
        try:
            return _json(200, self._route(request, request.path.removeprefix(PREFIX).split("/"), now))
        except Refused as refused:
            return _json(refused.status, {"message": str(refused)})
        except PolicyError as error:
            return _json(400, {"message": str(error)})

    def is_administrator(self, request: Request) -> bool:
        """Whether a request shows the administrator's token."""
        return self.is_token(shown_token(request))

    def is_token(self, text: str) -> bool:
        """Whether this is the administrator's token."""
        return bool(text) and hmac.compare_digest(text.encode(errors="replace"), self._token.encode())

    def _route(self, request: Request, path: list[str], now: float) -> object:
        match request.method, path:
            case "POST", ["oauth", "token"]:
                return self._token_for_secret(request, now)
            case "POST", ["oauth", "token-exchange"]:
                return self._token_for_token(request, now)
            case "POST", ["tailnet", _, "keys"] if not self.is_administrator(request):
                access = self._coordinator.keyring.access(shown_token(request), self._coordinator.wall(now))
                if access is not None:
                    return self._create_key(load(request.body), access, now)
        if not self.is_administrator(request):
            raise Refused(401, "want the administrator's token, from the file api-token, as Authorization: Bearer")
        match path:
            case ["tailnet", _, "keys", *rest]:
                return self._keys(request, rest, now)
            case ["tailnet", _, "devices"] if request.method == "GET":
                nodes = self._coordinator.directory.nodes.values()
                return {"devices": [self._device(node, now) for node in nodes]}
            case ["tailnet", _, "acl"]:
                return self._policy(request, now)
            case ["lab", "counters"] if request.method == "GET":
                return dict(sorted(self._coordinator.counters.items()))
            case ["device", node_id, *rest]:
                return self._device_call(request, self._node(node_id), rest, now)
        raise Refused(404, "no such call")

    # --- keys ---------------------------------------------------------------------------------------------------------

    def _token_for_secret(self, request: Request, now: float) -> Json:
        secret = request.form().get("client_secret") or shown_token(request)
        return _access(self._coordinator.keyring.access_for_secret(secret, self._coordinator.wall(now)))

    def _token_for_token(self, request: Request, now: float) -> Json:
        form = request.form()
        client_id, token = form.get("client_id", ""), form.get("jwt", "")
        client_id = client_id.partition("?")[0]  # attributes of the nodes to come, which the client reads itself
        return _access(self._coordinator.keyring.access_for_token(client_id, token, self._coordinator.wall(now)))

    def _keys(self, request: Request, rest: list[str], now: float) -> object:
        keyring = self._coordinator.keyring
        known = {key.key_id: _key_json(key) for key in keyring.keys}
        known |= {each.credential_id: _credential_json(each) for each in keyring.credentials}
        match request.method, rest:
            case "GET", []:
                return {"keys": list(known.values())}
            case "GET", [key_id] if key_id in known:
                return known[key_id]
            case "DELETE", [key_id]:
                keyring.delete(key_id)
                return {}
            case "POST", []:
                return self._create(load(request.body), now)
        raise Refused(404, "no such key, or no such call")

    def _create(self, fields: Fields, now: float) -> Json:
        wall, keyring = self._coordinator.wall(now), self._coordinator.keyring
        description = fields.shown("description")
        match fields.text("keyType") or "auth":
            case "auth":
                return self._create_key(fields, None, now)
            case "client":
                client, secret = keyring.create_client(fields.texts("tags") or (), description, wall)
                return _credential_json(client) | {"key": secret.text}
            case "federated":
                tokens = fields.texts("tokens", MAX_SECRET_CHARACTERS) or ()
                return _credential_json(keyring.create_federated(fields.texts("tags") or (), tokens, description, wall))
        raise Refused(400, "keyType: want auth, client or federated")

    def _create_key(self, fields: Fields, access: Access | None, now: float) -> Json:
        capabilities = fields.object("capabilities")
        devices = capabilities.object("devices") if capabilities else None
        create = devices.object("create") if devices else None
        if create is None:
            raise Refused(400, "capabilities.devices.create: missing")
        seconds = fields.integer("expirySeconds") or int(DEFAULT_KEY_TIME)
        if seconds > MAX_KEY_TIME:
            raise Refused(400, f"expirySeconds: want at most {MAX_KEY_TIME}")
        tags = create.texts("tags") or ()
        if access is not None and (not tags or not set(tags) <= set(access.tags)):
            raise Refused(400, f"tags: want some of the credential's own: {', '.join(access.tags)}")
        wish = KeyWish(
            reusable=create.flag("reusable"),
            ephemeral=create.flag("ephemeral"),
            tags=tags,
            login=(fields.shown("user") if access is None else "") or DEFAULT_USER,
            valid_time=seconds,
            description=fields.shown("description"),
        )
        key, secret = self._coordinator.keyring.create_key(wish, self._coordinator.wall(now))
        return _key_json(key) | {"key": secret.text}

    # --- devices and policy -------------------------------------------------------------------------------------------

    def _node(self, name: str) -> Node:
        for node in self._coordinator.directory.nodes.values():
            if name in (str(node.node_id), stable_id(node)):
                return node
        raise Refused(404, "no device has this id")

    def _device_call(self, request: Request, node: Node, rest: list[str], now: float) -> object:
        coordinator = self._coordinator
        match request.method, rest:
            case "GET", []:
                return self._device(node, now)
            case "DELETE", []:
                coordinator.delete(node.node_id, now)
            case "POST", ["expire"]:
                coordinator.expire(node.node_id, coordinator.wall(now), now)
            case "POST", ["key"]:
                fields = load(request.body)
                expires_at = None if fields.flag("keyExpiryDisabled") else fields.time("expiry")
                if expires_at is None and not fields.flag("keyExpiryDisabled"):
                    raise Refused(400, "want keyExpiryDisabled, or a time as expiry")
                coordinator.expire(node.node_id, expires_at, now)
            case "POST", ["routes"]:
                coordinator.approve_routes(node.node_id, _routes(load(request.body)), now)
                return _routes_json(node)
            case "GET", ["routes"]:
                return _routes_json(node)
            case _:
                raise Refused(404, "no such call")
        return {}

    def _device(self, node: Node, now: float) -> Json:
        """A device as the public API shows it."""
        suffix, wall = self._coordinator.settings.suffix, self._coordinator.wall(now)
        value: Json = {
            "id": str(node.node_id),
            "nodeId": stable_id(node),
            "name": f"{node.label}.{suffix}",
            "hostname": node.hostname,
            "user": node.login,
            "tags": node.tags,
            "addresses": [str(node.ipv4), str(node.ipv6)],
            "nodeKey": node.key.to_text(NODE_PREFIX),
            "clientVersion": node.hostinfo.version,
            "os": node.hostinfo.os,
            "created": time_text(node.created_at),
            "lastSeen": time_text(node.last_seen_at),
            "connectedToControl": node.online,
            "isEphemeral": node.ephemeral,
            "keyExpiryDisabled": node.key_expires_at is None,
            "expired": node.is_expired(wall),
            "clientConnectivity": {"endpoints": node.endpoints, "derp": node.home_derp},
        }
        if node.key_expires_at is not None:
            value["expires"] = time_text(node.key_expires_at)
        return value | _routes_json(node)

    def _policy(self, request: Request, now: float) -> object:
        if request.method == "POST":
            self._coordinator.set_policy(request.body.decode(errors="replace"), now)
        elif request.method != "GET":
            raise Refused(404, "no such call")
        return {"policy": self._coordinator.state.policy}


def shown_token(request: Request) -> str:
    """The secret in a request's Authorization header: a bearer token, or Basic's password, or its name alone."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(value.strip(), validate=True).decode(errors="replace").partition(":")
        except (binascii.Error, ValueError):
            return ""
        return unquote(password or name)
    return ""


def _json(status: int, value: object) -> Response:
    return Response(status, json.dumps(value).encode() + b"\n", JSON_TYPE)


def _access(token: Secret) -> Json:
    return {"access_token": token.text, "token_type": "Bearer", "expires_in": int(ACCESS_TIME), "scope": "auth_keys"}


def _routes(fields: Fields) -> frozenset[Prefix]:
    try:
        return frozenset(ip_network(route) for route in fields.texts("routes") or ())
    except ValueError:
        raise Refused(400, "routes: want prefixes without host bits") from None


def _routes_json(node: Node) -> Json:
    return {
        "advertisedRoutes": [str(route) for route in node.hostinfo.routes],
        "enabledRoutes": sorted(map(str, node.approved)),
    }


def _key_json(key: AuthKey) -> Json:
    create: Mapping[str, object] = {
        "reusable": key.reusable,
        "ephemeral": key.ephemeral,
        "preauthorized": True,
        "tags": key.tags,
    }
    return {
        "id": key.key_id,
        "keyType": "auth",
        "created": time_text(key.created_at),
        "expires": time_text(key.expires_at),
        "description": key.description,
        "user": key.login,
        "used": key.used,
        "capabilities": {"devices": {"create": create}},
    }


def _credential_json(credential: Credential) -> Json:
    return {
        "id": credential.credential_id,
        "keyType": "federated" if credential.federated else "client",
        "created": time_text(credential.created_at),
        "description": credential.description,
        "tags": credential.tags,
        "scopes": ["auth_keys"],
    }

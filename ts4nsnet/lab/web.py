# SPDX-License-Identifier: BSD-3-Clause
"""Everything that is asked over plain HTTPS and answered at once: server key, probes, pages, and the JSON API.

    GET  /                    the nodes, anew every five seconds
    GET  /register/<id>       login page of a node that joins without a key; POST lets it in
    GET  /key                 the control server's public key
    GET  /derp/probe, /derp/latency-check, /generate_204, /bootstrap-dns      what clients ask of a relay's host
    HEAD, POST /machine/ping/<id>                                             a node answers a ping, not over Noise
    …    /api/v2/…            api.py

The page with the nodes has no secrets, and is open to whoever reaches the address; what changes anything wants the
administrator's token, also the login page, as a password. Pages have no scripts, and may not be framed.

Source: control.md 2.1, 3.6, 10.1; derp.md 1.1.
"""

import html
import json
import re

from ts4nsnet.lab.api import PREFIX, Api
from ts4nsnet.lab.control import PING_PATH, Coordinator
from ts4nsnet.lab.errors import Refused
from ts4nsnet.lab.http import JSON_TYPE, Request, Response, text_response
from ts4nsnet.lab.model import DEFAULT_USER, Node
from ts4nsnet.lab.registration import LOGIN_PATH
from ts4nsnet.lab.requests import clean
from ts4nsnet.lab.responses import key_document, time_text

HTML_TYPE = "text/html; charset=utf-8"
OLDEST_NOISE_VERSION = 39  # below, clients want another key (control.md 2.1)
PROBES = ("/derp/probe", "/derp/latency-check")
_CHALLENGE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_SAFE = (
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
)
_STYLE = "body{font:15px sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}tr.off{color:#888}"


class Web:
    """The pages and small answers of a tailnet.

    Args:
        coordinator: whose.
        token: the administrator's.
    """

    def __init__(self, coordinator: Coordinator, token: str) -> None:
        self._coordinator = coordinator
        self._api = Api(coordinator, token)

    def handle(self, request: Request, now: float) -> Response:
        """Answer a request."""
        try:
            is_api = request.path.startswith(PREFIX)
            response = self._api.handle(request, now) if is_api else self._answer(request, now)
        except Refused as refused:
            response = text_response(refused.status, str(refused))
        self._coordinator.counters[f"http: {response.status}"] += 1
        return response

    def _answer(self, request: Request, now: float) -> Response:
        path, get = request.path, request.method in ("GET", "HEAD")
        if path in PROBES:
            return Response(200, headers=(("Access-Control-Allow-Origin", "*"),)) if get else text_response(405, "GET")
        if path.startswith(PING_PATH) and request.method in ("HEAD", "GET", "POST"):
            self._coordinator.answer_ping(path, None, request.body)
            return Response(200)
        if path.startswith(LOGIN_PATH):
            return self._login(request, path.removeprefix(LOGIN_PATH), now)
        if get:
            match path:
                case "/":
                    return self._page(now)
                case "/key":
                    return self._key(request)
                case "/generate_204":
                    return _generate_204(request)
                case "/bootstrap-dns":
                    return Response(200, b"{}", JSON_TYPE)
                case "/robots.txt":
                    return text_response(200, "User-agent: *\nDisallow: /")
                case "/ts2021" | "/derp":
                    return text_response(426, "this address speaks another protocol; want Upgrade")
        raise Refused(404, "not found")

    def _key(self, request: Request) -> Response:
        version = request.query.get("v", "")
        if not (version.isascii() and version.isdigit() and OLDEST_NOISE_VERSION <= int(version[:6]) < 65536):
            raise Refused(400, "v: want the client's capability version")
        return Response(200, json.dumps(key_document(self._coordinator.state.noise_key.public)).encode(), JSON_TYPE)

    def _login(self, request: Request, login_id: str, now: float) -> Response:
        coordinator = self._coordinator
        login = coordinator.registrar.login(login_id, coordinator.wall(now))
        if login is None:
            raise Refused(404, "no such login is pending; start it again")
        hostinfo = login.request.hostinfo
        name = html.escape(hostinfo.hostname if hostinfo else "a device")
        if request.method == "GET":
            return _page(f"Let {name} in?", _LOGIN_FORM.replace("USER", html.escape(DEFAULT_USER)))
        if request.method != "POST":
            raise Refused(405, "want GET or POST")
        form = request.form()
        if not self._api.is_token(form.get("token", "")):
            return _page("Not let in", "<p>That is not the token in the file <code>api-token</code>.</p>", 403)
        node = coordinator.approve_login(login_id, clean(form.get("user", "")) or DEFAULT_USER, now)
        return _page(f"{html.escape(node.label)} is in", "<p>You may close this page.</p>")

    def _page(self, now: float) -> Response:
        coordinator = self._coordinator
        nodes = sorted(coordinator.directory.nodes.values(), key=lambda node: node.label)
        wall, suffix = coordinator.wall(now), coordinator.settings.suffix
        heads = ("name", "addresses", "owner", "state", "last seen", "routes", "relay", "endpoints")
        head = "".join(f"<th>{each}</th>" for each in heads)
        rows = "".join(_row(node, wall) for node in nodes)
        online = sum(node.online for node in nodes)
        count = f"<p>{len(nodes)} nodes, {online} online, in {html.escape(suffix)}</p>"
        return _page("Tailnet", f"{count}<table><tr>{head}</tr>{rows}</table>", refresh=True)


_LOGIN_FORM = (
    '<form method="post"><p>User <input name="user" value="USER"></p>'
    '<p>Token <input name="token" type="password"> (from the file <code>api-token</code>)</p>'
    "<p><button>Let in</button></p></form>"
)


def _row(node: Node, wall: float) -> str:
    state = "expired" if node.is_expired(wall) else "online" if node.online else "offline"
    cells = (
        node.label,
        f"{node.ipv4} {node.ipv6}",
        " ".join(node.tags) or node.login,
        state + (", ephemeral" if node.ephemeral else ""),
        time_text(node.last_seen_at),
        " ".join(map(str, node.routes)),
        str(node.home_derp or ""),
        " ".join(node.endpoints),
    )
    kind = "" if state == "online" else ' class="off"'
    return f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _page(title: str, body: str, status: int = 200, *, refresh: bool = False) -> Response:
    """A page; `title` and `body` are HTML."""
    again = '<meta http-equiv="refresh" content="5">' if refresh else ""
    head = f'<meta charset="utf-8">{again}<title>{title}</title><style>{_STYLE}</style>'
    text = f'<!doctype html><html lang="en"><head>{head}</head><body><h1>{title}</h1>{body}</body></html>'
    return Response(status, text.encode(), HTML_TYPE, _SAFE)


def _generate_204(request: Request) -> Response:
    """What tells a client that no captive portal is in between."""
    headers = [("Cache-Control", "no-cache, no-store, must-revalidate, no-transform, max-age=0")]
    challenge = request.headers.get("x-tailscale-challenge", "")
    if _CHALLENGE.fullmatch(challenge):
        headers.append(("X-Tailscale-Response", f"response {challenge}"))
    return Response(204, headers=tuple(headers))

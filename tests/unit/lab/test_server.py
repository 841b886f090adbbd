# SPDX-License-Identifier: BSD-3-Clause
"""The whole lab on real sockets of this machine: joining, staying, restarting, and everything on one port."""

import base64
import json
import ssl
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from tests.unit.lab.clients import Node, call_api, control, dial, fetch, new_key, server_key, stun_request, until
from ts4nsnet.control.errors import HandshakeFailed
from ts4nsnet.control.session import ClientSession
from ts4nsnet.control.ts2021 import Channel, ClientHandshake
from ts4nsnet.lab import LabError, PolicyError, Refused, Settings, StateError, Tailnet


@pytest.fixture
def random() -> Random:
    return Random(7)


def address_of(tailnet: Tailnet) -> tuple[str, int]:
    url = urlsplit(tailnet.control_url)
    assert url.hostname is not None
    assert url.port is not None
    return url.hostname, url.port


async def test_two_nodes_join_and_see_each_other(tmp_path: Path, random: Random) -> None:
    alice, bob = Node("alice", random), Node("bob", random)
    async with (
        Tailnet(tmp_path) as tailnet,
        control(tailnet, alice.machine, random) as one,
        control(tailnet, bob.machine, random) as two,
    ):
        status, body = await one.call("/machine/register", alice.register(tailnet.auth_key()))
        assert (status, json.loads(body)["MachineAuthorized"]) == (200, True)
        poll = await one.start("/machine/map", alice.poll())
        first = await one.next_message(poll)
        assert first is not None
        assert first["Node"]["Name"] == "alice.lab.internal."
        await two.call("/machine/register", bob.register(tailnet.auth_key()))
        assert await two.call("/machine/map", bob.map(OmitPeers=True)) == (200, b"")
        with trio.fail_after(1.0):
            delta = await one.next_message(poll)
        assert delta is not None
        assert [peer["Name"] for peer in delta["PeersChanged"]] == ["bob.lab.internal."]
        assert [(node.name, node.online) for node in tailnet.nodes()] == [
            ("alice.lab.internal", True),
            ("bob.lab.internal", False),
        ]


async def test_everything_survives_a_restart(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet:
        listen, key, token, ca = address_of(tailnet), tailnet.kept_auth_key, tailnet.api_token, tailnet.ca.read_bytes()
        noise_key = await server_key(tailnet)
        tailnet.set_policy({"acls": []})
        async with control(tailnet, alice.machine, random) as client:
            await client.call("/machine/register", alice.register(key))
            await client.next_message(await client.start("/machine/map", alice.poll()))
            before = tailnet.nodes()
    async with Tailnet(tmp_path, listen) as tailnet:
        assert (tailnet.kept_auth_key, tailnet.api_token, tailnet.ca.read_bytes()) == (key, token, ca)
        assert await server_key(tailnet) == noise_key
        assert tailnet.nodes() == before
        async with control(tailnet, alice.machine, random) as client:
            first = await client.next_message(await client.start("/machine/map", alice.poll()))
        assert first is not None
        assert first["PacketFilters"] == {"base": []}


async def test_clients_of_a_server_that_ends_see_the_end(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        stream = await dial(tailnet)
    async with stream:
        assert await ends(stream)


async def finish(handshake: ClientHandshake, stream: trio.abc.ReceiveStream) -> Channel:
    """Read until the channel stands."""
    while (channel := handshake.receive(bytes(await stream.receive_some()))) is None:
        pass
    return channel


async def ends(stream: trio.abc.ReceiveStream) -> bool:
    """Whether the server closes the connection soon."""
    with trio.fail_after(2.0):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:  # without TLS's good-bye
            return True
    return True


async def test_logout_and_deletion_close_relay_connections(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet, control(tailnet, alice.machine, random) as client:
        await client.call("/machine/register", alice.register(tailnet.auth_key()))
        await client.call("/machine/register", alice.register(Expiry="1970-01-01T00:02:03Z"))
        assert tailnet.nodes() == []
        assert (await client.call("/machine/map", alice.map(OmitPeers=True)))[0] == 404


async def test_login_page(tmp_path: Path, random: Random) -> None:
    alice = Node("al<ice", random)
    async with Tailnet(tmp_path) as tailnet, control(tailnet, alice.machine, random) as client:
        _, body = await client.call("/machine/register", alice.register())
        url = json.loads(body)["AuthURL"]
        path = url.removeprefix(tailnet.control_url)
        waiting = await client.start("/machine/register", alice.register(Followup=url))
        page = await fetch(tailnet, "GET", path)
        assert "al&lt;ice" in page.body.decode()
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert (await fetch(tailnet, "POST", path, b"token=wrong&user=a", form)).status == 403
        answer = await fetch(tailnet, "POST", path, f"token={tailnet.api_token}&user=a%40lab".encode(), form)
        assert "al-ice is in" in answer.body.decode()
        _, body = await client.finish(waiting)
        assert json.loads(body)["Login"]["LoginName"] == "a@lab"
        assert (await fetch(tailnet, "GET", "/register/unknown")).status == 404
        assert (await fetch(tailnet, "PUT", path)).status == 405


async def test_login_by_direct_call(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet, control(tailnet, alice.machine, random) as client:
        _, body = await client.call("/machine/register", alice.register())
        tailnet.approve_login(json.loads(body)["AuthURL"], "bob@lab")
        assert [node.login for node in tailnet.nodes()] == ["bob@lab"]
        with pytest.raises(Refused):
            tailnet.approve_login("https://elsewhere/")


async def test_waiting_request_of_a_client_that_left(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet:
        async with control(tailnet, alice.machine, random) as client:
            _, body = await client.call("/machine/register", alice.register())
            url = json.loads(body)["AuthURL"]
            await client.start("/machine/register", alice.register(Followup=url))
            await client.call("/machine/map", {})
        tailnet.approve_login(url)
        assert len(tailnet.nodes()) == 1


async def test_node_is_changed_and_asked_from_outside(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet, control(tailnet, alice.machine, random) as client:
        await client.call("/machine/register", alice.register(tailnet.auth_key(ephemeral=False)))
        poll = await client.start("/machine/map", alice.poll())
        await client.next_message(poll)
        node_id = tailnet.nodes()[0].node_id
        tailnet.expire(node_id, None)
        message = await client.next_message(poll)
        assert message is not None
        assert "KeyExpiry" not in message["Node"]
        tailnet.approve_routes(node_id, ["10.0.0.0/8"])

        async def answer() -> None:
            asked = await client.next_message(poll)
            assert asked is not None
            path = asked["PingRequest"]["URL"].removeprefix(tailnet.control_url)
            assert await client.call(path, b"pong") == (200, b"")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await tailnet.ping(node_id, "c2n", payload=b"GET /echo HTTP/1.1\r\n\r\n") == b"pong"
        tailnet.expire(node_id)
        message = await client.next_message(poll)
        assert message is not None
        assert "KeyExpiry" in message["Node"]
        tailnet.delete(node_id)
        assert await client.next_message(poll) is not None
        assert await client.next_message(poll) is None, "the stream has ended"


async def test_ping_is_answered_over_plain_https_too(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet, control(tailnet, alice.machine, random) as client:
        await client.call("/machine/register", alice.register(tailnet.auth_key()))
        poll = await client.start("/machine/map", alice.poll())
        await client.next_message(poll)

        async def answer() -> None:
            asked = await client.next_message(poll)
            assert asked is not None
            path = asked["PingRequest"]["URL"].removeprefix(tailnet.control_url)
            assert (await fetch(tailnet, "HEAD", path)).status == 200

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            assert await tailnet.ping(tailnet.nodes()[0].node_id) == b""


async def test_cancelled_poll_leaves_the_connection_usable(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    settings = Settings(offline_grace_time=0.02)
    async with Tailnet(tmp_path, settings=settings) as tailnet, control(tailnet, alice.machine, random) as client:
        await client.call("/machine/register", alice.register(tailnet.auth_key()))
        poll = await client.start("/machine/map", alice.poll())
        await client.next_message(poll)
        client.session.reset(poll)
        await client.flush()
        await until(lambda: not tailnet.nodes()[0].online)
        poll = await client.start("/machine/map", alice.poll())
        assert await client.next_message(poll) is not None
        assert tailnet.nodes()[0].online


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/machine/map", b"", 400),
        ("POST", "/machine/register", b"x", 400),
        ("POST", "/machine/map", b'{"Version":130,"NodeKey":"nodekey:' + b"11" * 32 + b'"}', 404),
        ("POST", "/machine/map", b'{"Version":130,"Compress":"br","NodeKey":"nodekey:' + b"11" * 32 + b'"}', 400),
        ("POST", "/machine/set-dns", b"{}", 501),
        ("GET", "/machine/tka/init/begin", b"{}", 501),
        ("PATCH", "/machine/set-device-attr", b"{}", 501),
        ("POST", "/machine/feature/query", b"{}", 501),
        ("POST", "/nothing", b"{}", 404),
        ("GET", "/machine/map", b"", 404),
        ("POST", "/machine/ping/unknown", b"", 404),
        ("POST", "/machine/register", b"[" + b"1," * 600_000 + b"1]", 413),
    ],
)
async def test_bad_requests_get_a_status_and_nothing_else(
    tmp_path: Path, random: Random, method: str, path: str, body: bytes, status: int
) -> None:
    machine = new_key(random)
    async with Tailnet(tmp_path) as tailnet, control(tailnet, machine, random) as client:
        assert (await client.call(path, body, method))[0] == status
        assert (await client.call("/machine/set-dns", b""))[0] == 501, "the connection lives on"
        assert tailnet.coordinator.counters[f"refused: {status}"] >= 1


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"Upgrade": "websocket", "Connection": "upgrade"}, 400, "unknown next protocol"),
        ({"Upgrade": "tailscale-control-protocol", "Connection": "upgrade"}, 400, "missing Tailscale handshake header"),
        (
            {
                "Upgrade": "tailscale-control-protocol",
                "Connection": "upgrade",
                "X-Tailscale-Handshake": "!",
            },
            400,
            "invalid tailscale handshake header",
        ),
        ({}, 404, "not found"),
    ],
)
async def test_upgrade_that_is_none(tmp_path: Path, headers: dict[str, str], status: int, text: str) -> None:
    async with Tailnet(tmp_path) as tailnet:
        answer = await fetch(tailnet, "POST", "/ts2021", b"", headers)
        assert answer.status == status
        assert answer.body.decode().startswith(text)
        assert (await fetch(tailnet, "GET", "/ts2021")).status == 426
        assert (await fetch(tailnet, "GET", "/derp")).status == 426
        derp = {"Upgrade": "DERP", "Connection": "Upgrade"}
        assert (await fetch(tailnet, "PUT", "/derp", b"", derp)).status == 405


async def test_wrong_server_key_is_told_as_far_as_can_be(tmp_path: Path, random: Random) -> None:
    async with Tailnet(tmp_path) as tailnet:
        handshake = ClientHandshake(new_key(random), new_key(random).public, new_key(random), 130, "lab")
        async with await dial(tailnet) as stream:
            await stream.send_all(handshake.data_to_send())
            with pytest.raises(HandshakeFailed, match="refuses the handshake"):
                await finish(handshake, stream)


async def test_broken_records_end_the_connection_alone(tmp_path: Path, random: Random) -> None:
    async with Tailnet(tmp_path) as tailnet:
        handshake = ClientHandshake(new_key(random), await server_key(tailnet), new_key(random), 130, "lab")
        async with await dial(tailnet) as stream:
            await stream.send_all(handshake.data_to_send())
            await finish(handshake, stream)
            await stream.send_all(b"\x04\x00\x20" + bytes(32))
            assert await ends(stream)
        assert tailnet.coordinator.counters["control: ControlError"] == 1
        assert (await fetch(tailnet, "GET", "/")).status == 200


async def test_client_that_opens_no_window_is_cut(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet:
        async with control(tailnet, alice.machine, random) as client:
            await client.call("/machine/register", alice.register(tailnet.auth_key(ephemeral=False)))
        handshake = ClientHandshake(alice.machine, await server_key(tailnet), new_key(random), 130, "lab")
        async with await dial(tailnet) as stream:
            await stream.send_all(handshake.data_to_send())
            channel = await finish(handshake, stream)
            session = ClientSession(channel)
            session.request("POST", "/machine/map", {}, json.dumps(alice.poll()).encode(), "lab")
            await stream.send_all(session.data_to_send())
            await until(lambda: tailnet.nodes()[0].online)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends, stream)  # reads, and says nothing: TCP goes on, HTTP/2 does not
                while not tailnet.coordinator.counters["control: Cut"]:
                    tailnet.coordinator.send(1, {"Health": ["x" * (4 << 20)]}, trio.current_time())
                    tailnet.changed()
                    await trio.testing.wait_all_tasks_blocked()


async def test_what_is_no_tls_is_closed(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        async with await trio.open_tcp_stream(*address_of(tailnet)) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            assert await ends(stream)
        assert (await fetch(tailnet, "GET", "/")).status == 200


async def test_stun_answers_on_the_same_port_number(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as datagrams:
            await datagrams.bind(("127.0.0.1", 0))
            await datagrams.connect(address_of(tailnet))
            await datagrams.send(b"nonsense")
            await datagrams.send(stun_request(b"abcdefghijkl"))
            with trio.fail_after(2.0):
                answer = await datagrams.recv(2048)
            port = int.from_bytes(answer[26:28], "big") ^ 0x2112
            assert port == datagrams.getsockname()[1]
            assert tailnet.coordinator.counters["stun dropped"] == 1


async def test_ipv6_address(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path, ("::1", 0)) as tailnet, control(tailnet, alice.machine, random) as client:
        await client.call("/machine/register", alice.register(tailnet.auth_key()))
        first = await client.next_message(await client.start("/machine/map", alice.poll()))
        assert first is not None
        [relay] = first["DERPMap"]["Regions"]["900"]["Nodes"]
        assert (relay["HostName"], relay["IPv4"], relay["IPv6"]) == ("::1", "none", "::1")
        assert relay["STUNPort"] == relay["DERPPort"] == address_of(tailnet)[1]


async def test_certificate_is_for_the_address_and_pinned_in_the_map(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet:
        async with await trio.open_ssl_over_tcp_stream(*address_of(tailnet), https_compatible=True) as stranger:
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stranger.do_handshake()
            assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        async with control(tailnet, alice.machine, random) as client:
            await client.call("/machine/register", alice.register(tailnet.auth_key()))
            first = await client.next_message(await client.start("/machine/map", alice.poll()))
    assert first is not None
    [relay] = first["DERPMap"]["Regions"]["900"]["Nodes"]
    assert relay["CertName"].startswith("sha256-raw:")
    assert relay["HostName"] == relay["IPv4"] == "127.0.0.1"


def kept_keys(directory: Path) -> list[object]:
    """The auth keys in the state file."""
    file = directory / "state.json"
    return list(json.loads(file.read_text())["keys"]) if file.exists() else []


async def test_state_file_is_written_while_the_server_runs(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        tailnet.auth_key()
        await until(lambda: len(kept_keys(tmp_path)) == 2)
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600


async def test_directory_belongs_to_one_server(tmp_path: Path) -> None:
    async with Tailnet(tmp_path):
        with pytest.raises(StateError, match="another server"):
            await Tailnet(tmp_path).__aenter__()


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "::", "192.0.2.1", "224.0.0.1"])  # noqa: S104
async def test_address_that_nobody_can_use(tmp_path: Path, host: str) -> None:
    with pytest.raises(LabError, match="listen"):
        await Tailnet(tmp_path, (host, 0)).__aenter__()


async def test_taken_port_is_reported(tmp_path: Path) -> None:
    async with Tailnet(tmp_path / "one") as tailnet:
        with pytest.raises(LabError, match="cannot listen"):
            await Tailnet(tmp_path / "two", address_of(tailnet)).__aenter__()


async def test_tailnet_that_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not run"):
        Tailnet(tmp_path).nodes()


async def test_error_inside_the_context_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(PolicyError):
        async with Tailnet(tmp_path) as tailnet:
            tailnet.set_policy("{")


# --- JSON API ---------------------------------------------------------------------------------------------------------


CREATE = {"capabilities": {"devices": {"create": {"reusable": False, "ephemeral": True, "tags": ["tag:ci"]}}}}


async def test_keys_are_made_listed_and_deleted(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        made = await call_api(tailnet, "POST", "tailnet/-/keys", CREATE | {"expirySeconds": 60, "user": "a@lab"})
        assert made.status == 200
        assert made.json["key"].startswith("tskey-auth-" + made.json["id"])
        listed = await call_api(tailnet, "GET", "tailnet/-/keys")
        assert made.json["id"] in [key["id"] for key in listed.json["keys"]]
        assert "key" not in listed.json["keys"][-1]
        one = await call_api(tailnet, "GET", f"tailnet/-/keys/{made.json['id']}")
        assert one.json["capabilities"]["devices"]["create"]["tags"] == ["tag:ci"]
        assert (await call_api(tailnet, "DELETE", f"tailnet/-/keys/{made.json['id']}")).status == 200
        assert (await call_api(tailnet, "DELETE", f"tailnet/-/keys/{made.json['id']}")).status == 404


async def test_oauth_client_makes_keys_with_its_tags(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet:
        client = (await call_api(tailnet, "POST", "tailnet/-/keys", {"keyType": "client", "tags": ["tag:ci"]})).json
        assert client["key"].startswith("tskey-client-")
        form = f"grant_type=client_credentials&client_secret={client['key']}".encode()
        token = (await fetch(tailnet, "POST", "/api/v2/oauth/token", form)).json["access_token"]
        bearer = {"Authorization": f"Bearer {token}"}
        made = await fetch(tailnet, "POST", "/api/v2/tailnet/-/keys", json.dumps(CREATE).encode(), bearer)
        async with control(tailnet, alice.machine, random) as link:
            _, body = await link.call("/machine/register", alice.register(made.json["key"]))
        assert json.loads(body)["MachineAuthorized"] is True
        assert [(node.tags, node.ephemeral) for node in tailnet.nodes()] == [(("tag:ci",), True)]
        other = {"capabilities": {"devices": {"create": {"tags": ["tag:prod"]}}}}
        refused = await fetch(tailnet, "POST", "/api/v2/tailnet/-/keys", json.dumps(other).encode(), bearer)
        assert refused.status == 400
        assert (await fetch(tailnet, "GET", "/api/v2/tailnet/-/keys", b"", bearer)).status == 401
        await call_api(tailnet, "DELETE", f"tailnet/-/keys/{client['id']}")
        again = await fetch(tailnet, "POST", "/api/v2/tailnet/-/keys", json.dumps(CREATE).encode(), bearer)
        assert again.status == 401, "its access tokens went with it"


async def test_oauth_secret_by_basic_authentication(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        client = (await call_api(tailnet, "POST", "tailnet/-/keys", {"keyType": "client", "tags": ["tag:ci"]})).json
        for name in (f"some-client-id:{client['key']}", f"{client['key']}:"):
            basic = base64.b64encode(name.encode()).decode()
            answer = await fetch(tailnet, "POST", "/api/v2/oauth/token", b"", {"Authorization": f"Basic {basic}"})
            assert answer.json["expires_in"] == 3600
        wrong = await fetch(tailnet, "POST", "/api/v2/oauth/token", b"", {"Authorization": "Basic !"})
        assert wrong.status == 401


async def test_token_exchange_believes_the_tokens_it_was_told(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        wish = {"keyType": "federated", "tags": ["tag:ci"], "tokens": ["header.claims.signature"]}
        identity = (await call_api(tailnet, "POST", "tailnet/-/keys", wish)).json
        form = f"client_id={identity['id']}%3Fephemeral%3Dtrue&jwt=header.claims.signature".encode()
        answer = await fetch(tailnet, "POST", "/api/v2/oauth/token-exchange", form)
        bearer = {"Authorization": f"Bearer {answer.json['access_token']}"}
        made = await fetch(tailnet, "POST", "/api/v2/tailnet/-/keys", json.dumps(CREATE).encode(), bearer)
        assert made.json["key"].startswith("tskey-auth-")
        for wrong in (f"client_id={identity['id']}&jwt=other", "client_id=x&jwt=header.claims.signature", ""):
            refused = await fetch(tailnet, "POST", "/api/v2/oauth/token-exchange", wrong.encode())
            assert refused.status == 401


async def test_devices_are_listed_and_changed(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    routes = {"Hostname": "alice", "RoutableIPs": ["10.0.0.0/8"]}
    async with Tailnet(tmp_path) as tailnet, control(tailnet, alice.machine, random) as client:
        await client.call("/machine/register", alice.register(tailnet.auth_key(ephemeral=False), Hostinfo=routes))
        [device] = (await call_api(tailnet, "GET", "tailnet/-/devices")).json["devices"]
        assert device["name"] == "alice.lab.internal"
        assert device["advertisedRoutes"] == ["10.0.0.0/8"]
        path = f"device/{device['id']}"
        answer = await call_api(tailnet, "POST", f"{path}/routes", {"routes": ["10.0.0.0/8"]})
        assert answer.json["enabledRoutes"] == ["10.0.0.0/8"]
        assert (await call_api(tailnet, "GET", f"{path}/routes")).json == answer.json
        assert [str(route) for node in tailnet.nodes() for route in node.routes] == ["10.0.0.0/8"]
        await call_api(tailnet, "POST", f"{path}/expire")
        assert (await call_api(tailnet, "GET", path)).json["expired"] is True
        await call_api(tailnet, "POST", f"{path}/key", {"keyExpiryDisabled": True})
        assert (await call_api(tailnet, "GET", f"device/{device['nodeId']}")).json["keyExpiryDisabled"] is True
        await call_api(tailnet, "POST", f"{path}/key", {"expiry": "2100-01-01T00:00:00Z"})
        assert (await call_api(tailnet, "GET", path)).json["expires"] == "2100-01-01T00:00:00Z"
        assert (await call_api(tailnet, "DELETE", path)).status == 200
        assert tailnet.nodes() == []


async def test_policy_is_shown_and_changed(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        assert (await call_api(tailnet, "POST", "tailnet/-/acl", {"acls": []})).status == 200
        assert json.loads((await call_api(tailnet, "GET", "tailnet/-/acl")).json["policy"]) == {"acls": []}
        refused = await call_api(tailnet, "POST", "tailnet/-/acl", {"acls": 3})
        assert (refused.status, refused.json) == (400, {"message": "acls: got 3, want a list"})


@pytest.mark.parametrize(
    ("method", "path", "value", "status"),
    [
        ("POST", "tailnet/-/keys", {}, 400),
        ("POST", "tailnet/-/keys", {"keyType": "other"}, 400),
        ("POST", "tailnet/-/keys", {"keyType": "client"}, 400),
        ("POST", "tailnet/-/keys", {"keyType": "client", "tags": ["web"]}, 400),
        ("POST", "tailnet/-/keys", {"keyType": "federated", "tags": ["tag:x"]}, 400),
        ("POST", "tailnet/-/keys", CREATE | {"expirySeconds": 10**12}, 400),
        ("POST", "tailnet/-/keys", CREATE | {"expirySeconds": "soon"}, 400),
        ("GET", "tailnet/-/keys/unknown", None, 404),
        ("GET", "device/99", None, 404),
        ("PUT", "tailnet/-/acl", None, 404),
        ("GET", "tailnet/-/other", None, 404),
        ("GET", "", None, 404),
    ],
)
async def test_bad_calls_of_the_api(tmp_path: Path, method: str, path: str, value: object, status: int) -> None:
    async with Tailnet(tmp_path) as tailnet:
        answer = await call_api(tailnet, method, path, value)
        assert answer.status == status
        assert answer.json["message"]


async def test_bad_calls_for_a_device(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet, control(tailnet, alice.machine, random) as client:
        await client.call("/machine/register", alice.register(tailnet.auth_key()))
        for path, value in (("routes", {"routes": ["x"]}), ("key", {}), ("key", {"expiry": "x"})):
            assert (await call_api(tailnet, "POST", f"device/1/{path}", value)).status == 400
        assert (await call_api(tailnet, "POST", "device/1/other")).status == 404


async def test_what_happened_is_counted(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        await fetch(tailnet, "GET", "/nothing")
        assert (await call_api(tailnet, "GET", "lab/counters")).json == {"http: 404": 1}


async def test_api_wants_its_token(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Digest x"}):
            assert (await fetch(tailnet, "GET", "/api/v2/tailnet/-/devices", b"", headers)).status == 401


# --- pages and small answers ------------------------------------------------------------------------------------------


async def test_page_shows_the_nodes(tmp_path: Path, random: Random) -> None:
    alice = Node("alice", random)
    async with Tailnet(tmp_path) as tailnet, control(tailnet, alice.machine, random) as client:
        await client.call("/machine/register", alice.register(tailnet.auth_key()))
        await client.next_message(await client.start("/machine/map", alice.poll()))
        page = (await fetch(tailnet, "GET", "/")).body.decode()
        assert "1 nodes, 1 online" in page
        assert "<td>alice</td><td>100.64.0.1 fd7a:115c:a1e0::1</td>" in page
        assert tailnet.kept_auth_key not in page


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", "/key?v=130", 200), ("GET", "/key", 400), ("GET", "/key?v=38", 400), ("GET", "/key?v=x", 400)),
        *(("GET", "/derp/probe", 200), ("HEAD", "/derp/latency-check", 200), ("POST", "/derp/probe", 405)),
        *(("GET", "/generate_204", 204), ("GET", "/bootstrap-dns", 200), ("GET", "/robots.txt", 200)),
        *(("GET", "/nothing", 404), ("POST", "/", 404), ("HEAD", "/machine/ping/x", 404)),
        ("GET", "/key?" + "&".join(f"x{number}=1" for number in range(200)), 400),
    ],
)
async def test_small_answers(tmp_path: Path, method: str, path: str, status: int) -> None:
    async with Tailnet(tmp_path) as tailnet:
        assert (await fetch(tailnet, method, path)).status == status


async def test_captive_portal_challenge_is_echoed(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet:
        answer = await fetch(tailnet, "GET", "/generate_204", b"", {"X-Tailscale-Challenge": "ts_127.0.0.1"})
        assert answer.headers["x-tailscale-response"] == "response ts_127.0.0.1"
        answer = await fetch(tailnet, "GET", "/generate_204", b"", {"X-Tailscale-Challenge": "a b"})
        assert "x-tailscale-response" not in answer.headers


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20000, b"431"),
        (b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n110000\r\n" + bytes(0x110000), b"413"),
    ],
    ids=["nonsense", "long head", "bad target", "long body"],
)
async def test_what_is_no_http_gets_an_error(tmp_path: Path, sent: bytes, status: bytes) -> None:
    async with Tailnet(tmp_path) as tailnet, await dial(tailnet) as stream:
        try:
            await stream.send_all(sent)
            assert (await stream.receive_some()).split()[1] == status
        except trio.BrokenResourceError:
            assert status == b"413", "closed while we were sending"
        counted = f"http: {status.decode()}"
        await until(lambda: tailnet.coordinator.counters[counted] == 1)


async def test_connection_serves_many_requests(tmp_path: Path) -> None:
    async with Tailnet(tmp_path) as tailnet, await dial(tailnet) as stream:
        for _ in range(3):
            await stream.send_all(
                b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 100")
            await stream.send_all(b"{}")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("kept", [b"", b" \n"], ids=["empty", "blank"])
async def test_an_empty_token_file_opens_nothing(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "api-token").write_bytes(kept)
    async with Tailnet(tmp_path) as tailnet:
        assert tailnet.api_token.startswith("tskey-api-")


async def test_a_token_file_that_is_no_text_is_no_crash(tmp_path: Path) -> None:
    (tmp_path / "api-token").write_bytes(b"\xff\xfe")
    (tmp_path / "auth-key").write_bytes(b"\xff\xfe")
    async with Tailnet(tmp_path) as tailnet:
        assert tailnet.kept_auth_key.startswith("tskey-auth-")


async def test_a_state_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)  # noqa: ASYNC240  (an instant)
    with pytest.raises(StateError, match="others"):
        async with Tailnet(tmp_path):
            pass
